"""Workers on other hosts: they see the sources and the storage, and nothing of the run's disk."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import FORMATS, PASSWORD, Outcome, judge_outcome, noise, prose, shrink
from moving import Moving, append
from sent import nothing_is_left, send, small_parts
from storage.memory import Failing, MemoryStorage, used

from pybak.backup.hands import Hand
from pybak.backup.parcels import compress_parcel
from pybak.backup.run import BackupRun
from pybak.errors import PlanError, StorageError
from pybak.options import BackupOptions
from pybak.storage.protocol import SentPart, Stored, Upload
from pybak.storage.unfinished import clean_up

LEAST = 5_000
HOW: dict[str, Any] = {"chunk_size": 4, "cluster": "tcp://scheduler:8786"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("pybak.backup.parcels._INLINE_BYTES", 1_000)
    shrink(monkeypatch, part=60_000)
    small_parts(monkeypatch, 12_000)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    for number in range(60):
        (src / f"f{number:03d}").write_bytes(noise(6_000, number) + prose(500, number))
    (src / "large").write_bytes(noise(400_000))
    os.link(src / "f003", src / "linked")
    return src


def expected(src: Path) -> dict[str, bytes]:
    return {f"src/{path.name}": path.read_bytes() for path in src.iterdir()}


class Elsewhere:
    """Does the hands of a run as workers of another host would."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.run: BackupRun | None = None
        self.most = 0

    def note(self, run: BackupRun) -> None:
        self.run = run

    def compress(self, _folder: Path, numbers: range, **more: Any) -> None:
        assert self.run is not None
        parcel = self.run.parcel(Hand(numbers.start, numbers.stop, numbers.step))
        returned = compress_parcel(parcel, place=self.place, **more)
        self.most = max(self.most, len(returned))
        self.run.take_in(numbers.start, returned)


def back_up_elsewhere(src: Path, storage: Any, tmp_path: Path, **how: Any) -> Outcome:
    host = Elsewhere(tmp_path / "elsewhere")
    how = {"before_reading": host.note, "compress": host.compress, **HOW, **how}
    done = send(src, storage=storage, place=tmp_path / "got", **how)
    assert os.listdir(host.place) == []
    assert host.most < 10_000
    return done


@pytest.mark.parametrize("kind", ["zip", "aes", "tar", "tar.zst"])
@pytest.mark.parametrize("least", [0, LEAST])
def test_only_records_come_back(src: Path, tmp_path: Path, kind: str, least: int) -> None:
    """What must be joined goes through the storage, and nothing of it stays."""
    storage = MemoryStorage(least=least)
    more = {"password_block": "archives"} if kind == "aes" else {}
    done = back_up_elsewhere(src, storage, tmp_path, **FORMATS[kind], **more)
    judge_outcome(done)
    contents = done.contents
    wanted = expected(src) | ({"src/linked": b"src/f003"} if "tar" in kind else {})
    if "tar" in kind:
        wanted["src/linked"] = contents["src/linked"]
    assert {name: contents[name] for name in wanted} == wanted
    assert storage.names == [done.path.name]
    if least:
        assert storage.calls["put"] > 2
    nothing_is_left(storage, tmp_path / "home")


def test_a_small_backup_is_sent_from_there_too(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "a").write_bytes(b"a")
    storage = MemoryStorage(least=LEAST)
    done = back_up_elsewhere(src, storage, tmp_path)
    judge_outcome(done)
    assert storage.names == [done.path.name]
    nothing_is_left(storage, tmp_path / "home")


def test_a_large_file_that_moves_is_made_again_by_the_run_itself(src: Path, tmp_path: Path) -> None:
    """(case 48)"""
    storage = MemoryStorage(least=LEAST)
    read = Moving(src / "large", append, times=1)
    done = back_up_elsewhere(src, storage, tmp_path, read=read, threads=1)
    judge_outcome(done)
    contents = done.contents
    assert {name: contents[name] for name in expected(src)} == expected(src)


def test_a_failure_leaves_nothing_hidden(src: Path, tmp_path: Path) -> None:
    inner = MemoryStorage(least=LEAST)
    seen: list[str] = []

    def fails(method: str, _: int) -> bool:
        seen.append(method)
        return method == "send" and seen.count("send") > 25

    with pytest.raises(StorageError, match="the storage broke"):
        back_up_elsewhere(src, Failing(inner, fails), tmp_path)
    assert inner.names == []
    nothing_is_left(inner, tmp_path / "home")


def test_hidden_files_of_a_killed_run_are_removed_by_a_later_one(src: Path, tmp_path: Path) -> None:
    """(case 64)"""
    storage = MemoryStorage(least=LEAST)
    storage.add(".pybak-other", b"theirs")
    with used(storage):
        options = BackupOptions(workers=2, **HOW)
        run = BackupRun([str(src)], output=None, to=storage.address, job=None, options=options)
        run.choose_base(None)
        plan = run.plan(run.filter(run.discover()))
        with run.assembling():
            for hand in plan.hands[1:]:
                compress_parcel(run.parcel(hand), place=tmp_path / "elsewhere")
            run.request_cancel()
        assert len(storage.names) > 3
        assert run._shipment is not None
        assert run._shipment._notes is not None
        run._shipment._notes._let_go()
        shutil.rmtree(run.staging)
        with BackupRun([str(src)], output=None, to=storage.address, job=None,
                       options=BackupOptions()):  # fmt: skip
            assert storage.names == [".pybak-other"]
            assert storage.uploads == {}


def test_a_typed_password_is_refused(src: Path) -> None:
    storage = MemoryStorage(least=LEAST)
    with used(storage), pytest.raises(PlanError, match="--password-block"):
        BackupRun(
            [str(src)], output=None, to=storage.address, job=None,
            options=BackupOptions(**HOW), password=PASSWORD,
        )  # fmt: skip


class Locking(MemoryStorage):
    """Keeps what is put there for good, unless it is said to be temporary."""

    def __init__(self, *, keeps_all: bool = False) -> None:
        super().__init__(least=LEAST)
        self.keeps_all = keeps_all
        self.locked: set[str] = set()

    def put(self, name: str, body: Any, *, temporary: bool = False) -> Stored:
        if self.keeps_all or not temporary:
            self.locked.add(name)
        return super().put(name, body, temporary=temporary)

    def delete(self, name: str, *, version: str | None = None) -> bool:
        if name in self.locked:
            raise StorageError(f"{name}: is locked; delete it later")
        return super().delete(name, version=version)


@pytest.mark.parametrize("keeps_all", [False, True])
def test_a_storage_with_object_lock_gets_the_archive(
    src: Path, tmp_path: Path, keeps_all: bool
) -> None:
    """Hidden files are not locked; where the bucket locks all, they stay until that ends."""
    storage = Locking(keeps_all=keeps_all)
    done = back_up_elsewhere(src, storage, tmp_path)
    judge_outcome(done)
    hidden = [name for name in storage.names if name.startswith(".pybak-")]
    assert [name for name in storage.names if name not in hidden] == [done.path.name]
    assert bool(hidden) is keeps_all
    late_ns = time.time_ns() + 2 * 24 * 3600 * 10**9
    storage.locked.clear()
    assert clean_up(storage, None, folder=tmp_path / "none", now_ns=late_ns) == len(hidden)
    assert storage.names == [done.path.name]


class Twice(Elsewhere):
    """Has a second worker do each stretch, too.

    `which` says whose record counts: of the first or the second one, or of the first, and the
    second is not done by then.
    """

    def __init__(self, place: Path, which: str) -> None:
        super().__init__(place)
        self.which = which

    def compress(self, _folder: Path, numbers: range, **more: Any) -> None:
        assert self.run is not None
        parcel = self.run.parcel(Hand(numbers.start, numbers.stop, numbers.step))
        first = compress_parcel(parcel, place=self.place, **more)
        if self.which == "first, early":
            self.run.take_in(numbers.start, first)
        second = compress_parcel(parcel, place=self.place, **more)
        if self.which != "first, early":
            self.run.take_in(numbers.start, first if self.which == "first" else second)


class SameToken(MemoryStorage):
    """Calls the same bytes of a part the same, as S3 does by their ETag."""

    def send(self, upload: Upload, number: int, body: Any) -> SentPart:
        part = msgspec.structs.replace(super().send(upload, number, body), token=body.sha256)
        data, _ = self.parts[upload.token][number]
        self.parts[upload.token][number] = (data, part)
        return part


@pytest.mark.parametrize("which", ["first", "second", "first, early"])
def test_what_a_second_worker_left_does_not_stay(src: Path, tmp_path: Path, which: str) -> None:
    """Each try has files of its own, and all are gone at the end (case 64)."""
    storage = SameToken(least=LEAST)
    host = Twice(tmp_path / "elsewhere", which)
    how = {**HOW, "before_reading": host.note, "compress": host.compress}
    done = send(src, storage=storage, place=tmp_path / "got", **how)
    judge_outcome(done)
    contents = done.contents
    assert {name: contents[name] for name in expected(src)} == expected(src)
    assert storage.names == [done.path.name]
    nothing_is_left(storage, tmp_path / "home")


class Lost(Elsewhere):
    """Loses what a worker left in the storage."""

    def __init__(self, place: Path, storage: MemoryStorage) -> None:
        super().__init__(place)
        self.storage = storage

    def compress(self, _folder: Path, numbers: range, **more: Any) -> None:
        assert self.run is not None
        parcel = self.run.parcel(Hand(numbers.start, numbers.stop, numbers.step))
        returned = compress_parcel(parcel, place=self.place, **more)
        for name in self.storage.names:
            self.storage.delete(name)
        self.run.take_in(numbers.start, returned)


def test_hidden_files_that_are_gone_end_the_run_with_what_happened(
    src: Path, tmp_path: Path
) -> None:
    storage = MemoryStorage(least=LEAST)
    host = Lost(tmp_path / "elsewhere", storage)
    how = {**HOW, "before_reading": host.note, "compress": host.compress}
    with pytest.raises(StorageError, match="was deleted before it was used"):
        send(src, storage=storage, place=tmp_path / "got", **how)
    nothing_is_left(storage, tmp_path / "home")


def test_each_try_at_a_stretch_has_files_of_its_own(src: Path, tmp_path: Path) -> None:
    """One that comes later takes nothing away from one that has returned."""
    storage = MemoryStorage(least=LEAST)
    with used(storage):
        options = BackupOptions(workers=2, **HOW)
        with BackupRun(
            [str(src)], output=None, to=storage.address, job=None, options=options
        ) as run:
            run.choose_base(None)
            plan = run.plan(run.filter(run.discover()))
            with run.assembling():
                parcel = run.parcel(plan.hands[1])
                compress_parcel(parcel, place=tmp_path / "elsewhere")
                before = {name: storage.files[name] for name in storage.names}
                compress_parcel(parcel, place=tmp_path / "elsewhere")
                assert before
                assert len(storage.names) == 2 * len(before)
                assert {name: storage.files[name] for name in before} == before
                run.request_cancel()
    assert storage.names == []
