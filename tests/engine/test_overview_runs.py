"""Jobs, runs, archives and storage use as the overview tells them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from overviews import NOW, Written, all_of, fact, with_folders

from pybak.catalog.copies import StoredCopy, add_copies
from pybak.catalog.locks import job_lock, noted
from pybak.catalog.models import Verification
from pybak.catalog.removal import mark_deleting
from pybak.overview import Overview
from pybak.overview.alive import asking_locks
from pybak.overview.facts import Schedule
from pybak.overview.jobs import TREND
from pybak.volumes.model import Volume

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ODD = os.fsdecode(b"/b\xff \\ \\xff")


@pytest.fixture
def written(any_catalog: str) -> Iterator[Written]:
    made = Written(any_catalog)
    yield made
    made.catalog.close()


def test_an_empty_catalog_has_nothing_to_tell(written: Written) -> None:
    view = written.overview
    assert view.jobs(NOW) == []
    assert view.active(now=NOW) == []
    assert view.problems(now=NOW) == []
    assert view.storage().places == ()
    for page in (view.runs(), view.archives(), view.snapshots(), view.search("a")):
        assert (page.items, page.next) == ((), None)


def test_a_job_tells_its_newest_good_backup_size_and_trend(written: Written) -> None:
    for age in range(5, 0, -1):
        written.back_up([fact("a", 100 + age), fact("d", 9, "d")], ago=age * HOUR, size=40)
    failed = written.end("failed", ago=10 * MINUTE, message="the disk is full")
    written.end("success", "docs", "verify", ago=5 * MINUTE)
    written.end("success", "other", "prune", ago=5 * MINUTE)
    (job,) = written.overview.jobs(NOW)
    assert (job.name, job.kind, job.state) == ("docs", "backup", "problem")
    assert job.words.startswith("Problem: the last backup failed 9 minutes ago")
    assert job.newest_good is not None
    assert job.newest_good.age_seconds == 3590
    assert (job.size_bytes, job.archives, job.failures) == (200, 5, 1)
    assert job.last_run is not None
    assert (job.last_run.run_id, job.last_run.message) == (failed, "the disk is full")
    assert job.failing_since == NOW - 10 * MINUTE
    assert [point.status for point in job.trend] == ["success"] * 5 + ["failed"]
    assert [point.bytes_read for point in job.trend] == [105, 104, 103, 102, 101, None]
    assert [point.bytes_stored for point in job.trend] == [40] * 5 + [None]
    assert {point.duration_seconds for point in job.trend} == {10.0}
    assert job.usual_interval_seconds == 3600
    assert json.dumps(msgspec.to_builtins(job)).count('"2026-11-21T11:50:00Z"') == 3


def test_jobs_come_worst_first_and_each_kind_by_itself(written: Written) -> None:
    written.back_up(job="fine")
    written.back_up(job=ODD)
    written.end("failed", "bad", ago=HOUR)
    written.end("success", "in", "inbox", ago=HOUR, counts={"bytes_read": 7, "bytes_stored": 5})
    written.end("success", "copy", "mirror", ago=HOUR, counts={"bytes_copied": 9})
    found = written.overview.jobs(NOW, {"planned": Schedule(next_run=NOW + HOUR)})
    assert [(one.state, one.name, one.kind) for one in found] == [
        ("problem", "bad", "backup"), ("never", "planned", "backup"), ("good", ODD, "backup"),
        ("good", "copy", "mirror"), ("good", "fine", "backup"), ("good", "in", "inbox"),
    ]  # fmt: skip
    assert found[1].next_run == NOW + HOUR
    by_name = {one.name: one for one in found}
    (point,) = by_name["in"].trend
    assert (point.bytes_read, point.bytes_stored) == (7, 5)
    assert by_name["copy"].trend[0].bytes_stored == 9
    assert by_name["copy"].size_bytes is None


def test_the_newest_good_backup_is_found_behind_many_that_were_not(written: Written) -> None:
    good = written.back_up(ago=3 * DAY)
    for age in range(TREND + 5, 0, -1):
        written.end("failed", ago=age * MINUTE)
    (job,) = written.overview.jobs(NOW)
    assert job.newest_good is not None
    assert job.newest_good.run_id == good.run_id
    assert len(job.trend) == TREND
    assert job.trend[-1].started_at == NOW - MINUTE


def test_what_a_prune_removes_is_not_the_newest_good_backup(written: Written) -> None:
    older, newer = written.back_up(ago=2 * DAY), written.back_up(ago=DAY)
    database = written.catalog.database
    number = written.archive_id(newer)
    mark_deleting(database, "docs", runs=[newer.run_id], archives=[number])
    (job,) = written.overview.jobs(NOW)
    assert job.newest_good is not None
    assert (job.newest_good.run_id, job.archives) == (older.run_id, 1)
    other = written.archive_id(older)
    mark_deleting(database, "docs", runs=[older.run_id], archives=[other])
    written.end("unchanged", ago=MINUTE)
    (job,) = written.overview.jobs(NOW)
    assert (job.state, job.newest_good, job.size_bytes) == ("never", None, 0)
    assert written.overview.storage().places == ()
    assert written.overview.archive(number).summary.is_leaving


def test_pages_of_runs_give_each_once_and_follow_every_filter(written: Written) -> None:
    ids = [written.end("failed" if n % 3 else "success", f"job{n % 2}", ("backup", "verify")[n % 2],
                       ago=(50 - n // 2) * MINUTE) for n in range(40)]  # fmt: skip
    view = written.overview
    for limit in (1, 7, 500):
        found = all_of(lambda c, n=limit: view.runs(cursor=c, limit=n))  # type: ignore[misc]
        assert [one.run_id for one in found] == list(reversed(ids))
        some = all_of(
            lambda c, n=limit: view.runs(  # type: ignore[misc]
                job="job1", kind="verify", status="failed", since=NOW - 45 * MINUTE,
                until=NOW - 35 * MINUTE, cursor=c, limit=n,
            )
        )  # fmt: skip
        assert [one.run_id for one in some] == [
            run for n, run in reversed(list(enumerate(ids)))
            if n % 2 and n % 3 and 35 < 50 - n // 2 <= 45
        ]  # fmt: skip
    first = view.runs(limit=3)
    written.end("success", ago=timedelta())
    assert view.runs(limit=3, cursor=first.next).items[0].run_id == ids[-4]
    assert view.runs(job="nobody").items == ()


def test_one_run_is_told_with_its_archive_and_errors(written: Written) -> None:
    errors = [(os.fsdecode(b"d/\xff%d" % n), "unreadable", f"no {n}") for n in range(7)]
    snapshot = written.back_up([fact("a", 50)], errors=errors, status="partial")
    found = written.overview.run(snapshot.run_id)
    assert (found.errors, found.is_snapshot, found.summary.status) == (7, True, "partial")
    assert found.archive is not None
    assert found.archive.summary.archive == snapshot.archive
    assert (found.archive.summary.size, found.archive.summary.content_size) == (7, 50)
    assert [volume.size for volume in found.archive.volumes] == [7]
    told = all_of(lambda c: written.overview.errors(snapshot.run_id, cursor=c, limit=3))
    assert [(one.path, one.code, one.message) for one in told] == errors
    failed = written.end("failed", ago=HOUR, message="no")
    assert written.overview.run(failed).archive is None
    assert json.dumps(msgspec.to_builtins(found))


def test_an_archive_tells_its_copies_and_checks(written: Written) -> None:
    snapshot = written.back_up([fact("a")], place="/one")
    number = written.archive_id(snapshot)
    name = snapshot.archive or ""
    copy = StoredCopy(
        name="s3://bucket/a/x.zip", volumes=[Volume(uri="s3://bucket/a/x.zip", size=7, sha256="b")]
    )
    with written.catalog.connection() as connection:
        add_copies(connection, number, [copy])
    with written.catalog.writing() as session:
        for status in ("success", "damaged"):
            session.add(
                Verification(archive=name, run_id="v", checked_at=NOW, status=status, members=1)
            )
    found = written.overview.archive(number)
    assert [(one.name, one.size) for one in found.copies] == [("s3://bucket/a/x.zip", 7)]
    assert [one.status for one in found.checks] == ["damaged", "success"]
    (listed,) = written.overview.archives().items
    assert listed == found.summary
    assert listed.copies == 1
    assert listed.last_check is not None
    assert (listed.last_check.status, listed.last_check.checked_at) == ("damaged", NOW)


def test_storage_is_told_by_job_and_place(written: Written) -> None:
    for job, place, size in (
        ("docs", "/one", 10), ("docs", "/one", 20), ("docs", "s3://bucket/p", 5), (ODD, "/one", 7),
    ):  # fmt: skip
        last = written.back_up(job=job, place=place, size=size)
    copy = StoredCopy(
        name="/two/c.zip",
        volumes=[Volume(uri=f"file:///two/{n}", size=50, sha256="b") for n in (1, 2)],
    )
    with written.catalog.connection() as connection:
        add_copies(connection, written.archive_id(last), [copy])
    use = written.overview.storage()
    assert (use.size, use.archives) == (142, 4)
    assert [(one.job, one.place, one.archives, one.size, one.is_copy) for one in use.places] == [
        (ODD, "/two", 1, 100, True), ("docs", "/one", 2, 30, False), (ODD, "/one", 1, 7, False),
        ("docs", "s3://bucket/p", 1, 5, False),
    ]  # fmt: skip


def test_pages_of_archives_and_snapshots_give_each_once(written: Written) -> None:
    made = [written.back_up(job=f"job{n % 2}", ago=(20 - n) * HOUR) for n in range(9)]
    runs = [one.run_id for one in reversed(made)]
    view = written.overview
    for limit in (1, 4, 500):
        archives = all_of(lambda c, n=limit: view.archives(cursor=c, limit=n))  # type: ignore[misc]
        assert [one.run_id for one in archives] == runs
        snapshots = all_of(lambda c, n=limit: view.snapshots(cursor=c, limit=n))  # type: ignore[misc]
        assert [one.run_id for one in snapshots] == runs
        of_job = all_of(lambda c, n=limit: view.snapshots(job="job1", cursor=c, limit=n))  # type: ignore[misc]
        assert [one.seq for one in of_job] == [4, 3, 2, 1]
        of_job_too = all_of(lambda c, n=limit: view.archives(job="job1", cursor=c, limit=n))  # type: ignore[misc]
        assert [one.run_id for one in of_job_too] == [one.run_id for one in of_job]
    assert snapshots[0].size == 7


def test_a_run_that_another_one_followed_died(written: Written) -> None:
    """(case 94)"""
    dead = written.begin(ago=2 * HOUR)
    alive = written.begin(ago=MINUTE)
    verify = written.begin(kind="verify", ago=HOUR)
    forgotten = written.begin(kind="verify", ago=8 * DAY)
    view = written.overview
    assert [one.run_id for one in view.active(now=NOW)] == [alive, verify]
    assert [one.run_id for one in view.problems(now=NOW)] == [dead]
    assert {one.run_id for one in view.runs(status="died", now=NOW).items} == {dead, forgotten}
    assert {one.run_id for one in view.runs(status="running", now=NOW).items} == {alive, verify}
    for limit in (1, 2):
        every = all_of(lambda c, n=limit: view.runs(status="died", now=NOW, cursor=c, limit=n))  # type: ignore[misc]
        assert len(every) == 2
    assert view.run(dead, now=NOW).summary.status == "died"
    (job,) = view.jobs(NOW)
    assert (job.state, job.failures) == ("running", 1)


def test_a_lock_tells_whether_its_run_is_at_work(written: Written, tmp_path: Path) -> None:
    """(case 94)"""
    asked = asking_locks(is_only_here=True, folder=tmp_path)
    view = Overview(written.catalog.database, asked=asked)
    run_id = written.begin(ago=MINUTE)
    assert [one.run_id for one in view.active(now=NOW)] == [run_id], "no lock was ever taken"
    with job_lock("docs", run_id=run_id, folder=tmp_path):
        assert [one.run_id for one in view.active(now=NOW)] == [run_id]
        (job,) = view.jobs(NOW)
        assert job.state == "running"
    assert view.active(now=NOW) == []
    (job,) = view.jobs(NOW)
    assert (job.state, job.running) == ("problem", None)
    elsewhere = Overview(
        written.catalog.database, asked=asking_locks(is_only_here=False, folder=tmp_path)
    )
    assert [one.run_id for one in elsewhere.active(now=NOW)] == [run_id]


def test_a_killed_run_is_known_by_what_it_left_in_its_lock(
    written: Written, tmp_path: Path
) -> None:
    run_id = written.begin(ago=MINUTE)
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from pybak.catalog.locks import job_lock\n"
        "with job_lock('docs', run_id=sys.argv[1], folder=Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, run_id, str(tmp_path)], check=False, timeout=60)
    note = noted("docs", folder=tmp_path)
    assert note is not None
    assert (note.run_id, note.is_alive) == (run_id, False)
    for is_only_here in (True, False):
        view = Overview(
            written.catalog.database,
            asked=asking_locks(is_only_here=is_only_here, folder=tmp_path),
        )
        assert view.active(now=NOW) == []


def test_asking_a_lock_takes_none(tmp_path: Path) -> None:
    with job_lock("docs", run_id="r", folder=tmp_path):
        assert noted("docs", folder=tmp_path) is not None
    (path,) = tmp_path.iterdir()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert noted("docs", folder=tmp_path) is not None
    assert noted("other", folder=tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_catalog_that_cannot_be_written_is_looked_at(tmp_path: Path) -> None:
    written = Written(f"sqlite:///{tmp_path}/home/catalog.db")
    written.back_up(with_folders([b"docs/a"]))
    written.catalog.close()
    (tmp_path / "home").chmod(0o555)
    code = (
        "import os, sys\nfrom pybak.catalog.engine import Database\n"
        "from pybak.overview import Overview\nfrom overviews import NOW\n"
        "view = Overview(Database(sys.argv[1]))\n"
        "print(len(view.jobs(NOW)), len(view.tree('docs', folder=b'docs').items),\n"
        "      len(view.search('a').items), len(view.runs().items), view.storage().size)\n"
    )
    from commands import _prefix

    try:
        done = subprocess.run(
            [*_prefix(powerless=True), sys.executable, "-c", code, f"sqlite:///{tmp_path}/home/catalog.db"],
            capture_output=True, text=True, timeout=60,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    finally:
        (tmp_path / "home").chmod(0o755)
    assert done.stdout.split() == ["1", "1", "1", "1", "7"], done.stderr


def test_runs_and_jobs_follow_their_indexes_on_sqlite(tmp_path: Path) -> None:
    from test_overview_names import plan_of

    from pybak.overview.alive import Liveness
    from pybak.overview.archives import list_archives
    from pybak.overview.jobs import job_states
    from pybak.overview.runs import list_errors, list_runs, list_snapshots, problems

    written = Written(f"sqlite:///{tmp_path}/catalog.db")
    run = written.back_up(errors=[("a", "b", "c")])
    alive = Liveness()
    page: dict[str, Any] = {"cursor": None, "limit": 5}
    none = dict.fromkeys(("job", "kind", "status", "since", "until"))
    with written.catalog.database.reading() as connection:
        plans = {
            name: plan_of(connection, ask)
            for name, ask in {
                "runs": lambda: list_runs(connection, alive, NOW, **none, **page),
                "job": lambda: list_runs(
                    connection, alive, NOW, **(none | {"job": "docs"}), **page
                ),
                "status": lambda: list_runs(
                    connection, alive, NOW, **(none | {"status": "failed"}), **page
                ),
                "kind": lambda: list_runs(
                    connection, alive, NOW, **(none | {"kind": "verify"}), **page
                ),
                "jobs": lambda: job_states(connection, alive, NOW, {}),
                "problems": lambda: problems(connection, alive, NOW, since=NOW, limit=5),
                "errors": lambda: list_errors(connection, run.run_id, **page),
                "snapshots": lambda: list_snapshots(connection, job="docs", **page),
                "archives": lambda: list_archives(connection, job="docs", **page),
            }.items()
        }
    for name, index in {
        "runs": "ix_run_time", "job": "ix_run_job_time", "status": "ix_run_status_time",
        "kind": "ix_run_kind_time", "jobs": "ix_run_kind_job", "problems": "ix_run_status_time",
        "errors": "ix_file_error_run", "archives": "ix_archive_job",
    }.items():  # fmt: skip
        assert any(index in plan for plan in plans[name]), (name, plans[name])
        assert not [plan for plan in plans[name] if "TEMP B-TREE FOR ORDER" in plan], name
    assert not [plan for plan in plans["snapshots"] if "TEMP B-TREE" in plan]
    written.catalog.close()
