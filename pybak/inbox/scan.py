"""Find the files of an inbox: what may be taken now, what waits, what is left.

Folders are reached step by step without following a link, so that whoever may put things into the
inbox can't lead it elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from pybak import problems
from pybak.backup.read_source import state_of
from pybak.backup.rules import Chooser, Rules
from pybak.folders import Folders
from pybak.inbox.found import Found, shown_name
from pybak.inbox.settle import is_ahead, is_unfinished, is_young
from pybak.problems import Problem
from pybak.staging import PREFIX

_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AHEAD: Final = "changed at a time that this machine's clock is behind; set the clock"
_TELL_EVERY: Final = 500
STRAY_SECONDS: Final = 60
"""A file that has had a hidden name for so long is not being taken."""

Told = Callable[[int, int], object]
"""Called with the files and bytes found so far."""


class Scan(msgspec.Struct, frozen=True):
    """What an inbox holds, by path. `waiting` says of each why it waits.

    `strays` are files that a killed run left under a hidden name, and no row of the catalog knows.
    """

    files: list[Found]
    waiting: list[Problem]
    skipped: list[Problem]
    failed: list[Problem]
    excluded: int
    strays: list[bytes]


def scan(
    source: bytes,
    rules: Rules,
    *,
    settle_seconds: float,
    now_ns: int,
    all_names: bool = False,
    told: Told = lambda _files, _bytes: None,
) -> Scan:
    """Look through the folder `source`.

    Files that changed within `settle_seconds` before `now_ns` wait, and unless `all_names` is set,
    those whose names say that they are unfinished. A folder below that can't be read is a failure
    of its own. Raises OSError if `source` itself can't be read.
    """
    found = Scan([], [], [], [], 0, [])
    chooser = Chooser(rules.include, rules.exclude)
    excluded = size = 0
    with Folders(source) as folders:
        pending = [b""]
        while pending:
            folder = pending.pop()
            try:
                listed = list(_entries(folders, folder))
            except OSError as error:
                if not folder:
                    raise
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    found.failed.append(_unreadable(folder, error))
                continue
            for path, status in listed:
                if stat.S_ISDIR(status.st_mode):
                    if os.path.basename(path).startswith(os.fsencode(PREFIX)):
                        continue
                    if not rules.exclude or chooser.reason(os.fsdecode(path) + "/") is None or (
                        rules.include
                    ):  # fmt: skip
                        pending.append(path)
                    else:
                        excluded += 1
                    continue
                if stat.S_ISREG(status.st_mode) and shown_name(os.path.basename(path)):
                    if status.st_ctime_ns <= now_ns - STRAY_SECONDS * 10**9:
                        found.strays.append(path)
                    continue
                if chooser.reason(os.fsdecode(path)) is not None:
                    excluded += 1
                    continue
                name = os.fsdecode(path)
                if not stat.S_ISREG(status.st_mode):
                    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
                    message = f"is {kind}; only files are taken"
                    found.skipped.append(Problem(name, problems.UNSUPPORTED, message))
                elif (why := _why_it_waits(path, status, settle_seconds, now_ns, all_names)) != "":
                    if is_ahead(status.st_ctime_ns, now_ns=now_ns, settle_seconds=settle_seconds):
                        found.failed.append(Problem(name, problems.CHANGED, _AHEAD))
                    else:
                        found.waiting.append(Problem(name, problems.WAITING, why))
                else:
                    found.files.append(_found(path, status))
                    size += status.st_size
                    if len(found.files) % _TELL_EVERY == 0:
                        told(len(found.files), size)
    told(len(found.files), size)
    found.files.sort(key=lambda one: one.path)
    for some in (found.waiting, found.skipped, found.failed):
        some.sort(key=lambda one: one.path)
    return msgspec.structs.replace(found, excluded=excluded)


def _entries(folders: Folders, folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    fd = os.open(b".", _READ, dir_fd=folders.fd(folder))
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it went while it was listed
                yield os.path.join(folder, os.fsencode(entry.name)), status
    finally:
        os.close(fd)


def _why_it_waits(
    path: bytes, status: os.stat_result, settle_seconds: float, now_ns: int, all_names: bool
) -> str:
    if not all_names and is_unfinished(os.path.basename(path)):
        return "its name says that it is unfinished"
    if is_young(
        status.st_mtime_ns, status.st_ctime_ns, now_ns=now_ns, settle_seconds=settle_seconds
    ):
        return f"changed less than {settle_seconds:g} s ago"
    return ""


def _found(path: bytes, status: os.stat_result) -> Found:
    state = state_of(status)
    return Found(path, *state, status.st_dev, status.st_mode)


def _unreadable(folder: bytes, error: OSError) -> Problem:
    message = f"can't be read: {(error.strerror or str(error)).lower()}"
    return Problem(os.fsdecode(folder), problems.UNREADABLE, message)
