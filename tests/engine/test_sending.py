"""Backups sent to a storage while they are made: every format, volumes, large files."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, PASSWORD, back_up, judge_outcome, noise, prose, shrink
from moving import Moving, append, rewrite
from sent import nothing_is_left, send, small_parts
from storage.memory import Failing, MemoryStorage, used

from pybak.backup import compress as compress_module
from pybak.backup.run import BackupRun
from pybak.errors import (
    ArchiveError,
    ExistsError,
    Interrupted,
    NotFoundError,
    PlanError,
    StorageError,
)
from pybak.options import BackupOptions
from pybak.problems import CHANGED, VANISHED
from pybak.storage.protocol import Upload

PART = 60_000
WAYS: dict[str, dict[str, Any]] = {
    **FORMATS,
    "zip in volumes": {"split": "64KiB"},
    "aes in volumes": {"password": PASSWORD, "split": "64KiB"},
    "tar.zst in volumes": {"format": "tar.zst", "split": "64KiB"},
    "wrapped tar.gz": {"format": "tar.gz", "password": PASSWORD},
    "wrapped zip": {"hide_names": True, "password": PASSWORD},
    "wrapped tar in volumes": {"format": "tar", "password": PASSWORD, "split": "70KiB"},
    "wrapped zip in volumes": {"hide_names": True, "password": PASSWORD, "split": "70KiB"},
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    shrink(monkeypatch, part=PART)
    small_parts(monkeypatch)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(least=5_000)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    for number in range(40):
        (src / f"f{number:02d}").write_bytes(prose(3_000, number))
    (src / "large").write_bytes(noise(4 * PART + 77))
    (src / "larger").write_bytes(prose(5 * PART, 5))
    return src


def expected(src: Path) -> dict[str, bytes]:
    return {f"src/{path.name}": path.read_bytes() for path in src.iterdir()} | {"src/": b""}


@pytest.mark.parametrize("way", WAYS)
def test_every_format_arrives_as_stock_tools_want_it(
    src: Path, tmp_path: Path, storage: MemoryStorage, way: str
) -> None:
    done = send(src, storage=storage, place=tmp_path / "got", chunk_size=4, **WAYS[way])
    judge_outcome(done)
    assert done.contents == expected(src)
    assert storage.calls["send"] > 5
    assert sum(size < 5_000 for size in storage.sizes) <= len(done.report.volumes)
    assert len(storage.files) == len(done.report.volumes)
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize(
    "how", [{}, {"split": "64KiB"}, {"format": "tar.gz", "password": PASSWORD}]
)
def test_checksum_files_say_what_is_stored(
    src: Path, tmp_path: Path, storage: MemoryStorage, how: dict[str, Any]
) -> None:
    done = send(src, storage=storage, place=tmp_path / "got", checksum=["sha256", "md5"], **how)
    for kind in ("sha256", "md5"):
        name = f"{done.path.name}.{kind}"
        assert os.system(f"cd {tmp_path}/got && {kind}sum -c --quiet {name}") == 0
    assert len(done.report.checksum_files) == 2
    judge_outcome(done)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("act", [append, rewrite])
def test_a_large_file_that_moves_is_made_once_more(
    src: Path, tmp_path: Path, storage: MemoryStorage, act: Callable[[Path, int], object], way: str
) -> None:
    """Though much of it was sent (case 48)."""
    victim = src / "larger"
    read = Moving(victim, act, times=1)
    done = send(src, storage=storage, place=tmp_path / "got", read=read, threads=1, **WAYS[way])
    assert read.done == 1
    judge_outcome(done)
    assert done.contents == expected(src)
    assert done.errors == {}
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("way", WAYS)
def test_a_large_file_that_vanishes_between_its_parts_is_left_out(
    src: Path, tmp_path: Path, storage: MemoryStorage, way: str
) -> None:
    """(case 44)"""
    victim = src / "larger"
    read = Moving(victim, lambda path, _: path.unlink(), times=1)
    done = send(src, storage=storage, place=tmp_path / "got", read=read, threads=1, **WAYS[way])
    judge_outcome(done)
    assert done.skipped == {str(victim): VANISHED}
    assert done.contents == expected(src)


@pytest.mark.parametrize("way", ["wrapped tar.gz", "wrapped tar in volumes"])
def test_what_was_encrypted_and_sent_stays_as_it_was_read(
    src: Path, tmp_path: Path, storage: MemoryStorage, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file beyond what may wait is not made again, but flagged (case 48)."""
    monkeypatch.setattr("pybak.backup.shipping.LEAST_STAGING_LIMIT", 0)
    (src / "larger").write_bytes(noise(5 * PART, 5))
    victim = src / "larger"
    read = Moving(victim, append, times=1)
    done = send(
        src, storage=storage, place=tmp_path / "got", read=read, threads=1,
        staging_limit="200kB", **WAYS[way],
    )  # fmt: skip
    judge_outcome(done)
    assert done.errors == {str(victim): CHANGED}
    assert len(done.contents["src/larger"]) >= 5 * PART
    vanish = Moving(victim, lambda path, time: time == 30 and path.unlink(), times=30)
    with pytest.raises(ArchiveError, match=r"larger: .* sent and encrypted; run the backup again"):
        send(
            src, storage=storage, place=tmp_path / "got", read=vanish, threads=1, workers=1,
            staging_limit="200kB", **WAYS[way],
        )  # fmt: skip
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("way", ["zip", "tar.zst in volumes", "wrapped zip in volumes"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_failure_of_any_call_leaves_nothing(
    src: Path, tmp_path: Path, way: str, lost: bool
) -> None:
    """One line that says what happened; what was there stays (cases 59, 60, 63)."""
    inner = MemoryStorage(least=5_000)
    inner.add("other", b"theirs")
    seen: list[str] = []
    counting = Failing(inner, lambda method, _: bool(seen.append(method)))
    with used(counting):
        back_up(src, to=counting.address, checksum=["md5"], **WAYS[way])  # type: ignore[arg-type]
    kinds = list(dict.fromkeys(seen))
    assert {"check", "stat", "begin", "send", "complete", "put"} <= set(kinds)
    for kind in kinds:
        for number in sorted({1, (seen.count(kind) + 1) // 2, seen.count(kind)}):
            storage = MemoryStorage(least=5_000)
            storage.add("other", b"theirs")
            failing = Failing(storage, nth(kind, number), after=lost)
            with used(failing):
                problem = problem_of(src, failing, checksum=["md5"], **WAYS[way])
            assert failing.fired == [kind]
            if kind not in ("unfinished", "list", "abort", "delete"):
                assert "the storage broke" in problem
                assert storage.names == ["other"]
            assert storage["other"] == b"theirs"
            if not (lost and kind == "begin"):  # nobody could know of that one
                nothing_is_left(storage, tmp_path / "home")


def nth(kind: str, number: int) -> Callable[[str, int], bool]:
    """Say when the call of this number comes, from 1, of one method."""
    counts = itertools.count(1)
    return lambda method, _: method == kind and next(counts) == number


def problem_of(src: Path, storage: Any, **how: Any) -> str:
    try:
        back_up(src, to=storage.address, **how)
    except StorageError as error:
        return str(error)
    return ""


def test_bad_credentials_end_the_run_before_a_file_is_looked_at(tmp_path: Path) -> None:
    """(case 61)"""
    refused = Failing(
        MemoryStorage(), lambda method, _: method == "check",
        error=lambda: StorageError("s3://bucket/backups: access denied; check the credentials"),
    )  # fmt: skip
    with used(refused), pytest.raises(StorageError, match="access denied"):
        back_up(tmp_path, to=refused.address)  # type: ignore[arg-type]
    assert refused.fired == ["check"]


def test_a_missing_bucket_is_told(tmp_path: Path, storage: MemoryStorage) -> None:
    storage.is_there = False
    with used(storage), pytest.raises(NotFoundError, match="no such bucket"):
        back_up(tmp_path, to=storage.address)  # type: ignore[arg-type]


def begin(src: Path, storage: MemoryStorage, **more: Any) -> BackupRun:
    given = {name: more.pop(name) for name in ("output", "job", "scratch") if name in more}
    given = {"output": None, "job": None} | given
    to = None if given["output"] else storage.address
    return BackupRun([str(src)], to=to, options=BackupOptions(**more), **given)


def test_names_are_chosen_as_in_a_folder(
    src: Path, tmp_path: Path, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_2` behind a default name that is taken; a name that was asked for is refused."""
    address = storage.address
    monkeypatch.setattr("pybak.storage.naming.default_name", lambda *_: "same.zip")
    storage.add("same.zip", b"1")
    storage.add("same_2.zip.md5", b"2")
    storage.add("asked.zip", b"3")
    storage.add("set.zip.003", b"4")
    with used(storage):
        with begin(src, storage) as run:
            assert run.destination.name == "same_2.zip"
        with begin(src, storage, checksum=["md5"]) as run:
            assert run.destination.name == "same_3.zip"
        with begin(src, storage, output=f"{address}/new.tar.gz") as run:
            assert (run.destination.name, run.format) == ("new.tar.gz", "tar.gz")
        with pytest.raises(ExistsError, match=r"asked\.zip: exists already"):
            begin(src, storage, output=f"{address}/asked.zip")
        with pytest.raises(ExistsError, match=r"set\.zip\.003: exists already"):
            begin(src, storage, output=f"{address}/set.zip", split="64KiB")
        with pytest.raises(PlanError, match="names no file"):
            begin(src, storage, output="s3://bucket")
        with pytest.raises(PlanError, match="give 64MiB or more"):
            begin(src, storage, staging_limit="1MB")
    nothing_is_left(storage, tmp_path / "home")


def test_a_dry_run_writes_nothing_there(src: Path, tmp_path: Path, storage: MemoryStorage) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with used(storage), begin(src, storage, scratch=scratch) as run:
        run.choose_base(None)
        kept = run.filter(run.discover())
        summary = run.plan_summary(run.plan(kept), kept)
    assert summary.destination.startswith(f"{storage.address}/backup_")
    assert set(storage.calls) == {"check", "stat"}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_cancel_anywhere_takes_everything_back(
    src: Path, tmp_path: Path, storage: MemoryStorage, after: int
) -> None:
    """(case 95)"""
    with used(storage), begin(src, storage, chunk_size=4) as run:
        run.choose_base(None)
        plan = run.plan(run.filter(run.discover()))
        with run.assembling():
            compress_module.compress_batches(run.staging, range(after))
            run.request_cancel()
            with pytest.raises(Interrupted):
                compress_module.compress_batches(run.staging, range(after, plan.batches))
    assert storage.names == []
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("way", ["zip", "tar", "wrapped tar.gz", "zip in volumes"])
def test_staging_stays_below_its_limit(
    src: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressing waits for a slow storage, and the run ends (case 65)."""
    monkeypatch.setattr("pybak.backup.shipping.LEAST_STAGING_LIMIT", 0)
    monkeypatch.setattr("pybak.backup.sending.FLUSH_BYTES", 50_000)
    monkeypatch.setattr("pybak.backup.send_wrapped.FLUSH_BYTES", 50_000)
    for number in range(60):
        (src / f"n{number:02d}").write_bytes(noise(20_000, number))

    class Slow(MemoryStorage):
        def send(self, upload: Upload, number: int, body: Any) -> Any:
            time.sleep(0.02)
            return super().send(upload, number, body)

    storage, limit, peak = Slow(least=5_000), 400_000, 0
    done = threading.Event()

    def measure() -> None:
        nonlocal peak
        while not done.wait(0.002):
            total = 0
            for path in (tmp_path / "home/staging").glob("*/segments/*"):
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    continue
            peak = max(peak, total)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        made = send(
            src, storage=storage, place=tmp_path / "got", staging_limit=str(limit), chunk_size=4,
            threads=3, level=1, **WAYS[way],
        )  # fmt: skip
    finally:
        done.set()
        thread.join()
    assert made.contents == expected(src)
    assert made.report.bytes_stored > 3 * limit
    assert 100_000 < peak <= limit * 1.3  # files are measured one after the other


def test_a_task_that_never_starts_does_not_stop_the_others(
    src: Path, tmp_path: Path, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wanted next is made by who waits for it, if workers wait for room."""
    monkeypatch.setattr("pybak.backup.shipping.LEAST_STAGING_LIMIT", 0)
    monkeypatch.setattr("pybak.backup.arrivals._PATIENCE_SECONDS", 0.1)
    with used(storage), begin(src, storage, chunk_size=4, staging_limit="70kB") as run:
        run.choose_base(None)
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        with run.assembling() as archive:
            compress_module.compress_batches(run.staging, range(plan.batches - 1, 0, -1))
            compress_module.compress_batches(run.staging, range(1))
            assembly = archive.finish(run.header(), run.owner_names())
        run.publish(assembly, 0)
    assert len(storage.names) == 1


# -- what a kill leaves


def killed(src: Path, storage: MemoryStorage, *, published: bool = False, **how: Any) -> BackupRun:
    """Give a run that will do nothing more, and whose locks are let go; its work is half done."""
    run = begin(src, storage, chunk_size=4, **how)
    run.choose_base(None)
    kept = run.filter(run.discover())
    plan = run.plan(kept)
    archive = run.assembling()
    compress_module.compress_batches(run.staging, range(plan.batches))
    assembly = archive.finish(run.header(), run.owner_names())
    if published:
        with pytest.raises(StorageError):
            run.publish(assembly, 0)
    assert run._shipment is not None
    assert run._shipment._notes is not None
    run._shipment._notes._let_go()
    return run


@pytest.mark.parametrize("completed", [0, 1, 2])
def test_a_later_run_removes_what_a_killed_one_left(
    src: Path, tmp_path: Path, storage: MemoryStorage, completed: int
) -> None:
    """Its uploads, and the volumes of a set that has no first one (case 64)."""
    theirs = storage.begin("docs_20200101_000000.zip")
    storage.add("theirs.zip.002", b"theirs")
    done = {"n": 0}

    def stops(method: str, _: int) -> bool:
        done["n"] += method == "complete"
        return method == "complete" and done["n"] > completed

    broken = Failing(storage, stops)
    with used(broken):
        killed(src, broken, published=True, split="64KiB")  # type: ignore[arg-type]
    assert len(storage.uploads) > 1
    assert len(storage.names) == 1 + completed
    with used(storage), begin(src, storage):
        assert storage.names == ["theirs.zip.002"]
        assert list(storage.uploads.values()) == [theirs]
    assert os.listdir(tmp_path / "home/uploads") == []


def test_a_killed_run_whose_archive_is_whole_keeps_it(
    src: Path, tmp_path: Path, storage: MemoryStorage
) -> None:
    broken = Failing(storage, lambda method, _: method == "put")
    with used(broken):
        killed(src, broken, published=True, split="64KiB", checksum=["md5"])  # type: ignore[arg-type]
    names = storage.names
    assert len(names) > 3
    with used(storage), begin(src, storage):
        assert storage.names == names
    assert os.listdir(tmp_path / "home/uploads") == []


def test_a_run_that_lives_is_left_alone(src: Path, tmp_path: Path, storage: MemoryStorage) -> None:
    with used(storage), begin(src, storage, chunk_size=4) as run:
        run.choose_base(None)
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        with run.assembling() as archive:
            compress_module.compress_batches(run.staging, range(plan.batches))
            assembly = archive.finish(run.header(), run.owner_names())
        before = dict(storage.uploads)
        assert before
        with begin(src, storage, output=f"{storage.address}/b.zip"):
            assert storage.uploads == before
        run.publish(assembly, 0)
    nothing_is_left(storage, tmp_path / "home")


def test_old_uploads_of_this_jobs_names_are_aborted(src: Path, storage: MemoryStorage) -> None:
    """Those of other jobs, other names and other days stay."""
    week = 7 * 24 * 3600 * 10**9
    now = time.time_ns()
    names = [
        ("docs_20200101_000000.zip", now - week - 10**12, True),
        ("docs_20200101_000000.tar.zst.004", now - week - 10**12, True),
        ("docs_20200101_000000.zip", now - week + 10**12, False),
        ("docs_20200101_000000.zip", 0, False),
        ("other_20200101_000000.zip", now - 2 * week, False),
        ("mine.zip", now - 2 * week, False),
    ]
    for number, (name, started, _) in enumerate(names):
        storage.uploads[f"t{number}"] = Upload(name, f"t{number}", started)
        storage.parts[f"t{number}"] = {}
    with used(storage), begin(src, storage, job="docs"):
        left = set(storage.uploads)
    assert left == {f"t{number}" for number, (_, _, goes) in enumerate(names) if not goes}


def test_what_can_not_be_taken_back_now_stays_noted(
    src: Path, tmp_path: Path, storage: MemoryStorage
) -> None:
    gone = {"is": False}
    broken = Failing(storage, lambda method, _: gone["is"])
    with used(broken), begin(src, broken) as run:  # type: ignore[arg-type]
        run.choose_base(None)
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        with run.assembling() as archive:
            compress_module.compress_batches(run.staging, range(plan.batches))
            assembly = archive.finish(run.header(), run.owner_names())
        gone["is"] = True
        with pytest.raises(StorageError):
            run.publish(assembly, 0)
    assert len(storage.uploads) == 1
    assert len(os.listdir(tmp_path / "home/uploads")) == 1
    with used(storage), begin(src, storage):
        assert storage.uploads == {}
    nothing_is_left(storage, tmp_path / "home")
