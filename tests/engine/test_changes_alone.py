"""The archive of an incremental run read by itself: an archive like any other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from backing_up import FORMATS, judge_outcome, prose, unpack
from remembering import Memory

from pybak.formats.archive import Limits
from pybak.formats.opening import open_archive
from pybak.options import RestoreOptions, VerifyOptions
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.run import RestoreRun
from pybak.verify.check import verify_batch
from pybak.verify.run import VerifyRun

KINDS = ["zip", "tar.gz", "tar.zst"]


@pytest.fixture(params=KINDS)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Memory:
    """Two runs; the second holds one file of many, and tells of what is gone."""
    memory, top = Memory(), tmp_path / "src"
    top.mkdir()
    for number in range(50):
        (top / str(number)).write_bytes(prose(100, number))
    how = FORMATS[request.param]
    memory.back_up(top, to=tmp_path / "to", **how)
    (top / "new").write_bytes(b"new")
    for number in range(40):
        (top / str(number)).unlink()
    memory.back_up(top, to=tmp_path / "to", **how)
    return memory


def newest(memory: Memory) -> Path:
    return Path(list(memory.outcomes)[-1])


def test_other_programs_open_it(chain: Memory, tmp_path: Path) -> None:
    done = list(chain.outcomes.values())[-1]
    judge_outcome(done)
    unpack(done.path, tmp_path / "out")
    assert os.listdir(tmp_path / "out" / "src") == ["new"]


def test_it_is_listed_without_what_is_gone(chain: Memory) -> None:
    with open_archive([os.fsencode(newest(chain))]) as archive:
        listing = archive.listing(Limits())
    assert sorted(one.name for one in listing.members) == [b"src", b"src/new"]
    assert (listing.problems, listing.missing) == ([], [])
    assert listing.head is not None
    assert listing.head.base_run == chain.snapshots[0].run_id


def test_a_restore_of_it_says_that_it_holds_changes_only(chain: Memory, tmp_path: Path) -> None:
    with RestoreRun(newest(chain), str(tmp_path / "out"), RestoreOptions()) as run:
        plan = run.plan()
        made = make_folders(plan)
        outcomes = [extract_batch(batch) for batch in plan.batches]
        report = run.report(plan, made, [*outcomes, finish(plan)])
    assert report.status == "success"
    assert (tmp_path / "out" / "src" / "new").read_bytes() == b"new"
    told = f"holds only what changed since run {chain.snapshots[0].run_id}"
    assert report.to_text().count(told) == 1
    assert report.to_json()["notes"] == [told]
    with RestoreRun(
        next(iter(map(Path, chain.outcomes))), str(tmp_path / "b"), RestoreOptions()
    ) as run:
        assert run.rehearse().notes == ()


def test_a_check_of_it_says_that_it_holds_changes_only(
    chain: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with VerifyRun(VerifyOptions(), catalog_url=None) as run:
        plan = run.plan(newest(chain), 0)
        check = run.check(newest(chain), 0, plan, [verify_batch(one) for one in plan.batches])
    assert (check.status, check.members) == ("success", 2)
    assert check.notes == (f"it holds only what changed since run {chain.snapshots[0].run_id}",)
