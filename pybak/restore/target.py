"""The folder that is restored into: what it may be, and what its file system is like."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Final

from pybak.display import printable
from pybak.errors import PlanError

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


def ignores_case(target: bytes, *, may_write: bool) -> bool:
    """Find out whether the file system of `target` takes `a` and `A` for one name.

    Looks at what is there, up to where the file system is mounted; in an empty folder a file is
    made and removed if `may_write`.
    """
    folder = target
    device: int | None = None
    while True:
        with contextlib.suppress(OSError):
            here = os.stat(folder).st_dev
            if device is not None and here != device:
                return False
            device = here
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        for name in names:
            swapped = name.swapcase()
            if swapped != name and swapped not in names:
                return _is_same(os.path.join(folder, name), os.path.join(folder, swapped))
        if may_write and not names and os.path.isdir(folder):
            return _probe(folder)
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above


def _probe(folder: bytes) -> bool:
    probe = os.path.join(folder, b".pybak-probe-" + os.urandom(4).hex().encode())
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    try:
        return _is_same(probe, os.path.join(folder, os.path.basename(probe).upper()))
    finally:
        os.unlink(probe)


def _is_same(path: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


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
