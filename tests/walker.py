"""Describe a tree by system calls alone, all that a tar archive keeps included."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """One path below a folder. `names` are all names of its inode in the tree, if it has more."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str | bytes | None
    device: int
    attributes: tuple[tuple[str, bytes], ...]
    names: tuple[bytes, ...]


def walk(folder: Path | bytes) -> dict[bytes, Found]:
    """Describe all below `folder`, and how names share inodes."""
    top = os.fsencode(folder)
    paths = [
        os.path.join(here, name)
        for here, folders, files in os.walk(top)
        for name in folders + files
    ]
    inodes: dict[int, list[bytes]] = {}
    for path in paths:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            inodes.setdefault(status.st_ino, []).append(os.path.relpath(path, top))
    return {os.path.relpath(path, top): _look(path, inodes) for path in paths}


def _look(path: bytes, inodes: dict[int, list[bytes]]) -> Found:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content: str | bytes | None = None
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    attributes = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
    )
    names = tuple(sorted(inodes.get(status.st_ino, ())))
    device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return Found(
        kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns,
        content, device, attributes, names if len(names) > 1 else (),
    )  # fmt: skip
