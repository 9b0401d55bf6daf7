"""The folder that is restored into: what it may be, and what its file system is like."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pybak.display import printable
from pybak.errors import PlanError, StorageError

_UMASK: Final = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)


def checked_target(target: bytes) -> bytes:
    """Give the absolute target; raise PlanError unless it is, or can become, a folder."""
    path = os.path.realpath(target)
    above = path
    while True:
        try:
            status = os.stat(above)
            break
        except FileNotFoundError:
            above = os.path.dirname(above)
        except NotADirectoryError:
            above = os.path.dirname(above)
        except (OSError, ValueError) as error:
            message = f"{printable(target)}: can't be the target ({error}); choose another folder"
            raise PlanError(message) from error
    if not stat.S_ISDIR(status.st_mode):
        what = "it" if above == path else printable(above)
        raise PlanError(f"{printable(target)}: {what} is a file; name a folder to restore to")
    return path


def check_writable(target: bytes, paths: Iterable[bytes]) -> None:
    """Raise StorageError if the target is there, can't be written, and holds nothing of `paths`.

    Then none of these could be made below it. What is there may be left as it is, or be a folder
    that can be written.
    """
    if not os.path.isdir(target) or os.access(target, os.W_OK | os.X_OK):
        return
    tops = {path.partition(b"/")[0] for path in paths}
    if tops and not any(os.path.lexists(os.path.join(target, top)) for top in tops):
        is_read_only = os.statvfs(target).f_flag & os.ST_RDONLY
        why = os.strerror(errno.EROFS if is_read_only else errno.EACCES).lower()
        raise StorageError(
            f"{printable(target)}: can't be written ({why}); name a folder you can write"
        )


def current_umask() -> int:
    """Give the process's umask, without changing it where the system can tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    found = _UMASK.search(text)
    if found:
        return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
