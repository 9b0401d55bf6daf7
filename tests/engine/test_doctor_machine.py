"""What `pybak doctor` finds on this machine: catalog, jobs, disks, leftovers, environment."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from catalogs import make_released
from waiting import within
from written import BEGIN, WrittenJob, file

from pybak.catalog.engine import Database
from pybak.catalog.locks import is_locked, job_lock
from pybak.catalog.models import Verification
from pybak.catalog.runs import Catalog
from pybak.doctor import disk
from pybak.doctor.catalog import check_died, looked_at
from pybak.doctor.disk import Newest, check_disk, newest_archives
from pybak.doctor.environment import check_environment, misfits
from pybak.doctor.finding import Finding, about
from pybak.doctor.jobs import JobState, check_jobs, read_jobs, scheduled_intervals
from pybak.doctor.outbox import check_outbox
from pybak.home import home
from pybak.overview.alive import Liveness
from pybak.overview.jobs import job_states
from pybak.staging import WorkFolder

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def told(found: Sequence[Finding], state: str) -> list[str]:
    return [one.line() for one in found if one.state == state]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes"),
     (7199, "119 minutes"), (7200, "2 hours"), (3 * 86400, "3 days")],
)  # fmt: skip
def test_ages_are_told_in_their_largest_unit(seconds: int, words: str) -> None:
    assert about(seconds) == words


# ---- catalog


def look_at(url: str) -> tuple[list[Finding], bool]:
    found: list[Finding] = []
    with looked_at(found, {"PYBAK_CATALOG_URL": url}) as database:
        return found, database is not None


def test_a_whole_catalog_is_ok(any_catalog: str) -> None:
    WrittenJob(any_catalog).close()
    Database(any_catalog).open()
    found, can_read = look_at(any_catalog)
    assert [one.state for one in found] == ["ok"]
    assert can_read


def test_no_catalog_is_a_note_and_none_is_made(any_catalog: str, tmp_path: Path) -> None:
    found, can_read = look_at(any_catalog)
    assert [one.state for one in found] == ["note"]
    assert not can_read
    assert not (tmp_path / "catalog").exists()


def test_an_older_catalog_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    make_released(url, "0003")
    before = hashlib.sha256((tmp_path / "catalog.db").read_bytes()).digest()
    found, can_read = look_at(url)
    assert "older PyBak" in told(found, "note")[0]
    assert not can_read
    assert hashlib.sha256((tmp_path / "catalog.db").read_bytes()).digest() == before


def test_a_damaged_catalog_is_a_problem_with_the_way_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    job = WrittenJob(url)
    for _ in range(3):
        job.run(*(file(f"docs/{number}") for number in range(400)))
    job.close()
    with sqlite3.connect(tmp_path / "catalog.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "catalog.db").open("r+b") as out:
        out.seek(3 * 4096)
        out.write(os.urandom(20 * 4096))
    found, _ = look_at(url)
    (line,) = told(found, "problem")
    assert "flows/rebuild.py" in line


def test_a_run_that_died_is_told_and_one_at_work_is_not(any_catalog: str) -> None:
    """(case 46)"""
    catalog = Catalog(any_catalog)
    for job in ("dead", "alive", "over"):
        catalog.begin_run(f"{job}-1", kind="backup", job=job, options={}, now=NOW)
    catalog.begin_run("over-2", kind="backup", job="over", options={}, now=NOW)
    catalog.finish_run("over-2", status="success", counts={}, now=NOW)
    with job_lock("alive", catalog_url=any_catalog):
        assert is_locked("alive", catalog_url=any_catalog)
        found = check_died(catalog.database, any_catalog, NOW + timedelta(hours=3))
    catalog.close()
    (line,) = told(found, "note")
    assert line.startswith("dead: the newest backup died at work, 3 hours ago")
    assert not is_locked("alive", catalog_url=any_catalog)


# ---- jobs


def state(ages: Sequence[float], **more: Any) -> JobState:
    starts = tuple(NOW - timedelta(seconds=age) for age in ages)
    fresh = NOW - timedelta(hours=1)
    given = {
        "ended": starts[0] if starts else None, "verified": fresh, "verify_status": "success",
        "drilled": fresh, "drill_status": "success",
    }  # fmt: skip
    return JobState("docs", starts, **{**given, **more})


def of_job(one: JobState, scheduled: float | None = None) -> list[Finding]:
    return check_jobs([one], {} if scheduled is None else {("backup", "docs"): scheduled}, NOW)


def test_a_backup_that_is_days_old_on_a_two_minute_schedule_is_a_problem() -> None:
    days = 3 * 86400
    (line,) = told(of_job(state([days, days + 120, days + 240]), 120), "problem")
    assert line.startswith("docs: last good backup 3 days ago, due every 2 minutes")


def test_a_daily_backup_that_is_days_old_is_a_problem() -> None:
    day = 86400
    (line,) = told(of_job(state([4 * day, 5 * day, 6 * day]), day), "problem")
    assert line.startswith("docs: last good backup 4 days ago, due every 24 hours")
    assert told(of_job(state([1.4 * day, 2.4 * day]), day), "problem") == []


def test_the_age_of_a_backup_counts_from_its_end() -> None:
    """One a day that takes half a day is not late."""
    one = state([1.6 * 86400], ended=NOW - timedelta(days=1))
    assert told(of_job(one, 86400), "problem") == []


def test_a_fresh_backup_is_ok() -> None:
    assert told(of_job(state([40, 160, 280]), 120), "ok")[0].startswith(
        "docs: last good backup 40 seconds ago, due every 2 minutes"
    )


def test_a_job_that_was_always_run_by_a_clock_and_stopped_is_a_problem() -> None:
    hours = [6 * 3600 + 600 * number for number in range(12)]
    (line,) = told(of_job(state(hours)), "problem")
    assert "usually every 10 minutes" in line


def test_a_job_that_was_run_by_hand_now_and_then_is_a_note() -> None:
    days = [86400 * number for number in (9, 9.01, 9.02, 30, 31, 31.1, 60, 60.1, 90, 91, 92)]
    found = of_job(state(days))
    assert told(found, "problem") == []


def test_rounds_of_an_inbox_are_looked_at_too() -> None:
    one = state([86400, 86520, 86640], kind="inbox")
    found = check_jobs([one], {("inbox", "docs"): 120}, NOW)
    assert [one.state for one in found] == ["problem"]
    assert found[0].text.startswith("docs: last good round 24 hours ago")


def test_few_backups_have_no_usual_interval() -> None:
    found = of_job(state([86400 * 40, 86400 * 41]))
    assert told(found, "ok")[0] == "docs: last good backup 40 days ago"


def test_a_job_without_any_good_backup_is_a_problem() -> None:
    assert len(told(of_job(state([])), "problem")) == 1


def test_what_was_never_verified_or_tried_is_a_note_with_the_command() -> None:
    never = {"verified": None, "verify_status": None, "drilled": None, "drill_status": None}
    (line,) = told(of_job(state([40], **never)), "note")
    assert line.endswith("python flows/verify.py latest --job docs")
    (line,) = told(of_job(state([40], drilled=None, drill_status=None)), "note")
    assert line.endswith("python flows/drill.py --job docs")


def test_a_check_that_found_damage_is_a_problem() -> None:
    (line,) = told(of_job(state([40], verify_status="damaged")), "problem")
    assert "found it damaged" in line


def test_the_catalog_tells_backups_checks_and_drills(any_catalog: str, tmp_path: Path) -> None:
    job = WrittenJob(any_catalog, place=tmp_path)
    snapshot = job.run(file("docs/a", "one"))
    job.run(file("docs/a", "two"), status="partial")
    catalog = Catalog(any_catalog)
    catalog.begin_run("bad", kind="backup", job="docs", options={}, now=BEGIN + timedelta(days=1))
    catalog.finish_run("bad", status="failed", counts={}, now=BEGIN + timedelta(days=1))
    catalog.begin_run("d", kind="drill", job="docs", options={}, now=BEGIN + timedelta(days=2))
    catalog.finish_run("d", status="success", counts={}, now=BEGIN + timedelta(days=2))
    with catalog.writing() as session:
        session.add(Verification(
            archive=snapshot.archive, run_id="v", checked_at=BEGIN, status="success"
        ))  # fmt: skip
    catalog.close()
    (one,) = read_jobs(job.database, NOW)
    assert (one.job, one.failures) == ("docs", 2)
    assert one.starts == (BEGIN + timedelta(days=1), BEGIN + timedelta(hours=1), BEGIN)
    assert (one.verified, one.verify_status) == (BEGIN, "success")
    assert (one.drilled, one.drill_status) == (BEGIN + timedelta(days=2), "success")
    assert one.ended == BEGIN + timedelta(minutes=1)
    archive = (tmp_path / "docs-2.zip",)
    assert newest_archives(job.database, {}) == [Newest(archive, "docs", 1000)]
    job.close()


def test_what_is_a_problem_for_status_is_one_for_the_doctor(any_catalog: str) -> None:
    """Runs that left something unsaved, also where none was good."""
    bad = {"new": 1, "failed": 1}
    for name, statuses in (
        ("never", ["partial", "partial"]), ("lately", ["success", "partial"]),
        ("again", ["success", "unchanged"]), ("well", ["partial", "success"]),
    ):  # fmt: skip
        job = WrittenJob(any_catalog, name)
        for status in statuses:
            counts = {"new": 1} if status == "success" else bad
            job.run(file("docs/a", status), status=status, counts=counts)
        job.close()
    database = Database(any_catalog)
    with database.reading() as connection:
        states = job_states(connection, Liveness(), NOW, {})
    found = check_jobs(read_jobs(database, NOW), {}, NOW)
    assert {one.name for one in states if one.state == "problem"} == {"never", "lately", "again"}
    catalog = Catalog(any_catalog)
    catalog.begin_run("now", kind="backup", job="never", options={}, now=NOW)
    catalog.close()
    (line,) = [
        line for line in told(check_jobs(read_jobs(database, NOW), {}, NOW), "note")
        if "Running" in line
    ]  # fmt: skip
    assert line.startswith("never: Running for 0 seconds; the last backup, 22 hours ago")
    database.close()
    lines = [line.partition(";")[::2] for line in sorted(told(found, "problem"))]
    assert [start.partition(":")[0] for start, _ in lines] == ["again", "lately", "never"]
    assert "lacks 1 file" in lines[1][0]
    assert lines[1][1].startswith(" last good backup 23 hours ago")
    assert "no backup was good yet" in lines[2][1]
    assert any(line.startswith("well: last good backup") for line in told(found, "ok"))


def test_intervals_come_from_schedules_that_are_on() -> None:
    def deployed(**more: Any) -> Any:
        given: dict[str, Any] = {
            "flow": "backup", "runs_by_itself": True, "parameters": {"job": "docs"},
            "intervals": (600.0, 120.0),
        }  # fmt: skip
        return SimpleNamespace(**{**given, **more})

    assert scheduled_intervals([deployed()]) == {("backup", "docs"): 120.0}
    assert scheduled_intervals([deployed(runs_by_itself=False)]) == {}
    assert scheduled_intervals([deployed(flow="prune")]) == {}
    inbox = deployed(flow="inbox", parameters={"source": "/in"})
    assert scheduled_intervals([inbox]) == {("inbox", "inbox /in"): 120.0}


# ---- disk


def of_docs(*files: Path, size: int = 10) -> Newest:
    return Newest(files, "docs", size)


def test_archives_whose_folder_is_gone_are_a_problem(tmp_path: Path) -> None:
    """(case 44)"""
    found = check_disk({}, [], [of_docs(tmp_path / "unmounted" / "docs.zip")])
    (line,) = told(found, "problem")
    assert "unmounted is not there" in line


def test_an_archive_that_lacks_a_file_is_a_problem(tmp_path: Path) -> None:
    """As an empty mount point where a disk should be (case 44)"""
    first, second = tmp_path / "docs.zip.001", tmp_path / "docs.zip.002"
    first.touch()
    (line,) = told(check_disk({}, [], [of_docs(first, second)]), "problem")
    assert line.startswith(f"{second} is not there, but archives of docs should be")
    second.touch()
    assert told(check_disk({}, [], [of_docs(first, second)]), "problem") == []


def test_a_destination_that_is_not_there_is_told(tmp_path: Path) -> None:
    one: Any = SimpleNamespace(name="backup/docs", parameters={"to": "block:stick/docs"})
    blocks = {"stick": str(tmp_path / "stick")}
    (line,) = [line for line in told(check_disk({}, [one], [], blocks), "note") if "stick" in line]
    assert line.startswith(f"{tmp_path}/stick/docs is not there, but backup/docs writes to it")
    (tmp_path / "stick" / "docs").mkdir(parents=True)
    assert all("stick" not in line for line in told(check_disk({}, [one], [], blocks), "note"))


def test_a_disk_that_does_not_answer_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a server that is away (case 44)"""
    away = tmp_path / "away" / "docs.zip"
    stat, over = Path.exists, threading.Event()

    def hanging(path: Path) -> bool:
        if "away" in path.parts:
            over.wait(120)
        return stat(path)

    monkeypatch.setattr(Path, "exists", hanging)
    with within(10):
        try:
            found = check_disk({}, [], [of_docs(away)], seconds=0.5)
        finally:
            over.set()
    (line,) = told(found, "problem")
    assert line.startswith(f"{away.parent} does not answer within 0 seconds")
    assert [one for one in found if one.state != "problem"]  # the other disks


def test_a_disk_with_less_room_than_the_newest_archive_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: object) -> Any:
        return SimpleNamespace(
            f_bavail=2, f_frsize=10**9, f_blocks=100, f_files=10**6, f_favail=10**6
        )

    monkeypatch.setattr(disk.os, "statvfs", full)
    archive = tmp_path / "docs.zip"
    archive.touch()
    found = check_disk({"PYBAK_HOME": str(tmp_path)}, [], [of_docs(archive, size=5 * 10**9)])
    assert any("may need 5.00 GB" in line for line in told(found, "problem"))
    found = check_disk({"PYBAK_HOME": str(tmp_path)}, [], [of_docs(archive, size=10**9)])
    assert told(found, "problem") == []
    assert told(found, "note")


def test_leftovers_of_killed_runs_are_told_and_live_ones_are_not(tmp_path: Path) -> None:
    live = WorkFolder.create(tmp_path, "live")
    dead = WorkFolder.create(tmp_path, "dead")
    (dead.path / "piece").write_bytes(b"x" * 100_000)
    os.close(dead._lock_fd)  # as the kernel does when its process is killed
    found = check_disk({}, [], [of_docs(tmp_path / "docs.zip")])
    live.remove()
    (line,) = [line for line in told(found, "note") if "leftover" in line]
    assert line.startswith("1 leftover of killed runs")
    assert dead.path.exists()


def test_folders_of_deployments_are_looked_at_and_storages_are_not(tmp_path: Path) -> None:
    one: Any = SimpleNamespace(
        name="backup/docs",
        parameters={"to": str(tmp_path / "new"), "destination": "s3://b/x",
                    "options": {"also_to": ["block:x", "/", "~/stick", "block:here/docs",
                                            "block:pybak-local-folder/here"]}},
    )  # fmt: skip
    folders = [folder for folder, _ in disk.local_folders([one], {"here": "~/here"})]
    home_folder = Path.home()
    assert folders == [
        tmp_path / "new", Path("/"), home_folder / "stick", home_folder / "here" / "docs",
        home_folder / "here",
    ]  # fmt: skip


# ---- environment and mail


def test_packages_that_do_not_fit_are_told_with_the_way_to_mend() -> None:
    found = misfits([
        "httpx>=0.27", "sqlalchemy<1", "no-such-package>=2", "other>3; extra == 'test'"
    ])  # fmt: skip
    assert [advice for _, advice in found] == [
        "pip install 'sqlalchemy<1'", "pip install 'no-such-package>=2'"
    ]  # fmt: skip


def test_a_home_that_others_can_change_is_a_note(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found = check_environment({"PYBAK_HOME": str(tmp_path)})
    assert any("chmod go-w" in line for line in told(found, "note"))
    found = check_environment({"PYBAK_HOME": str(tmp_path / "new")})
    assert any("not there yet" in line for line in told(found, "note"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    found = check_environment({"PYBAK_HOME": str(tmp_path / "file" / "below")})
    assert any("/file/below" in line for line in told(found, "problem"))


def test_a_home_that_can_t_be_made_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = check_environment({"PYBAK_HOME": str(tmp_path / "none" / "of" / "this")})
    assert any("can't be made" in line for line in told(found, "problem"))


def test_mails_that_wait_are_counted_with_the_age_of_the_oldest() -> None:
    outbox = home() / "outbox"
    outbox.mkdir(parents=True)
    letter = outbox / f"{int(NOW.timestamp() * 1000):015d}-1.letter"
    letter.write_text(json.dumps({}))
    assert check_outbox(os.environ, NOW + timedelta(seconds=5)) == []
    tried = NOW + timedelta(hours=7)
    os.utime(letter, (tried.timestamp(), tried.timestamp()))
    (line,) = told(check_outbox(os.environ, NOW + timedelta(hours=7)), "note")
    assert line.startswith("1 mail could not be sent, the oldest for 7 hours")
