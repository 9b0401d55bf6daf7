"""A mirror that compares while its command does something else, and the flow that takes it over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from mirroring import assert_mirrored, done, mirror, put

from flows.support.begun import having_begun, mirror_run
from pybak.catalog.locks import is_locked, job_lock
from pybak.errors import Interrupted, LockedError, StorageError
from pybak.home import catalog_url
from pybak.mirror import walk
from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions
from pybak.workers.pool import HelperPool


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Give a source of several pieces, and a destination."""
    monkeypatch.setattr(walk, "_FIRST_AHEAD", 2)
    for number in range(20):
        put(tmp_path / "src" / f"sub{number}" / "file", str(number))
    return str(tmp_path / "src"), str(tmp_path / "dst")


def _ahead_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "compare-ahead"]


def test_what_changes_after_it_was_compared_is_for_the_next_mirror(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "file")
    with MirrorRun(str(source), str(target), MirrorOptions()) as run:
        assert run.compare_ahead(catalog_url())
        put(source / "late")
        plan = run.compare()
        report = run.report(plan, run.run(plan))
    assert done(report) == {"copied": 1}
    assert done(mirror(source, target, ahead=True)) == {"copied": 1, "unchanged": 1}
    assert_mirrored(source, target)


def test_other_runs_are_kept_out_from_its_beginning_to_its_end(trees: tuple[str, str]) -> None:
    source, target = trees
    with MirrorRun(source, target, MirrorOptions(), job="pictures") as run:
        assert run.compare_ahead(catalog_url())
        assert is_locked("pictures")
        with pytest.raises(LockedError), job_lock(run.destination):
            pass
        warned: list[str] = []
        with run.locked(catalog_url(), pytest.fail, warned.append):
            run.compare()
        assert not warned
        assert is_locked("pictures")
    assert not is_locked("pictures")
    assert not is_locked(run.destination)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"before": "mount /mnt/disk"}, "sqlite:///catalog.db"),
        ({"compare_content": True}, "sqlite:///catalog.db"),
        ({}, "postgresql://catalog.example/pybak"),
    ],
)
def test_it_does_not_begin_before_what_must_come_first(
    trees: tuple[str, str], options: dict[str, Any], url: str
) -> None:
    with MirrorRun(*trees, MirrorOptions(**options)) as run:
        assert not run.compare_ahead(url)
        assert not is_locked(run.destination)


def test_it_does_not_begin_while_another_run_is_at_work(trees: tuple[str, str]) -> None:
    with MirrorRun(*trees, MirrorOptions(), job="zoo") as run:
        with job_lock("zoo"):
            assert not run.compare_ahead(catalog_url())
            assert not is_locked(run.destination)
        with run.locked(catalog_url(), pytest.fail, pytest.fail):
            assert run.compare().files == 20


def test_what_goes_wrong_is_raised_when_it_is_asked_for(
    trees: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(HelperPool, "call", broken)
    options = MirrorOptions(workers=2, cluster="helpers")
    with MirrorRun(*trees, options) as run:
        assert run.compare_ahead(catalog_url())
        with pytest.raises(StorageError, match="the disk is gone"):
            run.compare()


def test_it_can_be_stopped_and_left(
    trees: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = MirrorOptions(workers=2, cluster="helpers")
    with MirrorRun(*trees, options) as run:
        assert run.compare_ahead(catalog_url())
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.compare()
    is_asked = threading.Event()
    ask = HelperPool.call

    def asked(self: HelperPool, function: str, argument: bytes) -> bytes:
        is_asked.set()
        return ask(self, function, argument)

    monkeypatch.setattr(HelperPool, "call", asked)
    with MirrorRun(*trees, options) as run:
        assert run.compare_ahead(catalog_url())
        assert is_asked.wait(10)
    assert not run.staging.exists()
    assert not _ahead_threads()


def test_the_flow_and_its_command_both_leave_it(trees: tuple[str, str]) -> None:
    """The second time nothing is done, nor hidden what ended it."""

    def begin_and_stop() -> None:
        with MirrorRun(*trees, MirrorOptions(), job="zoo") as run:
            assert run.compare_ahead(catalog_url())
            with run:
                run.prepare(run.compare())
                run.request_cancel()
                run.check_cancelled()

    with pytest.raises(Interrupted):
        begin_and_stop()
    assert not is_locked("zoo")
    assert list(Path(trees[1]).iterdir()) == []


def test_the_flow_takes_over_only_what_it_would_begin_itself(trees: tuple[str, str]) -> None:
    source, target = trees
    options = MirrorOptions(delete=True)
    with MirrorRun(source, target, options) as run:
        began_at = run.started_at
        with having_begun(run), mirror_run(source, target, MirrorOptions(), job=None) as other:
            assert other is not run
        with having_begun(run), mirror_run(source, target, options, job="zoo") as other:
            assert other is not run
        same = MirrorOptions(delete=True)
        with having_begun(run):
            assert mirror_run(source, target, same, job=None) is run
            assert run.started_at > began_at
            with mirror_run(source, target, same, job=None) as other:  # the second flow run
                assert other is not run
        with mirror_run(source, target, same, job=None) as other:
            assert other is not run
