"""Pack the files of a parcel: the work of one task.

Each file is read once, hashed, packed, and read back. At the end all are brought to the disk at
once: the file system writes its journal for many of them together. Nothing is at the destination
yet and nothing of the inbox has changed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from pybak import problems, staging
from pybak.backup.read_source import look_again, read_pieces, state_of
from pybak.display import printable
from pybak.errors import ArchiveError, Interrupted, SourceError, StorageError
from pybak.folders import Folders
from pybak.inbox.check import check_packed
from pybak.inbox.encode import Read, encode
from pybak.inbox.found import open_file
from pybak.inbox.parcels import (
    DUPLICATE,
    FAILED,
    MADE,
    SKIPPED,
    WAITING,
    Item,
    Outcome,
    Parcel,
    made_path,
    read_outcomes,
    read_parcel,
    write_outcomes,
)
from pybak.inbox.settle import UNLEASED_SECONDS, BusyError, check_writers

Advance = Callable[[int, int, bytes], object]
"""Called with files and bytes done since the last call, and the file being worked on."""

CHANGED: Final = "changed while it was read"
BUSY: Final = "another program has it open for writing"
UNSURE: Final = (
    f"changed less than {UNLEASED_SECONDS:g} s ago, and whether it is being written can't be told "
    "here: only its owner and root are"
)
_SYNCS: Final = 16
"""So many wait for the disk side by side; a file system writes them together."""
_BLOCK: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def pack_parcel(
    folder: Path,
    number: int,
    *,
    password: bytes | None = None,
    advance: Advance = lambda _files, _bytes, _path: None,
) -> int:
    """Pack the files of a parcel into the staging folder; give how many.

    What became of each is left there (`pybak.inbox.parcels`). Once a cancel was requested the file
    in hand is given up and the others are left out. Raises StorageError if the folder or the inbox
    can't be used.
    """
    try:
        parcel = read_parcel(folder, number)
        outcomes = read_outcomes(folder, number)
        if outcomes:  # it was done before
            return sum(outcome.status == MADE for outcome in outcomes)
        with _inbox(parcel.source) as folders:
            for item in parcel.items:
                try:
                    _stop_if_asked(folder)
                    watch = _Watch(folder, item, advance)
                    outcomes.append(_pack(folder, folders, parcel, item, password, watch))
                except Interrupted:
                    break
                watch.end()
        outcomes = _told(folder, number, _synced(folder, outcomes))
    except OSError as error:
        raise StorageError(
            f"{folder.parent}: {staging.reason(error)}; free some space or choose another place"
        ) from error
    return sum(outcome.status == MADE for outcome in outcomes)


def _inbox(source: bytes) -> Folders:
    try:
        return Folders(source)
    except OSError as error:
        where = printable(os.fsdecode(source))
        raise StorageError(f"{where}: {staging.reason(error)}; check the inbox") from error


def _stop_if_asked(folder: Path) -> None:
    if staging.is_cancelled(folder):
        raise Interrupted("stopped on request")


class _Watch:
    """Tells how far a file is, and ends the work on it once the run is to stop."""

    def __init__(self, folder: Path, item: Item, advance: Advance) -> None:
        self._folder, self._item, self._advance = folder, item, advance
        self._read = 0

    def see(self, size: int) -> None:
        """Take note of bytes that were read; raises Interrupted."""
        if self._read:  # of small files nobody asks twice
            _stop_if_asked(self._folder)
        self._tell(0, size)

    def end(self) -> None:
        """Say that the file is through, whatever came of it."""
        self._tell(1, self._item.found.size - self._read)

    def _tell(self, files: int, size: int) -> None:
        size = min(size, self._item.found.size - self._read)
        self._read += size
        self._advance(files, size, self._item.found.path)


def _pack(
    folder: Path,
    folders: Folders,
    parcel: Parcel,
    item: Item,
    password: bytes | None,
    watch: _Watch,
) -> Outcome:
    """Pack one file; whatever is wrong with it is its outcome."""
    try:
        fd, status = open_file(folders, item.found.path)
        try:
            return _pack_open(folder, parcel, item, fd, status, password, watch)
        finally:
            os.close(fd)
    except SourceError as error:
        kind = SKIPPED if error.code in problems.SKIPPED_CODES else FAILED
        return Outcome(row=item.row, status=kind, code=error.code, message=str(error))


def _pack_open(
    folder: Path, parcel: Parcel, item: Item, fd: int, status: os.stat_result,
    password: bytes | None, watch: _Watch,
) -> Outcome:  # fmt: skip
    waiting = Outcome(row=item.row, status=WAITING, code=problems.WAITING, message=CHANGED)
    if state_of(status) != item.found.state:
        return waiting
    try:
        if not check_writers(fd) and status.st_ctime_ns > parcel.quiet_since_ns:
            return Outcome(row=item.row, status=WAITING, code=problems.WAITING, message=UNSURE)
    except BusyError:
        return Outcome(row=item.row, status=WAITING, code=problems.WAITING, message=BUSY)
    known = () if item.anew else parcel.known.get(item.found.size, ())
    if known:
        sha256 = _digest(fd, status.st_size, partial(_stop_if_asked, folder))
        if state_of(look_again(fd)) != item.found.state:
            return waiting
        if sha256 in known:
            return Outcome(row=item.row, status=DUPLICATE, sha256=sha256)
    path = made_path(folder, item.row)
    try:
        path.unlink(missing_ok=True)  # of an earlier attempt
        out = os.open(path, _NEW, 0o600)
        try:
            read = encode(
                out, fd, status, name=os.path.basename(item.found.path),
                inner=item.inner, recipe=parcel.recipe,
                password=password if parcel.encrypted else None, seen=watch.see,
            )  # fmt: skip
            if state_of(look_again(fd)) != item.found.state or read.size != status.st_size:
                path.unlink()
                return waiting
            _dress(out, status)
            return _checked(path, parcel, item, read, password)
        finally:
            os.close(out)
    except (OSError, ArchiveError, StorageError) as error:
        with contextlib.suppress(OSError):
            path.unlink()
        why = staging.reason(error) if isinstance(error, OSError) else str(error)
        code = problems.DAMAGED if isinstance(error, ArchiveError) else problems.STORAGE
        return Outcome(row=item.row, status=FAILED, code=code, message=f"can't be stored: {why}")
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _checked(path: Path, parcel: Parcel, item: Item, read: Read, password: bytes | None) -> Outcome:
    stored = check_packed(
        os.fsencode(path), parcel.recipe.format, password if parcel.encrypted else None, read
    )
    return Outcome(
        row=item.row, status=MADE, sha256=read.sha256, stored_size=stored.size,
        stored_sha256=stored.sha256,
    )  # fmt: skip


def _digest(fd: int, size: int, stop: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    for data in read_pieces(fd, 0, size, _BLOCK):
        stop()
        digest.update(data)
    return digest.hexdigest()


def _dress(out: int, status: os.stat_result) -> None:
    """Give a packed file the time of its source, and its group's rights if the group is the same.

    Others get none, whatever the source says: see docs/decisions/0003.
    """
    mode = 0o600
    if wanted := stat.S_IMODE(status.st_mode) & 0o060:
        own = os.fstat(out)
        with contextlib.suppress(OSError):
            if own.st_gid != status.st_gid:
                os.fchown(out, -1, status.st_gid)
            mode |= wanted
    with contextlib.suppress(OSError):  # some file systems have no modes
        os.fchmod(out, mode)
    os.utime(out, ns=(status.st_atime_ns, status.st_mtime_ns))


def _synced(folder: Path, outcomes: list[Outcome]) -> list[Outcome]:
    """Bring all packed files to the disk; one that can't be is a failure of its own."""

    def sync(outcome: Outcome) -> Outcome:
        if outcome.status != MADE:
            return outcome
        try:
            fd = os.open(made_path(folder, outcome.row), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return _no_room(outcome.row, error)
        return outcome

    if sum(outcome.status == MADE for outcome in outcomes) < 2:
        return [sync(outcome) for outcome in outcomes]
    with ThreadPoolExecutor(_SYNCS, thread_name_prefix="sync") as pool:
        return list(pool.map(sync, outcomes))


def _told(folder: Path, number: int, outcomes: list[Outcome]) -> list[Outcome]:
    """Leave the outcomes; on a disk that is full by now, give up the last files for their room."""
    while True:
        try:
            write_outcomes(folder, number, outcomes)
        except OSError as error:
            made = [place for place, one in enumerate(outcomes) if one.status == MADE]
            if error.errno not in _FULL or not made:
                raise
            row = outcomes[made[-1]].row
            made_path(folder, row).unlink()
            outcomes[made[-1]] = _no_room(row, error)
        else:
            return outcomes


def _no_room(row: int, error: OSError) -> Outcome:
    message = f"can't be stored: {staging.reason(error)}"
    return Outcome(row=row, status=FAILED, code=problems.STORAGE, message=message)
