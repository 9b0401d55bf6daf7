"""How long the stages of a run took: measured, kept, and told."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from backing_up import judge_outcome, noise, prose, shrink
from overviews import NOW, Written
from sent import send, small_parts
from storage.memory import MemoryStorage
from waiting import within

from pybak.backup.run import BackupRun
from pybak.backup.stretches import read_stretches
from pybak.catalog.recorder import RunRecorder
from pybak.catalog.runs import Catalog
from pybak.catalog.stages import write_stages
from pybak.dashboard import stages as shown
from pybak.stages import Stage, Stages, current, from_rows, measuring, stage, to_rows

PART = 60_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def by_name(stages: Stages) -> dict[str, Stage]:
    return {one.name: one for one in stages.all()}


def test_a_stage_goes_from_its_first_start_to_its_last_end() -> None:
    clock = Clock()
    stages = Stages(clock=clock)
    with stages.stage("discover"):
        clock.now += 2
    for _ in range(2):
        with stages.stage("check"):
            clock.now += 3
        clock.now += 10
    assert stages.all() == (
        Stage(name="discover", start_seconds=0.0, wall_seconds=2.0, busy_seconds=2.0),
        Stage(name="check", start_seconds=2.0, wall_seconds=16.0, busy_seconds=6.0),
    )


def test_stages_that_overlap_keep_their_own_times() -> None:
    clock = Clock()
    stages = Stages(clock=clock)
    with stages.stage("compress") as span:
        clock.now += 1
        stages.add("upload", 101.0, 104.0, busy=3.0)
        stages.add("upload", 100.5, 102.0, busy=1.5)
        clock.now += 2
        span.shared(11.0)
    found = by_name(stages)
    assert [*found] == ["compress", "upload"]
    assert (found["compress"].wall_seconds, found["compress"].busy_seconds) == (3.0, 11.0)
    assert (found["upload"].start_seconds, found["upload"].wall_seconds) == (0.5, 3.5)
    assert found["upload"].busy_seconds == 4.5


def test_work_that_is_not_known_once_is_not_known() -> None:
    stages = Stages(clock=Clock())
    stages.add("compress", 1, 2, busy=1)
    with stages.stage("compress") as span:
        span.shared(None)
    (one,) = stages.all()
    assert one.busy_seconds is None


def test_a_stage_that_fails_is_measured_all_the_same() -> None:
    with measuring() as stages, pytest.raises(ValueError, match="no"), stage("upload"):
        raise ValueError("no")
    assert [one.name for one in stages.all()] == ["upload"]


def test_nothing_happens_where_nobody_measures() -> None:
    @stage("discover")
    def discover(what: str) -> str:
        """Look around."""
        return what

    assert current() is None
    assert discover("x") == "x"
    assert (discover.__name__, discover.__doc__) == ("discover", "Look around.")
    with measuring() as stages:
        discover("x")
        discover(what="y")
    assert [one.name for one in stages.all()] == ["discover"]
    assert current() is None


def test_a_part_of_a_run_counts_for_the_whole() -> None:
    with measuring() as outer:
        for _ in range(2):
            with measuring() as inner, stage("plan-prune"):
                pass
            assert [one.name for one in inner.all()] == ["plan-prune"]
        with stage("email-report"):
            pass
    assert [one.name for one in outer.all()] == ["plan-prune", "email-report"]


def test_many_threads_add_to_one_stage() -> None:
    stages = Stages()

    def add() -> None:
        for _ in range(500):
            stages.add("upload", 1.0, 2.0, busy=0.5)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert stages.span("upload") == (1.0, 2.0, 1000.0)


def test_what_the_catalog_keeps_is_what_was_measured() -> None:
    stages = (
        Stage(name="compress", start_seconds=0.0, wall_seconds=2.5, busy_seconds=9.125),
        Stage(name="upload", start_seconds=1.25, wall_seconds=2.0),
    )
    assert from_rows(to_rows(stages)) == stages
    assert from_rows(None) == ()


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_a_backup_that_is_sent_tells_how_its_stages_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_size: int | None
) -> None:
    """Sent by the run itself (one batch), and by its workers (stretches)."""
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    shrink(monkeypatch, part=PART)
    small_parts(monkeypatch, 12_000)
    source = tmp_path / "src"
    source.mkdir()
    for number in range(60):
        (source / f"f{number:03d}").write_bytes(noise(6_000, number) + prose(500, number))
    slow = 0.01

    class Slow(MemoryStorage):
        def send(self, *given: object) -> object:
            time.sleep(slow)
            return super().send(*given)

    planned = []

    def look(run: BackupRun) -> None:
        planned.append(read_stretches(run.staging))

    start = time.monotonic()
    more = {"chunk_size": chunk_size, "cluster": "threads"} if chunk_size else {}
    with measuring() as stages:
        done = send(
            source,
            storage=Slow(least=5_000),
            place=tmp_path / "got",
            threads=2,
            before_reading=look,
            **more,
        )
    whole = time.monotonic() - start
    judge_outcome(done)
    assert [one is not None for one in planned] == [chunk_size is not None]
    found = by_name(stages)
    assert set(found) == {"assemble", "upload"}
    upload, assemble = found["upload"], found["assemble"]
    assert upload.busy_seconds is not None
    assert upload.busy_seconds >= slow
    assert 0 < upload.wall_seconds <= whole
    assert assemble.busy_seconds is not None
    assert assemble.busy_seconds <= assemble.wall_seconds <= whole
    # Parts were on their way while the archive was still being laid down.
    assert upload.start_seconds < assemble.start_seconds + assemble.wall_seconds


def test_the_times_are_kept_beside_a_run_that_is_over(any_catalog: str) -> None:
    given: dict[str, object] = {"kind": "backup", "job": "docs", "options": {}}
    with measuring() as stages:
        recorder = RunRecorder(any_catalog, "r1", now=NOW, **given)  # type: ignore[arg-type]
        assert stages.recorded == []
        with stage("record-metadata"):
            recorder.finish(status="success", counts={}, now=NOW + timedelta(seconds=1))
        with stage("email-report"):
            pass
    assert stages.recorded == [(any_catalog, "r1")]
    written = Written(any_catalog)
    before = written.overview.run("r1")
    assert before.stages == ()
    write_stages(any_catalog, "r1", stages.all())
    write_stages(any_catalog, "no such run", stages.all())
    after = written.overview.run("r1")
    assert [one.name for one in after.stages] == ["record-metadata", "email-report"]
    assert after.stages == stages.all()
    assert after.summary == before.summary
    written.catalog.close()


def test_a_catalog_that_fails_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "c.db").write_text("no database")
    with measuring() as stages:
        recorder = RunRecorder(
            f"sqlite:///{tmp_path}/c.db", "r1", kind="backup", job="docs", options={}, now=NOW
        )
        assert recorder.finish(status="success", counts={}, now=NOW)
    assert stages.recorded == []


def test_another_writer_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybak.catalog.stages.PATIENCE_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/c.db"
    catalog = Catalog(url)
    catalog.begin_run("r1", kind="backup", job="docs", options={}, now=NOW)
    with within(5), catalog.connection(), pytest.raises(Exception, match=r"locked|busy"):
        write_stages(url, "r1", [Stage(name="upload", start_seconds=0, wall_seconds=1)])
    catalog.close()


def test_the_page_of_a_run_shows_a_bar_a_stage() -> None:
    assert shown.section(()) is None
    section = shown.section(
        (
            Stage(name="discover", start_seconds=0.0, wall_seconds=0.0, busy_seconds=0.0),
            Stage(name="compress", start_seconds=0.0, wall_seconds=6.0, busy_seconds=23.0),
            Stage(name="record-metadata", start_seconds=6.0, wall_seconds=2.0),
            Stage(name="email-report", start_seconds=8.0, wall_seconds=0.0, busy_seconds=0.0),
        )
    )
    told = str(section)
    for text in ("Record metadata", "from 0.0 s to 6.0 s", "23 s", "< 0.1 s"):
        assert text in told
    assert "'left': '75.00%', 'width': '25.00%'" in told
    assert "'left': '99.30%', 'width': '0.70%'" in told
