"""Inboxes whose files go to storages, alone or besides a folder."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import pytest
from inboxes import STAMP, Inbox
from memory import Failing, MemoryStorage, use, use_also

from pybak.errors import NotFoundError, StorageError
from pybak.inbox import storage_place
from pybak.storage.unfinished import notes_folder

ADDRESS = "s3://bucket/inbox"


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    return Inbox(tmp_path)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = MemoryStorage(ADDRESS)
    use(monkeypatch, storage)
    return storage


def test_files_go_to_a_storage_and_their_sources_go(inbox: Inbox, bucket: MemoryStorage) -> None:
    inbox.put("a", b"first")
    report = inbox.round(ADDRESS)
    assert (report.status, inbox.left, bucket.names) == ("success", [], [f"a_{STAMP}.gz"])
    assert gzip.decompress(bucket[f"a_{STAMP}.gz"]) == b"first"
    assert report.results[0].destination == f"{ADDRESS}/a_{STAMP}.gz"
    assert not inbox.target.exists()


def test_subfolders_become_prefixes(
    inbox: Inbox, bucket: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = MemoryStorage(f"{ADDRESS}/sub")
    use(monkeypatch, bucket, sub)
    inbox.put("sub/a", b"first")
    inbox.round(ADDRESS)
    assert (bucket.names, sub.names) == ([], [f"a_{STAMP}.gz"])


def test_a_folder_and_a_storage_get_the_same(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = MemoryStorage(ADDRESS)
    use_also(monkeypatch, bucket)
    inbox.put("a", b"first")
    inbox.round(also_to=[ADDRESS])
    name = f"a_{STAMP}.gz"
    assert bucket[name] == (inbox.target / name).read_bytes()


def test_large_files_are_sent_in_parts_and_no_note_is_left(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = MemoryStorage(ADDRESS, least=1000)
    use(monkeypatch, bucket)
    monkeypatch.setattr(storage_place, "WHOLE_BYTES", 10)
    inbox.put("a", b"x" * 100_000)
    inbox.round(ADDRESS)
    assert bucket.calls["begin"] == bucket.calls["complete"] == 1
    assert gzip.decompress(bucket[f"a_{STAMP}.gz"]) == b"x" * 100_000
    assert list(notes_folder().glob("*")) == []


def test_a_duplicate_of_what_lies_in_a_storage_is_discarded(
    inbox: Inbox, bucket: MemoryStorage
) -> None:
    inbox.put("a", b"first")
    inbox.round(ADDRESS)
    inbox.put("b", b"first")
    assert inbox.round(ADDRESS).files.duplicates == 1
    bucket.files.clear()
    inbox.put("c", b"first")
    assert inbox.round(ADDRESS).files.done == 1


def test_a_taken_name_in_a_storage_gets_a_number(inbox: Inbox, bucket: MemoryStorage) -> None:
    for content in (b"first", b"second"):
        inbox.put("a", content)
        inbox.round(ADDRESS)
    assert bucket.names == [f"a_{STAMP}.gz", f"a_{STAMP}_2.gz"]


def test_a_missing_bucket_is_told_and_nothing_is_touched(
    inbox: Inbox, bucket: MemoryStorage
) -> None:
    bucket.is_there = False
    inbox.put("a")
    with pytest.raises(NotFoundError):
        inbox.round(ADDRESS)
    assert (inbox.left, inbox.rows()) == (["a"], [])


def test_what_can_not_be_sent_stays_and_no_other_place_keeps_it(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = MemoryStorage(ADDRESS)
    broken = Failing(bucket, lambda method, _count: method == "put")
    use_also(monkeypatch, broken)
    inbox.put("a", b"first")
    report = inbox.round(also_to=[ADDRESS])
    assert (report.status, inbox.left, inbox.stored, bucket.names) == ("partial", ["a"], [], [])
    assert "the storage broke" in report.errors[0].message
    use_also(monkeypatch, bucket)
    assert inbox.round(also_to=[ADDRESS]).files.done == 1


def test_a_lost_answer_leads_to_one_copy(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = MemoryStorage(ADDRESS)
    lost = Failing(bucket, lambda method, _count: method == "put", after=True)
    use(monkeypatch, lost)
    inbox.put("a", b"first")
    inbox.round(ADDRESS)
    assert (inbox.left, bucket.names) == (["a"], [])
    use(monkeypatch, bucket)
    inbox.round(ADDRESS)
    assert (inbox.left, len(bucket.names)) == ([], 1)


def test_reading_back_finds_what_a_storage_spoilt(
    inbox: Inbox, bucket: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryStorage.read

    def spoilt(self: MemoryStorage, *given: object, **more: object) -> bytes:
        data = real(self, *given, **more)  # type: ignore[arg-type]
        return bytes([data[0] ^ 1]) + data[1:]

    inbox.put("a", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStorage, "read", spoilt)
        report = inbox.round(ADDRESS, read_back=True)
    assert (report.status, inbox.left) == ("partial", ["a"])
    inbox.round(ADDRESS, read_back=True)
    assert inbox.left == []


def test_many_files_are_sent_side_by_side(
    inbox: Inbox, bucket: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=20)
    real = MemoryStorage.put

    def put(self: MemoryStorage, *given: object, **more: object) -> object:
        together.wait()
        return real(self, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStorage, "put", put)
    inbox.put("a", b"first")
    inbox.put("b", b"second")
    assert inbox.round(ADDRESS).files.done == 2


def test_a_run_that_broke_off_between_storing_and_removing_is_settled_by_the_next(
    inbox: Inbox, bucket: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybak.inbox.store import Store

    class KilledError(BaseException):
        pass

    def die(*_given: object) -> None:
        raise KilledError

    for method in ("_finish", "_put_one"):
        inbox.put("a", method.encode())
        with monkeypatch.context() as patch:
            patch.setattr(Store, method, die)
            with pytest.raises(KilledError):
                inbox.round(ADDRESS)
        assert inbox.round(ADDRESS).files.done == 1
        assert inbox.left == []
    contents = sorted(gzip.decompress(bucket[name]) for name in bucket.names)
    assert contents == [b"_finish", b"_put_one"]


def test_names_that_no_storage_can_have_are_told(inbox: Inbox, bucket: MemoryStorage) -> None:
    (inbox.source / "\udcff").write_bytes(b"x")
    inbox.put("a", b"first")
    report = inbox.round(ADDRESS)
    assert (report.status, report.files.done, len(inbox.left)) == ("partial", 1, 1)
    assert "UTF-8" in report.errors[0].message


def test_what_a_storage_refuses_for_a_while_is_a_failure_of_the_run(
    inbox: Inbox, bucket: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Failing(bucket, lambda method, _count: method == "check")
    use(monkeypatch, broken)
    inbox.put("a")
    with pytest.raises(StorageError):
        inbox.round(ADDRESS)
    assert inbox.left == ["a"]
