"""What a run has begun in a storage, noted on this machine, and how a killed one's is removed.

A run has one file in PYBAK_HOME/uploads, a JSON line an event, and holds a lock on it for as long
as it lives. The lock dies with the process: a later run that gets it aborts the uploads noted
there, and deletes the files of a set that has no first one, whoever made that: it comes last, so
with it all are in use. Locks may not reach other hosts that share PYBAK_HOME: their notes are only
followed when nothing was noted or sent for a week. Uploads that nobody's file here knows are only
touched if they are of this job's default names and nothing was sent to them for a week, and hidden
files of other runs and probes if they are a day old. Nothing else ever is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pybak.errors import StorageError
from pybak.home import home
from pybak.staging import reason
from pybak.storage import naming
from pybak.storage.probe import PROBE_NAMES
from pybak.storage.protocol import Storage, Stored, Upload

_WEEK_NS: Final = 7 * 24 * 3600 * 10**9
_DAY_NS: Final = 24 * 3600 * 10**9
_CLOCKS_NS: Final = 3600 * 10**9
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def this_host() -> str:
    """Give this host's name."""
    return os.uname().nodename


def notes_folder() -> Path:
    """Where runs of this machine leave their notes."""
    return home() / "uploads"


class UploadNotes:
    """A run's notes about what it does in the storage at `address`; `first` makes the set whole.

    Raises StorageError where they can't be written.
    """

    def __init__(self, folder: Path, run_id: str, address: str, first: str) -> None:
        self._path = folder / f"{run_id}.jsonl"
        self._fd = -1
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, _OPEN | os.O_CREAT | os.O_APPEND, 0o600)
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._write({"address": address, "first": first, "host": this_host()})
        except OSError as error:
            self._let_go()
            raise StorageError(f"{folder}: {reason(error)}; PYBAK_HOME must be writable") from error

    def begun(self, upload: Upload) -> None:
        """Note an upload before anything is sent."""
        self._note({"upload": [upload.name, upload.token, upload.started_ns]})

    def hiding(self, start: str) -> None:
        """Note that others may leave files whose names begin with `start`."""
        self._note({"hidden": start})

    def completing(self, name: str, size: int) -> None:
        """Note a file that is about to appear."""
        self._note({"name": name, "size": size, "since_ns": time.time_ns()})

    def completed(self, stored: Stored) -> None:
        """Note that it has."""
        self._note({"name": stored.name, "version": stored.version})

    def _note(self, event: dict[str, Any]) -> None:
        try:
            self._write(event)
        except OSError as error:
            raise StorageError(
                f"{self._path}: {reason(error)}; PYBAK_HOME must be writable"
            ) from error

    def _write(self, event: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(event).encode("ascii") + b"\n")
        os.fsync(self._fd)

    @property
    def is_open(self) -> bool:
        """Whether they are still of use."""
        return self._fd >= 0

    def close(self, *, keep: bool = False) -> None:
        """Forget them; with `keep` they stay for a later run. Does nothing the second time."""
        if self._fd >= 0 and not keep:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Left:
    """What the notes of one run say."""

    def __init__(self, lines: bytes) -> None:
        self.address = self.first = self.host = ""
        self.uploads: list[Upload] = []
        self.hidden: list[str] = []
        self.files: dict[str, dict[str, Any]] = {}
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # the last may be cut off
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        if "address" in event:
            self.address, self.first = str(event["address"]), str(event["first"])
            self.host = str(event.get("host", ""))
        elif "upload" in event:
            name, token, started = event["upload"]
            self.uploads.append(Upload(str(name), str(token), int(started)))
        elif "hidden" in event:
            self.hidden.append(str(event["hidden"]))
        else:
            self.files.setdefault(str(event["name"]), {}).update(event)


def clean_up(
    storage: Storage,
    job: str | None,
    *,
    folder: Path | None = None,
    now_ns: int | None = None,
    host: str | None = None,
) -> int:
    """Remove what killed runs left in a storage; give how many uploads and files that were.

    What can't be removed now stays noted. Raises nothing: a backup does not fail by it. `host` is
    the name of this one.
    """
    folder = folder or notes_folder()
    now_ns = time.time_ns() if now_ns is None else now_ns
    host = host or this_host()
    removed = 0
    known: set[str] = set()
    in_use: set[str] = set()
    for path in _notes(folder):
        with contextlib.suppress(Exception), open(path, "rb+", opener=_opened) as notes:
            left = _Left(_content(notes.fileno()))
            known.update(upload.token for upload in left.uploads)
            in_use.update(left.hidden)
            if left.address == storage.address:
                fcntl.flock(notes, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its run lives
                left = _Left(_content(notes.fileno()))
                others = left.host not in ("", host)
                if others and _is_in_use(storage, left, notes.fileno(), now_ns - _WEEK_NS):
                    continue
                removed += _remove(storage, left)
                path.unlink()
    with contextlib.suppress(Exception):
        removed += _abort_old(storage, job, known, now_ns - _WEEK_NS)
    with contextlib.suppress(Exception):
        removed += _delete_old_hidden(storage, in_use, now_ns - _DAY_NS)
    return removed


def _opened(path: str, _flags: int) -> int:
    return os.open(path, _OPEN)


def _is_in_use(storage: Storage, left: _Left, fd: int, since_ns: int) -> bool:
    """Whether something was noted, or sent to what is noted, after `since_ns`."""
    if os.fstat(fd).st_mtime_ns > since_ns:
        return True
    return any(storage.newest_ns(upload) > since_ns for upload in left.uploads)


def _notes(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    yield from (folder / name for name in names if name.endswith(".jsonl"))


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def delete_hidden(storage: Storage, start: str) -> int:
    """Delete the files whose names begin with `start`; give how many.

    Raises StorageError, after all were tried, where one can't be.
    """
    names = [one.name for one in storage.list() if start and one.name.startswith(start)]
    return _delete_all(storage, names)


def _delete_all(storage: Storage, names: Sequence[str]) -> int:
    removed, problem = 0, None
    for name in names:
        try:
            removed += storage.delete(name)
        except StorageError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return removed


def _remove(storage: Storage, left: _Left) -> int:
    removed = 0
    for upload in left.uploads:
        storage.abort(upload)
        removed += 1
    for name, event in left.files.items():
        found = storage.stat(name)
        if found is None or not _is_ours(found, event):
            continue
        if is_whole(storage, left.first):  # asked each time: somebody may be completing it
            break
        removed += storage.delete(name, version=found.version)
    return removed + sum(delete_hidden(storage, start) for start in left.hidden)


def is_whole(storage: Storage, first: str) -> bool:
    """Whether a set has its first volume, which comes last, so nothing of it may be deleted."""
    return first != "" and storage.stat(first) is not None


def _is_ours(found: Stored, event: dict[str, Any]) -> bool:
    """Whether this is the file of the note; if its end was not noted, by size and time."""
    if "version" in event:
        return found.version == str(event["version"])
    return may_be(found, int(event["size"]), int(event["since_ns"]))


def may_be(found: Stored, size: int, since_ns: int) -> bool:
    """Whether a file can be one of this size that was completed after `since_ns`, by our clock."""
    # Clocks of storages are not ours; a file of an earlier day is another one.
    return found.size == size and found.modified_ns >= since_ns - _CLOCKS_NS


def _abort_old(storage: Storage, job: str | None, known: set[str], before_ns: int) -> int:
    pattern = naming.own_names(job)
    old = [
        upload
        for upload in storage.unfinished()
        if upload.token not in known
        and pattern.fullmatch(upload.name)
        and 0 < upload.started_ns < before_ns
    ]
    removed = 0
    for upload in old:
        # Another host's may be slow. Where this can't be told, it stays.
        with contextlib.suppress(StorageError):
            if storage.newest_ns(upload) < before_ns:
                storage.abort(upload)
                removed += 1
    return removed


def _delete_old_hidden(storage: Storage, in_use: set[str], before_ns: int) -> int:
    """Delete what workers put there when nobody waited for it any more, and old probes."""
    return _delete_all(
        storage,
        [
            one.name
            for one in storage.list()
            if (naming.HIDDEN_NAMES.fullmatch(one.name) or PROBE_NAMES.fullmatch(one.name))
            and not one.name.startswith(tuple(in_use))
            and one.modified_ns < before_ns
        ],
    )
