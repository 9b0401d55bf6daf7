"""What a file that was restored or copied is given beside its content, and in which order.

Owner, then attributes, then mode, then time: a new owner takes set-id bits and capabilities away,
a mode may forbid to set attributes, and everything but the time leaves the time alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final, NamedTuple

from pybak.attributes import ACL_ACCESS, acl_mask, path_in, set_attributes
from pybak.errors import reason

NO_OWNER: Final = -1
"""Stands for a user or a group that is not known."""
SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_HAS_PATH_FDS: Final = hasattr(os, "O_PATH")
_LOOK: Final = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC


class Looks(NamedTuple):
    """Owner, mode and time to be set. `uid` and `gid` are -1 and `mode` a default if unknown.

    `done` is what was done to the file, for messages.
    """

    uid: int
    gid: int
    mode: int
    mtime_ns: int
    sets_owner: bool
    done: str = "restored"


def dress(
    fd: int,
    looks: Looks,
    xattrs: Mapping[bytes, bytes] | None,
    *,
    removes_others: bool = False,
) -> list[str]:
    """Give an open file or folder its looks and attributes; say what could not be set, and why.

    `xattrs` is None where the archive knows nothing about attributes.
    """
    notes: list[str] = []
    is_owned = False
    if looks.sets_owner and looks.uid != NO_OWNER:
        try:
            os.fchown(fd, looks.uid, looks.gid)
            is_owned = True
        except (OSError, OverflowError) as error:
            notes.append(_no_owner(looks, error))
    if xattrs is not None:
        said, looks = _give_attributes(
            fd, xattrs, looks, is_owned=is_owned, removes_others=removes_others
        )
        notes += said
    mode = looks.mode
    if mode & SET_ID and not is_owned:
        mode = without_set_id(mode, os.fstat(fd), looks.uid, looks.gid)
    try:
        os.fchmod(fd, mode)
        os.utime(fd, ns=(looks.mtime_ns, looks.mtime_ns))
    except (OverflowError, OSError) as error:
        # Some network and FAT file systems hold contents only.
        notes.append(f"{looks.done}, but its mode or time can't be set: {reason(error)}")
    return notes


def dress_named(
    folder_fd: int,
    name: bytes,
    looks: Looks,
    xattrs: Mapping[bytes, bytes] | None,
    *,
    removes_others: bool = False,
) -> list[str]:
    """Do as `dress` does for what can't be opened: links, FIFOs, devices. Links have no mode."""
    notes: list[str] = []
    is_owned = False
    if looks.sets_owner and looks.uid != NO_OWNER:
        try:
            os.chown(name, looks.uid, looks.gid, dir_fd=folder_fd, follow_symlinks=False)
            is_owned = True
        except (OSError, OverflowError) as error:
            notes.append(_no_owner(looks, error))
    if xattrs or (xattrs is not None and removes_others):
        said, looks = _give_attributes(
            path_in(folder_fd, name), xattrs, looks,
            is_owned=is_owned, removes_others=removes_others,
        )  # fmt: skip
        notes += said
    status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    try:
        if not stat.S_ISLNK(status.st_mode):
            _set_named_mode(folder_fd, name, looks, is_owned=is_owned)
        times = (looks.mtime_ns, looks.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder_fd, follow_symlinks=False)
    except (OverflowError, OSError) as error:
        notes.append(f"{looks.done}, but its mode or time can't be set: {reason(error)}")
    return notes


def _set_named_mode(folder_fd: int, name: bytes, looks: Looks, *, is_owned: bool) -> None:
    """Set the mode of a FIFO or device, and of nothing that took its place meanwhile."""
    fd = os.open(name, _LOOK, dir_fd=folder_fd)
    try:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            raise FileExistsError(errno.EEXIST, "something else took its place")
        mode = looks.mode
        if mode & SET_ID and not is_owned:
            mode = without_set_id(mode, status, looks.uid, looks.gid)
        # A descriptor that only stands for a path takes no `fchmod`.
        os.chmod(f"/proc/self/fd/{fd}" if _HAS_PATH_FDS else fd, mode)
    finally:
        os.close(fd)


def without_set_id(mode: int, status: os.stat_result, uid: int, gid: int) -> int:
    """Drop setuid and setgid unless the file already belongs to whom they were meant for.

    Otherwise a program that was harmless as its owner's would run as whoever restores it.
    """
    if uid != status.st_uid:
        mode &= ~stat.S_ISUID
    if gid != status.st_gid:
        mode &= ~stat.S_ISGID
    return mode


def _no_owner(looks: Looks, error: Exception) -> str:
    return f"{looks.done}, but its owner {looks.uid}:{looks.gid} can't be set: {reason(error)}"


def _give_attributes(
    target: int | bytes,
    xattrs: Mapping[bytes, bytes],
    looks: Looks,
    *,
    is_owned: bool,
    removes_others: bool = False,
) -> tuple[list[str], Looks]:
    """Set attributes; give what to say of them, and the looks with the mode that fits the ACL.

    A mode that is set sets the mask of an ACL. Of the mode in an archive these bits are the mask
    or, from libarchive, the rights of the group, which may be more.
    """
    # Capabilities are given like set-id bits: with the owner that they were meant for, or not.
    failed = set_attributes(
        target, xattrs, privileged=is_owned and os.geteuid() == 0, remove_others=removes_others
    )
    if ACL_ACCESS in xattrs and all(name != ACL_ACCESS for name, _ in failed):
        mask = acl_mask(xattrs[ACL_ACCESS])
        if mask is not None:
            looks = looks._replace(mode=looks.mode & ~stat.S_IRWXG | mask << 3)
    notes = [
        f"{looks.done}, but its attribute {name.decode(errors='backslashreplace')} can't be set: "
        f"{reason(error)}"
        for name, error in failed
    ]
    return notes, looks
