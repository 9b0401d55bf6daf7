"""Prunes of archives in storages: what goes, what a storage refuses, and what it says too late."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dying import PRUNE_WRITERS, die_at
from pruning import INCREMENTAL, Shelf, StoredShelf, content_of, names
from storage.memory import Failing, MemoryStorage, use

from pybak.catalog.models import DELETING, PRESENT
from pybak.errors import StorageError
from pybak.retention.places import StoragePlace
from pybak.storage.body import BytesBody
from pybak.storage.local_folder import FolderStorage
from pybak.storage.protocol import Storage, Stored

DENIED = "s3://bucket/backups/x: access denied; grant s3:DeleteObject to these credentials"


class Refusing:
    """A storage that refuses to delete some of its files, by name."""

    def __init__(self, storage: Storage, refusal: Callable[[str], StorageError | None]) -> None:
        self._storage = storage
        self._refusal = refusal
        self.address, self.limits = storage.address, storage.limits
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def delete(self, name: str, *, version: str | None = None) -> bool:
        self.asked.append(name)
        if (error := self._refusal(name)) is not None:
            raise error
        return self._storage.delete(name, version=version)


def denied(_name: str) -> StorageError:
    return StorageError(DENIED, is_denied=True)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def shelf(
    storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StoredShelf]:
    use(monkeypatch, storage)
    monkeypatch.setattr("pybak.storage.patience.time.sleep", lambda _seconds: None)
    shelf = StoredShelf(storage, tmp_path / "local", f"sqlite:///{tmp_path}/catalog.db")
    yield shelf
    shelf.database.close()


def fill(shelf: StoredShelf, count: int, **how: Any) -> None:
    for number in range(1, count + 1):
        shelf.add({"a": number}, **how)


def known(shelf: Shelf) -> list[tuple[object, ...]]:
    """Give what the catalog says of all runs and archives."""
    with shelf.database.reading() as connection:
        return [
            tuple(row)
            for table in ("run", "archive", "volume", "file_version", "archive_copy")
            for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")
        ]


def states(shelf: Shelf) -> list[str]:
    return [
        DELETING if one.is_leaving else PRESENT for one in shelf.history.archives_of_job("docs")
    ]


def test_archives_go_with_their_checksums_after_one_listing(
    shelf: StoredShelf, storage: MemoryStorage
) -> None:
    shelf.add({"a": 1}, volumes=3)
    for number in range(2, 30):
        shelf.add({"a": number})
    lines = b"".join(
        hashlib.sha256(storage[name]).hexdigest().encode() + b"  " + name.encode() + b"\n"
        for name in storage.names[:3]
    )
    storage.add("docs_0001.zip.sha256", lines)
    storage.add("docs_0002.zip.md5", b"0" * 32 + b"  docs_0002.zip\n" + b"0" * 32 + b"  mine\n")
    storage.calls.clear()
    shown = shelf.rehearse(keep_last=1)
    assert dict(storage.calls) == {"list": 1, "read": 2}
    storage.calls.clear()
    done = shelf.prune(keep_last=1)
    assert done.status == "success"
    assert shelf.files() == ["docs_0002.zip.md5", "docs_0029.zip"]
    assert shelf.counts() == {"archive": 1, "volume": 1, "file_version": 1}
    assert done.deleted[0] == "s3://bucket/backups/docs_0001.zip"
    assert (len(done.deleted), done.bytes_freed) == (28, shown.bytes_freed)
    assert done.bytes_freed == 3 * 1017 + len(lines) + 27 * 1013
    assert (storage.calls["list"], storage.calls["stat"]) == (2, 0)  # one is the test's own
    assert storage.calls["delete"] == 3 + 1 + 27


@pytest.mark.parametrize("step", range(7))
def test_a_kill_at_any_step_leaves_every_listed_snapshot_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """(case 94)"""

    class Elsewhere(FolderStorage):
        address = property(lambda _self: "s3://bucket/backups")  # type: ignore[assignment]

    (tmp_path / "bucket").mkdir()
    storage = Elsewhere(str(tmp_path / "bucket"))
    use(monkeypatch, storage)
    shelf = StoredShelf(storage, tmp_path / "local", f"sqlite:///{tmp_path}/catalog.db")
    shelf.add({"a": 1, "b": 1}, volumes=2)
    shelf.add({"a": 2}, mode=INCREMENTAL, volumes=2)
    shelf.add({"a": 3, "b": 3}, volumes=2)
    last = shelf.add({"a": 4}, mode=INCREMENTAL)
    shelf.database.close()
    child = os.fork()
    if not child:
        die_at(
            step, lambda: shelf.prune(keep_last=1), changes=((StoragePlace, "delete"),),
            writers=PRUNE_WRITERS,
        )  # fmt: skip
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    for snapshot in shelf.history.snapshots("docs"):
        assert set(shelf.held(snapshot)) == {"a", "b"}
    assert len(shelf.seqs()) == (4 if step == 0 else 2)
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.files() == ["docs_0003.zip.001", "docs_0003.zip.002", "docs_0004.zip"]
    assert shelf.held(last) == {"a": 4, "b": 3}
    shelf.database.close()


def test_what_got_the_name_of_an_archive_meanwhile_is_never_deleted(
    shelf: StoredShelf, storage: MemoryStorage
) -> None:
    fill(shelf, 3)
    storage.delete("docs_0001.zip")
    storage.add("docs_0001.zip", b"another size")
    with shelf.run(keep_last=1) as run:
        prepared = run.plan("docs")
        storage.delete("docs_0002.zip")
        storage.add("docs_0002.zip", content_of("docs_0002.zip"))  # the same size
        done = run.prune(prepared)
    assert done.status == "partial"
    assert shelf.files() == names(1, 2, 3)
    size, version = (one.message for one in done.errors)
    assert "docs_0001.zip: has 12 bytes, 1013 were written, so it is not deleted" in size
    assert "docs_0002.zip: was replaced meanwhile" in version


def test_a_locked_archive_is_skipped_and_named_and_the_rest_is_done(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 107, case 109)"""
    fill(shelf, 4, volumes=2)

    def locked(name: str) -> StorageError | None:
        return StorageError(f"{name}: is locked until 2030") if "0002" in name else None

    refusing = Refusing(storage, locked)
    use(monkeypatch, refusing)  # type: ignore[arg-type]
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert [(one.path, one.message) for one in done.errors] == [
        ("s3://bucket/backups/docs_0002.zip", "docs_0002.zip.001: is locked until 2030")
    ]
    assert "docs_0002.zip.002" not in refusing.asked  # nothing is half done
    assert [one.rpartition("/")[2] for one in done.deleted] == names(1, 3)
    assert {name[:9] for name in shelf.files()} == {"docs_0002", "docs_0004"}
    use(monkeypatch, storage)
    assert shelf.prune(keep_last=1).deleted == ("s3://bucket/backups/docs_0002.zip",)


def test_credentials_that_may_not_delete_change_nothing_at_all(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 97)"""
    shelf.add({"a": 1, "b": 1}, volumes=2)
    shelf.add({"a": 2}, mode=INCREMENTAL)
    fill(shelf, 2, tags=["x"], status="partial")
    fill(shelf, 1)
    with shelf.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE run SET message = 'as it was' WHERE seq = 1")
    before, files = known(shelf), shelf.files()
    refusing = Refusing(storage, denied)
    use(monkeypatch, refusing)  # type: ignore[arg-type]
    with pytest.raises(StorageError) as told:
        shelf.prune(keep_last=1)
    assert str(told.value) == f"{DENIED}; nothing was removed"
    assert refusing.asked == ["docs_0001.zip.001"]
    assert known(shelf) == before
    assert shelf.files() == files
    use(monkeypatch, storage)
    assert shelf.prune(keep_last=1).status == "success"


def test_a_storage_that_refuses_does_not_keep_other_places(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 97)"""
    refusing = Refusing(storage, denied)
    use(monkeypatch, refusing)  # type: ignore[arg-type]
    shelf.add({"a": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoredShelf, "path", Shelf.path)
        patch.setattr(StoredShelf, "volume", Shelf.volume)
        fill(shelf, 2)
    fill(shelf, 3)
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert [one.message for one in done.errors] == [
        f"{DENIED}; 2 other archives there stayed as well"
    ]
    assert len(refusing.asked) == 1
    assert shelf.files() == names(1, 4, 5, 6)
    assert [Path(one).name for one in done.deleted] == names(2, 3)


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_storage_that_cant_be_reached_fails_the_prune_and_changes_nothing(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, rehearse: bool
) -> None:
    fill(shelf, 3)
    before = known(shelf)
    away = Failing(
        storage, lambda _method, _count: True,
        error=lambda: StorageError("the storage can't be reached; check it", retryable=True),
    )  # fmt: skip
    use(monkeypatch, away)
    with pytest.raises(StorageError, match="check it; nothing was removed") as told:
        (shelf.rehearse if rehearse else shelf.prune)(keep_last=1)
    assert told.value.retryable
    assert away.fired == ["list"] * 3
    assert known(shelf) == before
    assert shelf.files() == names(1, 2, 3)


def test_a_storage_that_goes_away_is_asked_for_one_archive_and_the_next_prune_goes_on(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(shelf, 5)
    asked: list[str] = []

    def away(name: str) -> StorageError | None:
        asked.append(name)
        return StorageError("can't be reached", retryable=True) if len(asked) > 1 else None

    use(monkeypatch, Refusing(storage, away))  # type: ignore[arg-type]
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert asked == names(1, 2, 2, 2)
    assert [one.message for one in done.errors] == [
        "can't be reached; 2 other archives there stayed as well"
    ]
    assert (shelf.seqs(), states(shelf)) == ([5], [DELETING] * 3 + [PRESENT])
    use(monkeypatch, storage)
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.files() == names(5)


def test_a_deletion_whose_answer_was_lost_counts_as_done(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 102)"""
    fill(shelf, 3)
    deletes: list[int] = []

    def first(method: str, count: int) -> bool:
        deletes.extend([count] if method == "delete" else [])
        return method == "delete" and len(deletes) == 1

    losing = Failing(
        storage, first, after=True,
        error=lambda: StorageError("the answer was lost", retryable=True),
    )  # fmt: skip
    use(monkeypatch, losing)
    assert shelf.prune(keep_last=1).status == "success"
    assert losing.fired == ["delete"]
    assert shelf.files() == names(3)


def test_a_file_that_is_listed_late_is_not_taken_for_missing(
    shelf: StoredShelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 102)"""
    fill(shelf, 3)
    listed = storage.list

    def late() -> Iterator[Stored]:
        return (one for one in listed() if one.name not in ("docs_0002.zip", "docs_0003.zip"))

    monkeypatch.setattr(storage, "list", late)
    done = shelf.prune(keep_last=1)
    monkeypatch.undo()
    assert done.status == "success"
    assert storage.names == names(3)


def test_what_was_deleted_by_hand_goes_from_the_catalog_and_a_lost_snapshot_is_told(
    shelf: StoredShelf, storage: MemoryStorage
) -> None:
    """(case 76)"""
    fill(shelf, 4)
    storage.delete("docs_0001.zip")
    storage.delete("docs_0004.zip")
    done = shelf.prune(keep_last=1)
    assert [one.seq for one in done.keep] == [4, 3]
    (told,) = done.errors
    assert "docs_0004.zip: is missing; put it back" in told.message
    assert shelf.files() == names(3)
    assert [Path(one).name for one in done.deleted] == names(1, 2)


def test_an_empty_bucket_is_not_taken_for_the_right_one(
    shelf: StoredShelf, storage: MemoryStorage
) -> None:
    fill(shelf, 3)
    before = known(shelf)
    storage.files.clear()
    with pytest.raises(StorageError, match="backups: holds no archive of this job; is this the"):
        shelf.prune(keep_last=1)
    assert known(shelf) == before


def test_a_file_that_appears_between_listing_and_deleting_is_left(
    shelf: StoredShelf, storage: MemoryStorage
) -> None:
    fill(shelf, 3)
    storage.delete("docs_0001.zip")
    with shelf.run(keep_last=1) as run:
        prepared = run.plan("docs")
        storage.put("docs_0001.zip", BytesBody(content_of("docs_0001.zip")))
        assert run.prune(prepared).status == "success"
    assert shelf.files() == names(1, 3)
