"""A backup whose sources are walked before its flow begins, and the flow that takes it over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written import WrittenJob, file

from flows.support.begun import backup_begun, begun_backup
from pybak.backup import ahead
from pybak.backup import run as run_module
from pybak.backup.ahead import WalkAhead, is_large
from pybak.backup.discover import Discovery
from pybak.backup.markers import CACHE_SIGNATURE
from pybak.backup.rules import Rules
from pybak.backup.run import BackupRun
from pybak.catalog.locks import is_locked, job_lock
from pybak.entries import read_entries
from pybak.errors import Interrupted
from pybak.home import catalog_url
from pybak.options import BackupOptions
from pybak.workers import pool
from pybak.workers.pool import COMPRESSING, HelperPool, helping


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give some folders, which are enough to be walked ahead."""
    monkeypatch.setattr(run_module, "_WORTH_WALKING_AHEAD", 20)
    for number in range(10):
        folder = tmp_path / "src" / f"d{number}"
        folder.mkdir(parents=True)
        (folder / "file").write_text(str(number))
        (folder / "left.tmp").touch()
    (tmp_path / "src" / "d3" / ".nobackup").touch()
    return tmp_path / "src"


def parameters(source: Path, **options: Any) -> dict[str, Any]:
    return {
        "sources": [str(source)], "to": str(source.parent / "store"), "job": "docs",
        "options": BackupOptions(workers=2, **options), "output": None,
    }  # fmt: skip


def new_run(source: Path, **options: Any) -> BackupRun:
    return BackupRun(
        [str(source)], output=None, to=str(source.parent / "store"), job="docs",
        options=BackupOptions(workers=2, **options),
    )  # fmt: skip


def found(run: BackupRun, discovery: Discovery) -> tuple[Any, ...]:
    entries = [(entry.path, entry.size) for entry in read_entries(discovery.entries)]
    counts = (discovery.counts, discovery.total_bytes, discovery.excluded, discovery.problem_count)
    return entries, counts, discovery.entries.relative_to(run.staging)


def test_a_walk_ahead_finds_what_a_walk_finds(source: Path) -> None:
    seen: list[tuple[int, int]] = []
    with new_run(source, exclude=["*.tmp"]) as run:
        assert run.begin_ahead()
        first = found(run, run.discover(lambda *counts: seen.append(counts)))
        second = found(run, run.discover())
    assert first == second
    assert len(first[0]) > 10
    assert seen


def test_a_run_in_a_folder_that_it_saves_does_not_see_itself(source: Path) -> None:
    to = source / "store"
    with BackupRun(
        [str(source)], output=None, to=str(to), job=None, options=BackupOptions(workers=2)
    ) as run:
        assert run.begin_ahead()
        names = [entry.path for entry in read_entries(run.discover().entries)]
    assert b"store" in names
    assert not [name for name in names if name.startswith(b"store/")]


def test_little_is_not_walked_ahead(source: Path, tmp_path: Path) -> None:
    with new_run(source / "d1") as run:
        assert not run.begin_ahead()
    with new_run(source) as run:
        assert is_large(run.roots, run._rules, entries=31)
        assert not is_large(run.roots, run._rules, entries=32)
    with BackupRun(
        [str(source)], output=str(tmp_path / "a.zip"), to=None, job=None,
        options=BackupOptions(workers=1),
    ) as run:  # fmt: skip
        assert not run.begin_ahead(), "no second core"
    assert not is_large([], Rules.build(), entries=1)


def _in_a_folder(source: Path, marker: str, content: str) -> Path:
    """Put the folders into one, and a marker somewhere; give that folder."""
    folder = source.parent / "top" / "dead"
    folder.parent.mkdir()
    source.rename(folder)
    (folder.parent / marker).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("marker", "content", "options"),
    [
        ("file", "", {"exclude": ["dead/"]}),
        ("file", "", {"exclude": ["!d1/", "/dead/d*/"]}),
        (".pybakignore", "dead/d*/", {}),
        ("dead/.pybakignore", "/*/", {"exclude": ["*.tmp"]}),
        ("dead/.nobackup", "", {}),
        ("dead/CACHEDIR.TAG", CACHE_SIGNATURE.decode(), {}),
    ],
)
def test_nothing_is_counted_where_the_walk_will_not_look(
    source: Path, monkeypatch: pytest.MonkeyPatch, marker: str, content: str, options: Any
) -> None:
    """A mount there may never answer."""
    folder = _in_a_folder(source, marker, content)
    opened: list[Any] = []
    real = os.open
    with new_run(folder.parent, **options) as run, monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k))
        assert not run.begin_ahead()
    assert os.fsencode(folder.parent) in opened
    assert os.fsencode(folder / "d1") not in opened


@pytest.mark.parametrize(
    ("marker", "content", "options"),
    [
        (".pybakignore", "dead/", {"exclude": ["!dead/"]}),
        (".pybakignore", "[abc", {}),
        ("dead/.nobackup", "", {"ignore_markers": True}),
        ("dead/CACHEDIR.TAG", "no signature", {}),
        (".nobackup", "", {}),
    ],
)
def test_all_is_counted_where_the_walk_will_look(
    source: Path, marker: str, content: str, options: Any
) -> None:
    folder = _in_a_folder(source, marker, content)
    with new_run(folder.parent, **options) as run:
        assert run.begin_ahead()


def test_its_own_files_are_not_counted(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(_in_a_folder(source, "file", "")))
    with new_run(source.parent / "top") as run:
        assert not run.begin_ahead()


def test_another_device_is_not_counted_on_one_file_system(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mount: the root's device is told wrong."""
    real = os.lstat

    def elsewhere(path: bytes) -> os.stat_result:
        info = real(path)
        return os.stat_result((*info[:2], info.st_dev + 1, *info[3:]))

    with new_run(source, one_file_system=True) as run, monkeypatch.context() as patch:
        patch.setattr(os, "lstat", elsewhere)
        assert not run.begin_ahead()
        assert is_large(run.roots, run._rules, entries=10)


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="only Linux has O_NOATIME")
def test_access_times_of_folders_stay_when_they_are_counted(source: Path) -> None:
    os.utime(source / "d1", ns=(1, 2))
    with new_run(source) as run:
        assert not is_large(run.roots, run._rules, entries=32)
    assert os.stat(source / "d1").st_atime_ns == 1


def _without_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_CODE", "raise SystemExit(1)")


def _with_dying_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_FUNCTION", "os:_exit")


@pytest.mark.parametrize("hinder", [_without_helpers, _with_dying_helpers])
def test_where_no_helper_does_it_the_run_walks_itself(
    source: Path, monkeypatch: pytest.MonkeyPatch, hinder: Callable[[pytest.MonkeyPatch], None]
) -> None:
    hinder(monkeypatch)
    with new_run(source) as run:
        assert run.begin_ahead()
        assert found(run, run.discover())[1][0]["f"] == 19


def test_a_request_to_stop_ends_the_waiting(source: Path) -> None:
    with new_run(source) as run:
        assert run.begin_ahead()
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.discover()
    assert not [one.name for one in threading.enumerate() if one.name == "call-ahead"]


def test_a_run_that_is_left_ends_its_helper(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[HelperPool] = []
    real = WalkAhead.__init__

    def note(self: WalkAhead, *walk: Any) -> None:
        real(self, *walk)
        made.append(self._call._pool)

    monkeypatch.setattr(WalkAhead, "__init__", note)
    with new_run(source) as run:
        assert run.begin_ahead()
    assert made
    assert not made[0]._all
    assert not run.staging.exists()


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[HelperPool]:
    """Note all pools of helpers that compress."""
    made: list[HelperPool] = []
    real = HelperPool.__init__

    def note(self: HelperPool, count: int, *, module: str = COMPRESSING) -> None:
        real(self, count, module=module)
        if module == COMPRESSING:
            made.append(self)

    monkeypatch.setattr(HelperPool, "__init__", note)
    return made


def test_helpers_that_will_compress_are_ready_when_the_walk_is(
    source: Path, pools: list[HelperPool]
) -> None:
    with new_run(source, cluster="helpers") as run:
        assert run.begin_ahead()
        run.plan(run.filter(run.discover()))
        assert len(pools) == 1
        with helping(2) as taken:
            assert [taken] == pools
        with helping(2):
            assert len(pools) == 2, "once"


def test_helpers_of_another_kind_are_ended(source: Path, pools: list[HelperPool]) -> None:
    with new_run(source, cluster="helpers") as run:
        assert run.begin_ahead()
        run.plan(run.filter(run.discover()))
        with helping(1) as one:
            assert [one] == pools[1:]
            assert not pools[0]._all


def test_helpers_that_do_not_work_are_not_taken(source: Path, pools: list[HelperPool]) -> None:
    with new_run(source, cluster="helpers") as run:
        assert run.begin_ahead()
        run.plan(run.filter(run.discover()))
        pools[0].is_useless = True
        with helping(2) as taken:
            assert [taken] == pools[1:]


@pytest.mark.parametrize(
    "options", [{"mode": "incremental", "cluster": "helpers"}, {"cluster": "threads"}, {}]
)
def test_no_helpers_are_made_ready_for_what_may_need_none(
    source: Path, pools: list[HelperPool], options: dict[str, Any]
) -> None:
    with new_run(source, **options) as run:
        assert run.begin_ahead()
        run.plan(run.filter(run.discover()))
    assert not pools


def test_helpers_that_nobody_needed_end_with_the_run(source: Path, pools: list[HelperPool]) -> None:
    with new_run(source, cluster="helpers") as run:
        assert run.begin_ahead()
        run.discover()
        assert pools[0]._all
    assert not pools[0]._all


def test_the_flow_takes_over_what_its_command_began(source: Path) -> None:
    wanted = parameters(source)
    with backup_begun(wanted):
        assert is_locked("docs")
        begun = begun_backup(**parameters(source))
        assert begun is not None
        assert begun_backup(**wanted) is None, "once"
        with begun.run as run:
            assert found(run, run.discover())[1][0]["f"] == 19
        assert is_locked("docs"), "to the end"
    assert not is_locked("docs")
    assert not (source.parent / "store").exists()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_job_without_a_snapshot_is_planned_as_full(source: Path, is_known: bool) -> None:
    wanted = parameters(source, mode="incremental")
    if is_known:
        WrittenJob(catalog_url()).run(file("f"))
    with backup_begun(wanted):
        begun = begun_backup(**wanted)
        assert begun is not None
        with begun.run as run:
            kept = run._head and run._head.kept(run.discover())
            assert (kept is None) == is_known


def test_a_flow_with_other_parameters_gets_the_lock(source: Path) -> None:
    with backup_begun(parameters(source)):
        assert begun_backup(**parameters(source, level=5)) is None
        with job_lock("docs"):
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"before": "true"},
        {"after": "true"},
        {"password_block": "secret"},
        {"also_to": ["s3://far/away"]},
    ],
)
def test_what_must_wait_is_not_begun(source: Path, options: dict[str, Any]) -> None:
    with backup_begun(parameters(source, **options)):
        assert not is_locked("docs")
        assert begun_backup(**parameters(source, **options)) is None


@pytest.mark.parametrize("which", ["files_from", "exclude_from"])
def test_lists_that_can_be_read_once_are_left_for_the_flow(source: Path, which: str) -> None:
    """By a pipe, or from standard input; opening a pipe would wait for its writer."""
    listing = source.parent / "list"
    listing.write_text("nothing\n")
    with backup_begun(wanted := parameters(source, exclude_from=[str(listing)])):
        assert begun_backup(**wanted) is not None
    listing.unlink()
    os.mkfifo(listing)
    for name in (str(listing), "-"):
        with backup_begun(wanted := parameters(source, **{which: [name]})):
            assert not is_locked("docs")
            assert begun_backup(**wanted) is None


def test_what_is_wrong_is_left_for_the_flow_to_tell(source: Path) -> None:
    for wrong in ({"sources": [str(source / "missing")]}, {"output": str(source)}):
        wanted = parameters(source) | wrong
        with backup_begun(wanted):
            assert begun_backup(**wanted) is None
    with job_lock("docs"), backup_begun(parameters(source)):
        assert begun_backup(**parameters(source)) is None
