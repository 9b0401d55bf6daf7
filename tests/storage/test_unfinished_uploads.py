"""What a later run removes of what others have begun in a storage, and what it leaves alone."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from pathlib import Path

import pytest
from s3_servers import S3Server
from storage.memory import Failing, MemoryStorage

from blocks.s3 import S3Settings, S3Storage
from pybak.errors import StorageError
from pybak.storage.body import BytesBody
from pybak.storage.protocol import Upload
from pybak.storage.unfinished import UploadNotes, clean_up

DAY_NS = 24 * 3600 * 10**9
NAME = "backup_20261101_000000.zip"
HIDDEN = f".pybak-{uuid.UUID(int=7)}-"


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.ns = time.time_ns()

    def __call__(self) -> int:
        return self.ns


@pytest.mark.parametrize("checksums", ["sha256", "md5", "none"])
def test_a_live_run_keeps_an_upload_that_takes_longer_than_a_week(
    moto: S3Server, tmp_path: Path, checksums: str
) -> None:
    """Its notes are found by the upload's token, whatever goes with the parts (case 93)."""
    bucket = moto.new_bucket()
    where = {"bucket": bucket, "endpoint": moto.endpoint, "session": moto.session}
    storage = S3Storage(S3Settings(**where, checksums=checksums))  # type: ignore[arg-type]
    notes = UploadNotes(tmp_path, "live", storage.address, NAME)
    upload = storage.begin(NAME)
    notes.begun(upload)
    (found,) = storage.unfinished()
    assert found.token == upload.token
    assert clean_up(storage, None, folder=tmp_path, now_ns=time.time_ns() + 8 * DAY_NS) == 0
    assert storage.send(upload, 1, BytesBody(b"part")).number == 1
    notes.close()
    assert clean_up(storage, None, folder=tmp_path, now_ns=time.time_ns() + 8 * DAY_NS) == 1
    storage.close()


def test_an_upload_of_another_host_is_aborted_a_week_after_its_newest_part(tmp_path: Path) -> None:
    clock = Clock()
    storage = MemoryStorage(clock=clock, least=1)
    upload = storage.begin(NAME)
    begun_ns = clock.ns
    clock.ns += 6 * DAY_NS
    storage.send(upload, 1, BytesBody(b"slow"))
    assert clean_up(storage, None, folder=tmp_path, now_ns=begun_ns + 8 * DAY_NS) == 0
    assert clean_up(storage, None, folder=tmp_path, now_ns=begun_ns + 14 * DAY_NS) == 1
    assert storage.uploads == {}


def test_an_upload_that_can_not_be_looked_at_stays(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.begin(NAME)
    denied = Failing(storage, lambda method, _: method == "newest_ns")
    assert clean_up(denied, None, folder=tmp_path, now_ns=time.time_ns() + 8 * DAY_NS) == 0
    assert len(storage.uploads) == 1


def noted(storage: MemoryStorage, folder: Path) -> Upload:
    """Begin an upload whose notes no lock protects, as one of another host looks from here."""
    notes = UploadNotes(folder, "other", storage.address, NAME)
    upload = storage.begin(NAME)
    notes.begun(upload)
    fcntl.flock(notes._fd, fcntl.LOCK_UN)
    return upload


def test_notes_of_another_host_are_followed_when_nothing_came_for_a_week(tmp_path: Path) -> None:
    """Its lock does not reach here (case 64)."""
    clock = Clock()
    storage = MemoryStorage(clock=clock, least=1)
    upload = noted(storage, tmp_path)
    now_ns = clock.ns
    assert clean_up(storage, None, folder=tmp_path, host="elsewhere") == 0
    clock.ns += 6 * DAY_NS
    storage.send(upload, 1, BytesBody(b"slow"))
    for days in (6, 8, 12):
        more = {"folder": tmp_path, "now_ns": now_ns + days * DAY_NS, "host": "elsewhere"}
        assert clean_up(storage, None, **more) == 0  # type: ignore[arg-type]
    assert len(storage.uploads) == 1
    late_ns = now_ns + 14 * DAY_NS
    assert clean_up(storage, None, folder=tmp_path, now_ns=late_ns, host="elsewhere") == 1
    assert storage.uploads == {}
    assert os.listdir(tmp_path) == []


def test_notes_of_this_host_are_followed_at_once(tmp_path: Path) -> None:
    storage = MemoryStorage()
    noted(storage, tmp_path)
    assert clean_up(storage, None, folder=tmp_path) == 1
    assert storage.uploads == {}


def test_hidden_files_that_came_late_are_deleted_after_a_day(tmp_path: Path) -> None:
    """A worker that was given up may have written them after its run (case 64)."""
    storage = MemoryStorage()
    late = [f"{HIDDEN}0000012.held0", f"{HIDDEN}0000012.tail1-0a1b2c3d"]
    others = [f"{HIDDEN}0000012.part", ".pybak-mine-0000012.held0", "x.held0", NAME]
    for name in (*late, *others):
        storage.add(name, b"bytes")
    now_ns = time.time_ns()
    assert clean_up(storage, None, folder=tmp_path, now_ns=now_ns) == 0
    notes = UploadNotes(tmp_path, "live", storage.address, NAME)
    notes.hiding(HIDDEN)
    assert clean_up(storage, None, folder=tmp_path, now_ns=now_ns + 2 * DAY_NS) == 0
    notes.close()
    assert clean_up(storage, None, folder=tmp_path, now_ns=now_ns + 2 * DAY_NS) == 2
    assert storage.names == sorted(others)


def test_a_hidden_file_that_is_locked_does_not_keep_uploads(tmp_path: Path) -> None:
    storage = MemoryStorage()
    notes = UploadNotes(tmp_path, "killed", storage.address, NAME)
    notes.begun(storage.begin(NAME))
    notes.hiding(HIDDEN)
    notes._let_go()
    for number in range(3):
        storage.add(f"{HIDDEN}0000012.held{number}", b"bytes")
    deleted: list[str] = []

    def is_locked(method: str, _: int) -> bool:
        deleted.extend([method] if method == "delete" else [])
        return method == "delete" and len(deleted) == 1

    locked = Failing(storage, is_locked, error=lambda: StorageError("it is locked"))
    clean_up(locked, None, folder=tmp_path)
    assert storage.uploads == {}
    assert storage.names == [f"{HIDDEN}0000012.held0"]
    assert len(os.listdir(tmp_path)) == 1, "what is left is still noted"
