"""Chains of runs with a real catalog: it knows what a history in memory knows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backing_up import Made
from remembering import Memory, on_disk
from test_modes_moving import Editor, any_kind

from pybak.backup.base import is_racy
from pybak.backup.catalog_base import JobHistory
from pybak.backup.record import write_backup
from pybak.backup.run import BackupRun
from pybak.catalog.history import History
from pybak.catalog.runs import Catalog
from pybak.report import BackupReport

JOB = "job"


class Recorded(Memory):
    """A history in memory whose runs are compared with what the catalog knows instead."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.catalog = Catalog(url)
        self.known = JobHistory(History(self.catalog.database), JOB)

    def begin(self, run: BackupRun) -> None:
        super().begin(run)
        seq = self.catalog.begin_run(
            run.run_id, kind="backup", job=JOB, options={}, now=run.started_at
        )
        assert seq == run.seq

    def keep(self, run: BackupRun, report: BackupReport, made: Made) -> None:
        with self.catalog.database.transaction() as connection:
            write_backup(
                connection, run=run, report=report, **made._asdict(), now=datetime.now(UTC)
            )  # fmt: skip

    def back_up(self, *sources: Path | str | bytes, **more: object) -> Any:
        return super().back_up(*sources, history=self.known, job=JOB, **more)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    yield made
    made.catalog.close()


def states(base: Any) -> dict[bytes, tuple[Any, ...]]:
    """Give all that is known of each member, with its digest."""
    found = {}
    for name, (*state, ident) in base.states():
        state[5] = state[5] or None  # the device
        sha256, parts = base.digests([ident]).get(ident, (None, ()))
        found[name] = (*state, sha256, tuple(parts))
    return found


@pytest.mark.parametrize("seed", range(100, 105))
def test_the_catalog_knows_what_the_manifests_say(
    seed: int, tmp_path: Path, recorded: Recorded
) -> None:
    top = tmp_path / "src"
    top.mkdir()
    editor = Editor(top, seed)
    for _ in range(10):
        for _ in range(editor.pick.randint(0, 6)):
            editor.step()
        mode = editor.pick.choice(["incremental", "incremental", "differential", "full"])
        how = any_kind(editor.pick, encrypted=seed % 3 == 0)
        done = recorded.back_up(top, to=tmp_path / "to", mode=mode, dedupe=seed % 2 == 0, **how)
        assert done.report.errors == ()
        assert recorded.contents() == on_disk(top)
        for kind in ("incremental", "differential"):
            ours, theirs = recorded.base(kind), recorded.known.base(kind)
            assert ours is not None
            assert theirs is not None
            assert states(theirs) == states(ours)
            # The catalog counts the archives beside a differential one as well.
            gone = set(theirs.gone_since_full())
            assert gone >= set(ours.gone_since_full())
            assert gone.isdisjoint(states(ours))
            assert {facts.volumes[0][0] for facts in theirs.archives()} == {
                facts.volumes[0][0] for facts in ours.archives()
            }
            assert (theirs.run_id, theirs.seq, theirs.full_run, theirs.runs_since_full) == (
                ours.run_id, ours.seq, ours.full_run, ours.runs_since_full,
            )  # fmt: skip


def test_what_failed_is_known_to_the_next_run(tmp_path: Path, recorded: Recorded) -> None:
    top = tmp_path / "src"
    top.mkdir()
    (top / "one").write_bytes(b"1")
    first = recorded.back_up(top, tmp_path / "gone", to=tmp_path / "to")
    assert first.report.status == "partial"
    again = recorded.back_up(top, tmp_path / "gone", to=tmp_path / "to")
    assert (again.report.status, again.report.exit_code) == ("unchanged", 3)


SECOND = 10**9


@pytest.mark.parametrize(
    ("mtime", "ctime", "racy"),
    [
        (-1.5, -1.5, False),
        (-0.03, -0.03, False),
        (-0.01, -5, True),
        (0.5, -5, True),
        (-1, -1, True),  # as whole seconds, which may be rounded down
        (-1, -1.5, False),
        (-3, -3, False),
    ],
)
def test_what_was_touched_just_before_a_run_may_change_without_another_time(
    mtime: float, ctime: float, racy: bool, recorded: Recorded, tmp_path: Path
) -> None:
    """Of file systems that keep whole seconds a whole one is in doubt, of others a clock's tick."""
    start = 1_800_000_000 * SECOND
    times = start + int(mtime * SECOND), start + int(ctime * SECOND)
    assert is_racy(*times, start) == racy
    (tmp_path / "file").write_bytes(b"x")
    now = datetime.fromtimestamp(start / SECOND, UTC)
    recorded.back_up(tmp_path / "file", to=tmp_path / "to", now=now)
    with recorded.catalog.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE file_version SET mtime_ns = ?, ctime_ns = ?", times)
    base = recorded.known.base("incremental")
    assert base is not None
    [(_, state)] = base.states()
    assert state[10] == racy
