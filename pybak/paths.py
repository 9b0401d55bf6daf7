"""Paths that people name, in options and arguments, made fit to work with."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from pybak.errors import PlanError
from pybak.portable import from_portable
from pybak.storage.opening import check_address, is_remote

_NAME_BYTES: Final = 255
"""What Linux and macOS take as one name; a path that isn't there yet is told no sooner."""
_NO_MATTER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def user_path(text: str) -> Path:
    """Give the absolute path that `text` means, `~` and `~user` expanded; it may not exist.

    Afterwards `exists`, `is_dir` and their like work on it without raising.
    Raises PlanError for an unknown user, a name that is too long, a path that can't be looked at,
    and the address of a storage, also of a kind that there is none of.
    """
    if is_remote(check_address(text)):
        raise PlanError(f"{_short(text)}: is in a storage; name a local path, or ./… for a folder")
    text = from_portable(text)
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise PlanError(
            f"{_short(text)}: whose home folder is this? write the path in full"
        ) from error
    except OSError as error:  # the current folder is gone
        raise PlanError(f"{_short(text)}: {_why(error)}; write the path in full") from error
    try:
        too_long = any(len(os.fsencode(part)) > _NAME_BYTES for part in path.parts)
        path.stat()
    except OSError as error:
        if error.errno not in _NO_MATTER:
            raise PlanError(f"{_short(text)}: {_why(error)}; choose another path") from error
    except ValueError as error:
        raise PlanError(f"{_short(text)!r}: is no path; choose another one") from error
    if too_long:
        raise PlanError(f"{_short(text)}: file name too long; choose another path")
    return path


def absolute(path: bytes) -> bytes:
    """Give an archive's path made absolute; the address of one in a storage stays as it is."""
    return path if is_remote(path) else os.path.abspath(path)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:48]}...{text[-48:]}"


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
