"""A backup that is planned, and begun to be compressed, before its flow is there."""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pybak.backup import run as run_module
from pybak.backup.batches import index_path, read_batch
from pybak.backup.compress import compress_batches
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from pybak.clusters import HELPERS
from pybak.errors import Interrupted, StorageError
from pybak.options import BackupOptions
from pybak.workers import pool
from pybak.workers.pool import HelperPool
from tests.waiting import wait_for

FILES = 60


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a tree whose batches have three files each."""
    monkeypatch.setattr(run_module, "_WORTH_WALKING_AHEAD", 20)
    for number in range(FILES):
        folder = tmp_path / "src" / f"d{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_text(f"content of {number}\n" * number)
    (tmp_path / "src" / "left.tmp").touch()
    return tmp_path / "src"


def new_run(source: Path, password: bytes | None = None, **options: Any) -> BackupRun:
    settings = {"workers": 2, "cluster": HELPERS, "chunk_size": 3, "exclude": ["*.tmp"]} | options
    return BackupRun(
        [str(source)], output=None, to=str(source.parent / "store"), job="docs",
        options=BackupOptions(**settings), password=password,
    )  # fmt: skip


def packed(run: BackupRun) -> list[str]:
    """Give the segments that are there."""
    folder = run.staging / "segments"
    return os.listdir(folder) if folder.exists() else []


def packers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("pack-ahead")]


def planned(run: BackupRun) -> tuple[BackupPlan, list[Any]]:
    plan = run.plan(run.filter(run.discover()))
    return plan, [read_batch(run.staging, n, plan.parts) for n in range(plan.batches)]


def test_it_is_the_plan_that_the_run_would_make(source: Path) -> None:
    with new_run(source) as run:
        assert run.begin_ahead()
        plan, batches = planned(run)
        assert not packers(), "nobody works on it once it is taken"
        roots = run.roots
    with new_run(source) as run:
        other, others = planned(run)
        assert run.roots == roots
    changed = {"staging": other.staging}
    assert {**_fields(plan), **changed} == _fields(other)
    assert batches == others
    assert plan.files == FILES


def _fields(plan: BackupPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}


def test_segments_are_there_before_the_flow_is_and_are_not_made_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: len(packed(run)) >= 2, told="segments")
        plan, _ = planned(run)
        there = [n for n in range(plan.batches) if index_path(run.staging, n).exists()]
        assert len(there) >= 2
        from pybak.backup import compress

        real = compress.make_segment

        def note(folder: Path, number: int, *rest: Any, **how: Any) -> Any:
            made.append(number)
            return real(folder, number, *rest, **how)

        monkeypatch.setattr(compress, "make_segment", note)
        compress_batches(plan.staging, range(plan.batches))
        assert sorted(made + there) == list(range(plan.batches))


def test_what_changed_since_is_planned_anew_and_nothing_of_before_is_taken(source: Path) -> None:
    """As where the catalog fails at the comparison: all is looked at once more."""
    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: len(packed(run)) >= 2, told="segments")
        run.filter(run.discover())
        (source / "a-new-one").write_text("first in its folder")
        found = run.discover()
        assert packed(run) == []
        assert not packers()
        plan = run.plan(run.filter(found))
        assert plan.files == FILES + 1
        assert packed(run) == []
        assert os.listdir(run.staging / "progress") == []


def test_another_plan_than_the_one_made_takes_nothing_of_it(source: Path) -> None:
    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: len(packed(run)) >= 2, told="segments")
        kept = run.filter(run.discover())
        run.options.chunk_size = 5
        plan = run.plan(kept)
        assert packed(run) == []
        assert plan.batches < FILES // 3


def test_members_that_are_encrypted_wait_for_the_archive(source: Path) -> None:
    with new_run(source, password=b"a long password") as run:
        assert run.begin_ahead()
        plan, _ = planned(run)
        assert plan.files == FILES
        assert packed(run) == []


@pytest.mark.parametrize("mode", ["incremental", "differential"])
def test_a_job_s_first_run_is_full_whatever_it_is_called(source: Path, mode: str) -> None:
    with new_run(source, mode=mode) as run:
        assert run.begin_ahead(is_first=True)
        wait_for(lambda: packed(run), told="a segment")
        run.choose_base(None)
        plan, _ = planned(run)
        assert packed(run), "the plan is the one that was made"
        assert plan.files == FILES


@pytest.mark.parametrize("options", [{"mode": "incremental"}, {"cluster": "threads"}])
def test_only_what_will_be_packed_by_helpers_is(source: Path, options: dict[str, Any]) -> None:
    with new_run(source, **options) as run:
        assert run.begin_ahead()
        run.discover()
        assert packed(run) == []
        assert not packers()


def test_a_run_that_is_left_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[HelperPool] = []
    real = pool.make_ready

    def note(*how: Any, **more: Any) -> HelperPool | None:
        made = real(*how, **more)
        if made is not None:
            pools.append(made)
        return made

    monkeypatch.setattr("pybak.backup.head_start.make_ready", note)
    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: packed(run), told="a segment")
    assert [one._all for one in pools] == [set()]
    assert not packers()
    assert not run.staging.exists()


def test_a_request_to_stop_ends_it(source: Path) -> None:
    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: packed(run), told="a segment")
        run.request_cancel()
        wait_for(lambda: not packers(), told="the end of the threads")


def test_a_batch_that_hangs_is_left_when_somebody_asks_to_stop(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, end = threading.Event(), threading.Event()

    def hang(*_: object) -> int:
        begun.set()
        end.wait(60)
        return 0

    monkeypatch.setattr(HelperPool, "compress", hang)
    monkeypatch.setattr("pybak.backup.head_start._LOOKS_AT_THE_END", 1)
    with new_run(source) as run:
        assert run.begin_ahead()
        assert begun.wait(60)
        kept = run.filter(run.discover())
        threading.Timer(0.2, run.request_cancel).start()
        with pytest.raises(Interrupted):
            run.plan(kept)
    assert packers()
    end.set()
    wait_for(lambda: not packers(), told="the end of the threads")


def test_only_so_much_is_compressed_ahead(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes segments away yet."""
    size = sum(path.stat().st_size for path in source.rglob("file*"))
    monkeypatch.setattr("pybak.backup.pack_ahead._MOST_BYTES", size // 4)
    with new_run(source) as run:
        assert run.begin_ahead()
        wait_for(lambda: packed(run) and not packers(), told="the end of the threads")
        plan, _ = planned(run)
        assert plan.batches >= FILES // 3
        there = [name for name in packed(run) if name.endswith(".index")]
        assert 0 < len(there) <= plan.batches // 4


def test_no_thread_is_needed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name.startswith("pack-ahead"):
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with new_run(source) as run:
        assert run.begin_ahead()
        plan, _ = planned(run)
        assert plan.files == FILES


def _failing(*_: object) -> int:
    raise StorageError("the disk is full")


@pytest.mark.parametrize("format_name", ["zip", "tar.gz"])
@pytest.mark.parametrize("hinder", [None, _failing])
def test_the_archive_has_everything(
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    hinder: Callable[..., int] | None,
    format_name: str,
) -> None:
    """Whatever was done before; what went wrong is met again by the flow."""
    if hinder is not None:
        monkeypatch.setattr(HelperPool, "compress", hinder)
    with new_run(source, format=format_name) as run:
        assert run.begin_ahead()
        if hinder is None:
            wait_for(lambda: len(packed(run)) >= 2, told="segments")
        kept = run.filter(run.discover())
        plan = run.plan(kept)
        with run.assembling() as archive:
            compress_batches(plan.staging, range(plan.batches))
            assembly = archive.finish(run.header(), run.owner_names(), run.conclude(kept))
        report = run.report(
            kept=kept, assembly=assembly, stored=run.publish(assembly, run.cut(assembly))
        )
    assert report.files.failed == 0
    contents = (_of_zip if format_name == "zip" else _of_tar)(Path(report.archive or ""))
    assert contents == {
        f"src/d{number % 7}/file{number}": (f"content of {number}\n" * number).encode()
        for number in range(FILES)
    }


def _of_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        names = [name for name in opened.namelist() if name.startswith("src/")]
        return {name: opened.read(name) for name in names if not name.endswith("/")}


def _of_tar(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as opened:
        for member in opened:
            content = opened.extractfile(member)
            if content is not None and member.name.startswith("src/"):
                found[member.name] = content.read()
    return found
