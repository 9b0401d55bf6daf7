"""Prunes of archives that lie in more than one place: all places go, or the archive stays known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pruning import Shelf, content_of, names
from storage.memory import Failing, MemoryStorage, use

from pybak.catalog.copies import StoredCopy, add_copies
from pybak.errors import StorageError
from pybak.volumes.model import Volume


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = MemoryStorage("s3://far/copies")
    use(monkeypatch, storage)
    monkeypatch.setattr("pybak.storage.patience.time.sleep", lambda _seconds: None)
    return storage


@pytest.fixture
def shelf(tmp_path: Path, storage: MemoryStorage) -> Iterator[Shelf]:
    """Three archives in a folder, each with a copy in a storage."""
    shelf = Shelf(tmp_path / "backups", f"sqlite:///{tmp_path}/catalog.db")
    for number in range(1, 4):
        shelf.add({"a": number})
        (name,) = names(number)
        size = storage.add(name, content_of(name)).size
        volume = Volume(uri=f"s3://far/copies/{name}", size=size, sha256="0" * 64)
        with shelf.database.transaction() as connection:
            add_copies(connection, number, [StoredCopy(name=volume.uri, volumes=[volume])])
    yield shelf
    shelf.database.close()


def places(shelf: Shelf) -> list[tuple[bool, int]]:
    """Say of each archive whether it is leaving, and how many copies are known."""
    found = shelf.history.archives_of_job("docs")
    return [(one.is_leaving, len(one.copies)) for one in found]


def test_all_places_go(shelf: Shelf, storage: MemoryStorage) -> None:
    assert shelf.rehearse(keep_last=1).bytes_freed == 4 * 1013
    done = shelf.prune(keep_last=1)
    assert (done.status, done.bytes_freed, len(done.deleted)) == ("success", 4 * 1013, 2)
    assert shelf.files() == storage.names == names(3)
    assert places(shelf) == [(False, 1)]


def test_a_place_that_cant_be_reached_is_named_and_done_later(
    shelf: Shelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 109)"""
    away = Failing(
        storage, lambda _method, _count: True,
        error=lambda: StorageError("s3://far/copies: can't be reached; check it", retryable=True),
    )  # fmt: skip
    for _ in range(2):
        use(monkeypatch, away)
        done = shelf.prune(keep_last=1)
        assert done.status == "partial"
        assert [one.message for one in done.errors] == [
            "s3://far/copies: can't be reached; check it; 1 other archive there stayed as well"
        ]
        assert done.deleted == ()
        assert shelf.files() == names(3)
        assert shelf.seqs() == [3]
        assert places(shelf) == [(True, 1), (True, 1), (False, 1)]
    use(monkeypatch, storage)
    done = shelf.prune(keep_last=1)
    assert (done.status, len(done.deleted)) == ("success", 2)
    assert storage.names == names(3)
    assert places(shelf) == [(False, 1)]


def test_a_copy_that_may_not_be_deleted_keeps_its_archive_known(
    shelf: Shelf, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 97)"""
    use(
        monkeypatch,
        Failing(
            storage, lambda method, _count: method == "delete",
            error=lambda: StorageError("access denied", is_denied=True),
        ),
    )  # fmt: skip
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert [(one.path, one.message) for one in done.errors] == [
        (
            "s3://far/copies/docs_0001.zip",
            "access denied; 1 other archive there stayed as well",
        )
    ]
    assert shelf.files() == names(3)
    assert storage.names == names(1, 2, 3)
    assert [one[0] for one in places(shelf)] == [True, True, False]


def test_a_disk_with_copies_that_is_not_mounted_is_no_loss(shelf: Shelf, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    for number in range(1, 4):
        (name,) = names(number)
        volume = Volume(uri=(disk / name).as_uri(), size=1013, sha256="0" * 64)
        with shelf.database.transaction() as connection:
            add_copies(connection, number, [StoredCopy(name=str(disk / name), volumes=[volume])])
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    (told,) = done.errors
    assert told.message == (
        f"{disk}: holds no archive of this job; is its disk mounted?; "
        "1 other archive there stayed as well"
    )
    assert places(shelf) == [(True, 2), (True, 2), (False, 2)]
    disk.mkdir()
    for (name,) in map(names, range(1, 4)):
        (disk / name).write_bytes(content_of(name))
    assert shelf.prune(keep_last=1).status == "success"
    assert [path.name for path in disk.iterdir()] == names(3)


def test_a_copy_stands_in_for_a_first_place_that_lost_the_archive(
    shelf: Shelf, storage: MemoryStorage
) -> None:
    """(case 76)"""
    (shelf.folder / "docs_0003.zip").unlink()
    done = shelf.prune(keep_last=1)
    assert (done.status, [one.seq for one in done.keep]) == ("success", [3])
    storage.delete("docs_0003.zip")
    assert shelf.prune(keep_last=1).status == "partial"
