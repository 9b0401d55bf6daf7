"""Which mounted file system an open folder lies on, and what is mounted where.

A device number is not enough: a folder mounted a second time (`mount --bind`) has the same one.
Linux numbers its mounts, in proc_pid_fdinfo(5), and lists them, in proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

_MOUNT: Final = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)
_ENOUGH: Final = 4096
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")

Mount = tuple[int, int]
"""Device and number of the mount; 0 where the system does not tell the latter."""


class Place(NamedTuple):
    """Where something lies on a file system, however often and wherever that is mounted."""

    device: bytes
    path: bytes

    def below(self, other: Place) -> bytes | None:
        """Give its path from another place that it is or lies in; None if it does not.

        Network file systems may tell the same of different places: see that both are one.
        """
        if self.device != other.device or not _is_in(self.path, other.path):
            return None
        return os.path.relpath(self.path, other.path)


class Mounted(NamedTuple):
    """What is mounted at the path `point`."""

    point: bytes
    place: Place


def read_mounts(mountinfo: Path = _MOUNTINFO) -> list[Mounted]:
    """Give all mounts, the later over the earlier; none where the system does not tell."""
    try:
        lines = mountinfo.read_bytes().splitlines()
    except OSError:
        return []
    found = (line.split(b" ", 5) for line in lines)
    return [
        Mounted(_unescaped(point), Place(device, _unescaped(root)))
        for _, _, device, root, point, _ in found
    ]


def place_of(path: bytes, mounts: list[Mounted]) -> Place | None:
    """Give where an absolute path without links lies; None if no mount holds it."""
    best: Mounted | None = None
    for mounted in mounts:
        if _is_in(path, mounted.point) and (best is None or len(mounted.point) >= len(best.point)):
            best = mounted
    if best is None:
        return None
    below = os.path.relpath(path, best.point)
    return Place(best.place.device, os.path.normpath(os.path.join(best.place.path, below)))


def mounts_below(path: bytes, mounts: list[Mounted]) -> list[Mounted]:
    """Give what is mounted below an absolute path, that itself apart."""
    return [one for one in mounts if one.point != path and _is_in(one.point, path)]


def _is_in(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), field)


def mount_of(fd: int) -> Mount:
    """Give the mount that an open file or folder lies on. Raises OSError as `fstat` does."""
    return os.fstat(fd).st_dev, _number(fd)


def _number(fd: int) -> int:
    try:
        info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        found = _MOUNT.search(os.read(info, _ENOUGH))
    except OSError:
        return 0
    finally:
        os.close(info)
    return int(found[1]) if found else 0
