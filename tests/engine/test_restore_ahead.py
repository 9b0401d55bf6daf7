"""A restore that is planned before its flow begins, and the flow that takes it over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, back_up, noise, snapshot
from recorded import Recorded

from flows.support.begun import begun_restore, restore_begun
from pybak.catalog.locks import archives_lock
from pybak.clusters import DIRECT
from pybak.errors import ArchiveError, Interrupted, LockedError, WrongPasswordError
from pybak.home import catalog_url
from pybak.options import RestoreOptions
from pybak.restore import run as run_module
from pybak.restore.ask import Asked, ask
from pybak.restore.finish import finish, make_folders
from pybak.restore.helping import MODULE, extract_hand
from pybak.restore.plan import RestorePlan
from pybak.restore.plan_ahead import PlanOrder
from pybak.restore.run import RestoreRun
from pybak.workers import pool
from pybak.workers.pool import HelperPool, helping


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give some files, of which an archive is large enough to be planned ahead."""
    monkeypatch.setattr(run_module, "_WORTH_PLANNING_AHEAD", 2000)
    for number in range(20):
        path = tmp_path / "src" / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(100 * number, seed=number))
    return tmp_path / "src"


@pytest.fixture
def archive(source: Path) -> Path:
    """Give an archive of them."""
    return back_up(source, to=source.parent / "store").files[0]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give where they go."""
    return tmp_path / "target"


def new_run(archive: Path, target: Path, **options: Any) -> RestoreRun:
    return RestoreRun(archive, str(target), RestoreOptions(**{"workers": 2, **options}))


def told(run: RestoreRun, plan: RestorePlan) -> tuple[Any, ...]:
    """Give what a plan says, with paths within the work folder."""
    files = [path.relative_to(run.staging) for path in (*plan.batches, plan.folders_file)]
    return plan.files, plan.links, plan.folders, plan.size, plan.problems, plan.label, files


def test_a_plan_ahead_is_the_plan(archive: Path, target: Path) -> None:
    with new_run(archive, target, include=["*/d1/*"]) as run:
        assert run.plan_ahead()
        ahead = told(run, run.plan())
    with new_run(archive, target, include=["*/d1/*"]) as run:
        assert told(run, run.plan()) == ahead
    assert ahead[0] == 7
    assert not target.exists()


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_it_restores_what_was_saved(source: Path, target: Path, password: bytes | None) -> None:
    made = back_up(source, to=source.parent / "other", format="tar.zst", password=password)
    with new_run(made.files[0], target) as run:
        assert run.plan_ahead(password)
        plan = run.plan(password)
        folders = make_folders(plan)
        outcomes = [
            extract_hand(run.staging, f"{number:03d}", batch, password=password)
            for number, batch in enumerate(plan.batches)
        ]
        report = run.report(plan, folders, [*outcomes, finish(plan, password=password)])
    assert report.files.restored == 20
    assert snapshot(target / "src") == snapshot(source)


def test_little_is_not_planned_ahead(
    archive: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_run(archive, target, workers=1) as run:
        assert not run.plan_ahead(), "no second core"
    size = archive.stat().st_size
    monkeypatch.setattr(run_module, "_WORTH_PLANNING_AHEAD", size)
    with new_run(archive, target) as run:
        assert run.plan_ahead()
    monkeypatch.setattr(run_module, "_WORTH_PLANNING_AHEAD", size + 1)
    with new_run(archive, target) as run:
        assert not run.plan_ahead()


def test_too_many_names_are_not_handed_over(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(catalog_url(), source.parent / "kept")
    recorded.back_up(source)
    asked = ask("latest", job="docs", at=None, catalog_url=catalog_url())
    shares = asked.shares(catalog_url())
    names = sum(len(share.names or ()) for share in shares)
    assert names == 24
    for most, expected in ((names, True), (names - 1, False)):
        monkeypatch.setattr(run_module, "_MOST_NAMES", most)
        with RestoreRun(shares, str(target), RestoreOptions(workers=2)) as run:
            assert run.plan_ahead() is expected


def _without_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_CODE", "raise SystemExit(1)")


def _with_dying_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PLAN", "os:_exit")


@pytest.mark.parametrize("hinder", [_without_helpers, _with_dying_helpers])
def test_where_no_helper_does_it_the_run_plans_itself(
    archive: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    hinder: Callable[[pytest.MonkeyPatch], None],
) -> None:
    hinder(monkeypatch)
    with new_run(archive, target) as run:
        assert run.plan_ahead()
        assert run.plan().files == 20


def test_what_is_wrong_with_the_archive_is_told_by_the_plan(
    source: Path, archive: Path, target: Path
) -> None:
    secret = back_up(source, to=source.parent / "secret", password=PASSWORD).files[0]
    with new_run(secret, target) as run:
        assert run.plan_ahead(b"not " + PASSWORD)
        with pytest.raises(WrongPasswordError):
            run.plan(b"not " + PASSWORD)
    archive.write_bytes(archive.read_bytes()[:-40])
    with new_run(archive, target) as run:
        assert run.plan_ahead()
        with pytest.raises(ArchiveError):
            run.plan()
    assert not target.exists()


def test_a_password_is_in_no_repr(archive: Path, target: Path) -> None:
    with new_run(archive, target) as run:
        order = PlanOrder(run.shares, b"/t", run.wish, run.staging, 2, PASSWORD)
    assert PASSWORD.decode() not in repr(order)


def test_a_request_to_stop_ends_the_waiting(archive: Path, target: Path) -> None:
    with new_run(archive, target) as run:
        assert run.plan_ahead()
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.plan()
    assert not [one.name for one in threading.enumerate() if one.name == "call-ahead"]


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[HelperPool]:
    """Note all pools of helpers."""
    made: list[HelperPool] = []
    real = HelperPool.__init__

    def note(self: HelperPool, *what: Any, **more: Any) -> None:
        real(self, *what, **more)
        made.append(self)

    monkeypatch.setattr(HelperPool, "__init__", note)
    return made


def test_a_run_that_is_left_ends_its_helpers(
    archive: Path, target: Path, pools: list[HelperPool]
) -> None:
    with new_run(archive, target) as run:
        assert run.plan_ahead()
    assert pools
    assert not any(one._all for one in pools)
    assert not run.staging.exists()


def test_helpers_that_will_unpack_are_ready_when_the_plan_is(
    archive: Path, target: Path, pools: list[HelperPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestoreRun, "cluster", lambda _run, _plan: "helpers")
    with new_run(archive, target) as run:
        assert run.plan_ahead()
        run.plan()
        ready = [one for one in pools if one.kind == (2, MODULE)]
        assert len(ready) == 1
        with helping(2, module=MODULE) as taken:
            assert [taken] == ready


def test_helpers_end_when_the_plan_needs_none(
    archive: Path, target: Path, pools: list[HelperPool]
) -> None:
    with new_run(archive, target) as run:
        assert run.plan_ahead()
        assert run.cluster(run.plan()) == DIRECT
        assert [one.kind for one in pools[1:]] == [(2, MODULE)]
        assert not any(one._all for one in pools)


def test_no_helpers_are_made_ready_where_threads_are_wanted(
    archive: Path, target: Path, pools: list[HelperPool]
) -> None:
    with new_run(archive, target, cluster="threads") as run:
        assert run.plan_ahead()
        run.plan()
    assert len(pools) == 1


def parameters(archive: Path, target: Path, **options: Any) -> dict[str, Any]:
    return {
        "archive": str(archive), "to": str(target), "job": None,
        "options": RestoreOptions(workers=2, **options),
    }  # fmt: skip


def asked_for(archive: Path) -> Asked:
    return ask(str(archive), job=None, at=None, catalog_url=catalog_url())


def test_the_flow_takes_over_what_its_command_began(archive: Path, target: Path) -> None:
    wanted = parameters(archive, target)
    with restore_begun(wanted, asked_for(archive), None):
        begun = begun_restore(**parameters(archive, target))
        assert begun is not None
        assert begun_restore(**wanted) is None, "once"
        with begun.run as run:
            assert run.plan().files == 20
    assert begun_restore(**wanted) is None


def test_a_flow_with_other_parameters_begins_its_own(archive: Path, target: Path) -> None:
    with restore_begun(parameters(archive, target), asked_for(archive), None):
        assert begun_restore(**parameters(archive, target, overwrite="always")) is None


def test_what_needs_a_block_is_not_begun(archive: Path, target: Path) -> None:
    wanted = parameters(archive, target, password_block="secret")
    with restore_begun(wanted, asked_for(archive), None):
        assert begun_restore(**wanted) is None


def test_an_archive_in_use_is_left_for_the_flow_to_tell(
    archive: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, asked = parameters(archive, target), asked_for(archive)

    def refuse(*_what: object) -> None:
        raise LockedError("docs: a prune is at work")

    monkeypatch.setattr(Asked, "kept", refuse)
    with restore_begun(wanted, asked, None):
        assert begun_restore(**wanted) is None


def test_archives_of_a_begun_restore_are_kept_to_the_end(source: Path, target: Path) -> None:
    recorded = Recorded(catalog_url(), source.parent / "kept")
    recorded.back_up(source)
    asked = ask("latest", job="docs", at=None, catalog_url=catalog_url())
    wanted = parameters(Path(asked.name), target)
    with restore_begun(wanted, asked, None):
        begun = begun_restore(**wanted)
        assert begun is not None
        with begun.run as run:
            assert run.plan().files == 20
        with pytest.raises(LockedError), archives_lock("docs", shared=False):
            pass
    with archives_lock("docs", shared=False):
        pass
