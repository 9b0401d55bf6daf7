"""What the target's file system keeps of a file: how exact its time is, modes, hard links.

A copy is compared with its source again and again, so what the target can't keep must not count as
changed. The kind of file system is what Linux says of the mount. Of one that is not known, the time
that a folder was changed tells whether it keeps parts of seconds: ext4 with small inodes and sshfs
do not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_SECOND: Final = 1_000_000_000
_MOUNTS: Final = Path("/proc/self/mountinfo")


class Fidelity(NamedTuple):
    """`step_ns` is what times are cut to; `keeps_looks` is about owners, modes and attributes.

    Without `keeps_inodes` a file's inode may be another one when it is looked at again.
    """

    step_ns: int = 1
    keeps_looks: bool = True
    keeps_links: bool = True
    keeps_inodes: bool = True


_FAT: Final = Fidelity(2 * _SECOND, keeps_looks=False, keeps_links=False, keeps_inodes=False)
_BY_TYPE: Final = {
    "vfat": _FAT,
    "msdos": _FAT,
    "exfat": _FAT,
    "hfsplus": Fidelity(_SECOND),
    "hfs": Fidelity(_SECOND, keeps_looks=False, keeps_links=False),
    "ntfs": Fidelity(100),
    "ntfs3": Fidelity(100),
    "fuseblk": Fidelity(100, keeps_inodes=False),
    "cifs": Fidelity(100, keeps_inodes=False),
    "smb3": Fidelity(100, keeps_inodes=False),
}
"""exFAT keeps ten milliseconds, but some drivers only two seconds."""


def fidelity_of(path: bytes, mounts: Path = _MOUNTS) -> Fidelity:
    """Give what the file system of `path` keeps; of a path that is not there, that above it."""
    while not os.path.lexists(path) and path not in (b"/", b""):
        path = os.path.dirname(path)
    try:
        status = os.stat(path)
    except OSError:
        return Fidelity()
    kind = _type_of(status.st_dev, mounts)
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    step_ns = 1 if status.st_ctime_ns % _SECOND else _SECOND
    return Fidelity(step_ns, keeps_inodes=not kind.startswith("fuse"))


def _type_of(device: int, mounts: Path) -> str:
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        # proc_pid_mountinfo(5): id, parent, device, …, -, type, source, options.
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
