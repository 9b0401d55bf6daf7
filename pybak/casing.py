"""Whether a file system takes `a` and `A` for one name, as FAT, SMB shares and APFS do.

What is there is asked for by its name in the other case. Where nothing has a name with letters, a
file is made and removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def ignores_case(target: bytes, *, may_write: bool, probe: bytes | None = None) -> bool:
    """Find out whether the file system of an absolute path, there or not, ignores case.

    A file is made only if `may_write`, in a folder that is empty, or where nothing tells up to
    where the file system is mounted; the folder keeps its time. It is called `probe`, which needs a
    letter, so that what a kill left is known again.
    """
    probe = probe or b".pybak-probe-" + os.urandom(4).hex().encode()
    folder = target
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    # A folder may differ from the one above it (ext4, f2fs): by itself only as long as it is empty.
    if may_write and _is_empty(folder):
        answer = _probed(folder, probe)
        if answer is not None:
            return answer
    for above in _up_to_mount(folder):
        answer = _told(above)
        if answer is not None:
            return answer
    return may_write and bool(_probed(folder, probe))


def _is_empty(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as found:
            return next(found, None) is None
    except OSError:
        return False


def _up_to_mount(folder: bytes) -> Iterator[bytes]:
    yield folder
    with suppress(OSError):
        device = os.stat(folder).st_dev
        while (above := os.path.dirname(folder)) != folder:
            if os.stat(above).st_dev != device:
                break
            yield above
            folder = above


def _told(folder: bytes) -> bool | None:
    """Ask for the first name with letters in the other case; None if there is none."""
    try:
        with os.scandir(folder) as found:
            names = (item.name for item in found)
            name = next((name for name in names if name != name.swapcase()), None)
        if name is None:
            return None
        swapped = name.swapcase()
        # Inodes would not tell: some network file systems give each name one.
        is_there = os.path.lexists(os.path.join(folder, swapped))
        return is_there and swapped not in os.listdir(folder)
    except OSError:
        return None


def _probed(folder: bytes, probe: bytes) -> bool | None:
    path = os.path.join(folder, probe)
    try:
        before = os.stat(folder)
        os.close(os.open(path, _CREATE, 0o600))
    except OSError:
        return None
    try:
        return os.path.lexists(os.path.join(folder, probe.swapcase()))
    finally:
        with suppress(OSError):
            os.unlink(path)
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
