"""Two addresses of one place, two places that look alike, and sets that several work on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import noise
from rebuilding import make_tree
from recorded import Recorded
from storage.memory import Failing, MemoryStorage, use_also
from test_transfer import listed, small_parts, stored
from test_transfer_killed import killed
from transferring import archives_of, places_of, transfer

from pybak.errors import StorageError
from pybak.home import home
from pybak.storage import unfinished
from pybak.storage.local_folder import FolderStorage
from pybak.storage.protocol import SentPart, Stored
from pybak.transfer import run as run_module

WEEK_NS = 7 * 24 * 3600 * 10**9


class Door:
    """Leads to what `storage` holds by another address, and tells other versions."""

    def __init__(self, storage: MemoryStorage, address: str) -> None:
        self.storage, self.address, self.limits = storage, address, storage.limits

    @staticmethod
    def _told(found: Stored) -> Stored:
        return msgspec.structs.replace(found, version=f"g{found.version}")

    def stat(self, name: str) -> Stored | None:
        found = self.storage.stat(name)
        return found and self._told(found)

    def list(self) -> Iterator[Stored]:
        return map(self._told, self.storage.list())

    def put(self, name: str, body: Any, **more: Any) -> Stored:
        return self._told(self.storage.put(name, body, **more))

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        return self.storage.read(name, offset, length, version=version and version[1:])

    def delete(self, name: str, *, version: str | None = None) -> bool:
        return self.storage.delete(name, version=version and version[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def made(tmp_path: Path, url: str) -> Recorded:
    """Give one backup."""
    made = Recorded(url, tmp_path / "to")
    made.back_up(make_tree(tmp_path))
    return made


@pytest.fixture
def split(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Give one backup in volumes."""
    small_parts(monkeypatch)
    tree = make_tree(tmp_path)
    (tree / "large").write_bytes(noise(150_000))
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree, split="64KiB", checksum=["sha256"])
    assert len(made.outcomes[0].files) == 3
    return made


def test_a_move_to_its_own_place_by_another_kind_of_keys_deletes_nothing(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, far, Door(far, "gs://bucket/far"))  # type: ignore[arg-type]
    transfer(url, job="docs", to=far.address, move=True)
    before, places = stored(far), places_of(url)
    report = transfer(url, job="docs", to="gs://bucket/far", move=True)
    assert report.status == "failed"
    assert "is the archive itself under another address" in (report.archives[0].message or "")
    assert (stored(far), places_of(url)) == (before, places)
    # By a copy nothing is lost: what is there is the archive.
    assert transfer(url, job="docs", to="gs://bucket/far").status == "success"
    assert stored(far) == before


class Mounted(FolderStorage):
    """A folder as a bucket that is mounted there, with versions of its own.

    What is put shows `late` in the folder.
    """

    address = "s3://bucket/mounted"  # type: ignore[assignment]

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.late: set[str] = set()

    def stat(self, name: str) -> Stored | None:
        found = super().stat(name)
        return found and msgspec.structs.replace(found, version="e")

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        assert version in (None, "e")
        return super().read(name, offset, length)

    def put(self, name: str, body: Any, *, temporary: bool = False) -> Stored:
        self.late.add(name)
        return super().put(name, body, temporary=temporary)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_move_from_a_mount_into_its_bucket_deletes_nothing(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    bucket = Mounted(str(made.to))
    real = FolderStorage.stat

    def stat(storage: FolderStorage, name: str) -> Stored | None:
        if is_late and name in bucket.late and storage is not bucket:
            return None
        return real(storage, name)

    monkeypatch.setattr(FolderStorage, "stat", stat)
    use_also(monkeypatch, bucket)
    before, places = listed(made.to), places_of(url)
    report = transfer(url, job="docs", to=bucket.address, move=True)
    assert "is the archive itself" in (report.archives[0].message or "")
    assert bucket.late
    assert (listed(made.to), places_of(url)) == (before, places)


@pytest.mark.parametrize("move", [False, True])
def test_two_places_with_files_of_one_second_and_version_are_two(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    first, second = (MemoryStorage(f"s3://{name}/p", clock=lambda: 10**18) for name in "ab")
    use_also(monkeypatch, first, second)
    for one in (first, second):
        transfer(url, job="docs", to=one.address)
    before = stored(first)
    (name,) = before
    assert first.stat(name) == second.stat(name)
    os.unlink(made.outcomes[0].path)
    dry = transfer(url, job="docs", to=second.address, move=move, dry_run=True)
    assert dry.status == "success"
    report = transfer(url, job="docs", to=second.address, move=move)
    assert (report.status, report.bytes_sent) == ("success", 0)
    assert stored(second) == before
    assert stored(first) == ({} if move else before)


def test_what_a_killed_move_left_is_not_deleted_through_another_address(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = MemoryStorage("s3://near/p"), MemoryStorage("s3://far/p")
    use_also(monkeypatch, near, far, Door(near, "gs://near/p"))  # type: ignore[arg-type]
    transfer(url, job="docs", to=near.address, move=True)
    before = stored(near)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_delete_all", fail)
        assert transfer(url, job="docs", to=far.address, move=True).status == "failed"
    assert [one.is_leaving for one in archives_of(url)[0].copies] == [True]
    report = transfer(url, job="docs", to="gs://near/p", move=True)
    assert report.status == "success"
    assert (stored(near), stored(far)) == (before, {})
    assert [one.copies for one in archives_of(url)] == [()]


def fail(*_: Any) -> None:
    raise StorageError("the storage broke; try later")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_before_the_first_volume(split: Recorded, second: Path) -> None:
    """Leave the other volumes there, and notes of them."""
    for step in range(30):
        with killed(step, split.url, job="docs", to=second, move=True):
            there = [path.name for path in second.glob("[!.]*")] if second.is_dir() else []
        if len(there) == 2:
            notes = [path.read_text() for path in (home() / "uploads").iterdir()]
            if any(f'"name": "{split.outcomes[0].files[0].name}"' not in one for one in notes):
                return
    raise AssertionError("never")


@pytest.mark.parametrize("way", ["another host", "another address"])
def test_a_set_that_a_later_run_completed_is_not_touched_for_notes_of_a_killed_one(
    split: Recorded, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listed(split.to)
    second, to = tmp_path / "second", tmp_path / "alias"
    monkeypatch.setattr(unfinished, "this_host", lambda: "one")
    killed_before_the_first_volume(split, second)
    if way == "another host":
        monkeypatch.setattr(unfinished, "this_host", lambda: "two")
        to = second
    else:
        to.symlink_to(second)
    assert transfer(split.url, job="docs", to=to, move=True).status == "success"
    assert (listed(second), listed(split.to)) == (before, {})
    assert len(left(home() / "uploads")) == 1
    now_ns = time.time_ns() + WEEK_NS + 10**12
    unfinished.clean_up(FolderStorage(str(second)), "docs", now_ns=now_ns)
    assert listed(second) == before
    assert left(home() / "uploads") == []


def at_first_volume(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something while the first volume is being sent."""
    real = FolderStorage.send
    is_done = False

    def send(storage: FolderStorage, upload: Any, number: int, body: Any) -> SentPart:
        nonlocal is_done
        if upload.name.endswith(".001") and not is_done:
            is_done = True
            act()
        return real(storage, upload, number, body)

    monkeypatch.setattr(FolderStorage, "send", send)


def test_a_failing_copy_leaves_what_another_one_completed(
    split: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second"

    def beside() -> None:
        assert transfer(split.url, job="docs", to=second).archives[0].status == "copied"
        raise StorageError("the disk broke")

    at_first_volume(monkeypatch, beside)
    report = transfer(split.url, job="docs", to=second)
    assert report.status == "failed"
    assert listed(second) == listed(split.to)


def test_a_copy_whose_volumes_were_taken_back_by_another_one_is_not_whole(
    split: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last look is behind its first volume, from which on nobody deletes others."""
    second = tmp_path / "second"
    before = listed(split.to)
    victim = split.outcomes[0].files[1].name
    at_first_volume(monkeypatch, lambda: (second / victim).unlink())
    report = transfer(split.url, job="docs", to=second, move=True)
    assert report.status == "failed"
    assert "is gone again; try again" in (report.archives[0].message or "")
    assert (listed(second), listed(split.to)) == ({}, before)
    assert transfer(split.url, job="docs", to=second, move=True).status == "success"
    assert (listed(second), listed(split.to)) == (before, {})


def test_a_volume_that_arrived_damaged_is_taken_back_from_a_whole_set(
    split: Recorded, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, far)
    transfer(url, job="docs", to=far.address)
    name = split.outcomes[0].files[1].name
    far.delete(name)
    make = far._make
    monkeypatch.setattr(far, "_make", lambda name, data: make(name, data[:-1] + b"?"))
    report = transfer(url, job="docs", to=far.address)
    assert "holds other bytes than were sent" in (report.archives[0].message or "")
    assert name not in far.names
    assert len(far.names) == 3


def test_a_destination_where_nothing_may_be_deleted_keeps_one_probe(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = MemoryStorage("s3://bucket/far", least=1000)

    def denied() -> StorageError:
        return StorageError("may not be deleted", is_denied=True)

    use_also(monkeypatch, Failing(far, lambda method, _: method == "delete", error=denied))
    path = made.outcomes[0].path
    data = path.read_bytes()
    for _ in range(4):
        path.write_bytes(data)
        other = f"sqlite:///{made.to}/none.db"
        assert transfer(other, path, to=far.address, move=True).status == "success"
        assert not path.exists()
    assert len(far.names) == 2


def test_where_no_probe_can_be_put_nothing_is_deleted(
    made: Recorded, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, far)
    transfer(url, job="docs", to=far.address)
    use_also(monkeypatch, Failing(far, lambda method, _: method == "put"))
    before = listed(made.to)
    assert transfer(url, job="docs", to=far.address, move=True).status == "failed"
    assert listed(made.to) == before
