"""`python flows/prune.py`: what it prints, how it ends, and what Prefect is told."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from commands import Commands
from jobs import Job, seen
from pruning import INCREMENTAL, Shelf
from waiting import wait_for, within

from pybak.catalog.locks import job_lock
from pybak.home import catalog_url


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Five archives of `docs`, of which the last builds on the one before, and two of `mail`."""
    shelf = Shelf(tmp_path / "backups", catalog_url())
    for number in range(1, 5):
        shelf.add({"a": number, "b": number})
    shelf.add({"b": 5}, mode=INCREMENTAL, tags=["march"])
    for number in (1, 2):
        shelf.add({"m": number}, job="mail")
    return shelf


def test_a_prune_keeps_what_was_asked_for_and_tells_it(
    shelf: Shelf, run_command: Commands, prefect_api: httpx.Client
) -> None:
    """(case 110)"""
    done = run_command("prune", "--job", "docs", "--keep-last", "1", "--json")
    assert done.rc == 0, done
    assert done.json["status"] == "success"
    (job,) = done.json["jobs"]
    assert (job["job"], job["status"]) == ("docs", "success")
    assert [(one["seq"], one["reasons"]) for one in job["keep"]] == [
        (5, ["the last one"]), (4, ["needed by run 5"]),
    ]  # fmt: skip
    assert set(job["keep"][0]) >= {"run_id", "seq", "time", "archive", "reasons"}
    assert job["keep"][0]["tags"] == ["march"]
    assert [one["archive"] for one in job["remove"]] == [
        str(shelf.folder / f"docs_000{number}.zip") for number in (3, 2, 1)
    ]
    assert not [one for one in job["remove"] if os.path.exists(one["archive"])]
    assert done.json["bytes_freed"] == job["bytes_freed"] == 3 * 1013
    assert shelf.seqs()[-1] == 5
    runs = prefect_api.post(
        "/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}
    ).json()
    assert runs[0]["name"].startswith("docs ")
    assert (runs[0]["state_type"], runs[0]["state_name"]) == ("COMPLETED", "Completed")
    with shelf.database.reading() as connection:
        (row,) = connection.exec_driver_sql(
            "SELECT job, status, counts FROM run WHERE kind = 'prune'"
        )
    assert row[:2] == ("docs", "success")
    assert json.loads(row[2])["deleted"] == 3


def test_a_job_at_work_is_left_alone_and_the_others_are_done(
    shelf: Shelf, run_command: Commands
) -> None:
    """(case 98)"""
    with job_lock("docs"):
        alone = run_command("prune", "--job", "docs", "--keep-last", "1", "--json")
        done = run_command("prune", "--all-jobs", "--keep-last", "1", "--json")
        waited = run_command("prune", "--job", "docs", "--keep-last", "1", "--wait-limit", "1s")
    assert alone.rc == 11, alone
    assert alone.json["status"] == "cancelled"
    assert alone.json["errors"][0]["code"] == "locked"
    assert f"process {os.getpid()}, since 2" in alone.stderr
    assert waited.rc == 11, waited
    assert done.rc == 3, done
    docs, mail = done.json["jobs"]
    assert (docs["job"], docs["status"], docs["remove"]) == ("docs", "locked", [])
    assert "another run of this job is at work" in docs["message"]
    assert (mail["job"], mail["status"], len(mail["remove"])) == ("mail", "success", 1)
    assert done.json["errors"] == [
        {"job": "docs", "path": "", "code": "locked", "message": docs["message"]}
    ]
    assert shelf.seqs() == [1, 2, 3, 4, 5]


def test_waiting_for_another_run_can_be_interrupted(shelf: Shelf, run_command: Commands) -> None:
    """(case 95)"""
    query = "SELECT status FROM run WHERE kind = 'prune'"

    def status() -> str | None:
        with shelf.database.reading() as connection:
            found: str | None = connection.exec_driver_sql(query).scalar()
            return found

    with (
        job_lock("docs"),
        run_command.running("prune", "--job", "docs", "--keep-last", "1", "--wait") as process,
    ):
        wait_for(lambda: status() == "running", 60)
        time.sleep(1)
        assert process.poll() is None
        with within(5):
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "stopped on request while it waited for another run" in stderr
    assert status() == "cancelled"
    assert shelf.seqs() == [1, 2, 3, 4, 5]


def test_a_dry_run_shows_each_verdict_with_its_reasons(shelf: Shelf, run_command: Commands) -> None:
    """No server is asked for. (case 108)"""
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = run_command(
        "prune", "--job", "docs", "--keep-daily", "1", "--keep-tag", "march", "--dry-run", env=away
    )
    assert done.rc == 0, done
    lines = done.stdout.splitlines()
    headline = "Prune of docs, dry run: would keep 2 snapshots and remove 3; nothing was changed"
    assert lines[0] == headline
    text = " ".join(done.stdout.split())
    assert "run 5 of 2026-11-06 12:00:00: newest of 2026-11-06; tagged march" in text
    assert "run 4 of 2026-11-05 12:00:00: needed by run 5" in text
    assert "run 1 of 2026-11-02 12:00:00: no rule keeps it" in text
    assert len(shelf.files()) == 7
    shown = run_command(
        "prune", "--all-jobs", "--keep-last", "1", "--dry-run", "--json", env=away
    ).json
    assert shown["dry_run"] is True
    assert [len(job["remove"]) for job in shown["jobs"]] == [3, 1]
    assert len(shelf.files()) == 7


def test_encrypted_archives_are_consolidated_with_their_password(
    tmp_path: Path, run_command: Commands
) -> None:
    """A dry run tells the same; without the password the run is partial. (case 110)"""
    job = Job(tmp_path, catalog_url=catalog_url())
    for number in range(3):
        (job.source / f"f{number}").write_text("x" * 1000)
        (job.source / "a").write_text(str(number))
        job.run("incremental", password=b"correct horse", format="tar.zst")
    words = ["prune", "--job", "docs", "--keep-last", "1", "--consolidate", "--json"]
    password = {"PYBAK_PASSWORD": "correct horse"}
    without = run_command(*words, "--dry-run")
    assert without.rc == 3, without
    assert [one["code"] for one in without.json["errors"]] == ["wrong_password"]
    shown = run_command(*words, "--dry-run", "--password=correct horse")
    assert shown.rc == 0, shown
    done = run_command(*words, env=password)
    assert done.rc == 0, done
    assert done.json["bytes_freed"] == shown.json["bytes_freed"] > 0
    ((planned,), (made,)) = (one.json["jobs"] for one in (shown, done))
    assert sorted(made["deleted"]) == sorted(planned["deleted"])
    assert made["consolidated"]["seq"] == planned["consolidated"]["seq"] == 3
    assert [str(path) for path in job.archives] == [made["consolidated"]["archive"]]
    report, folder = job.restore(password=b"correct horse")
    assert report.status == "success"
    assert seen(folder) == seen(job.source)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--keep-last", "1"], 2, "which job? name one with --job, or give --all-jobs"),
        (["--job", "docs"], 2, "no rule says what to keep; give at least one"),
        (["--all-jobs", "--keep-last", "0"], 2, "no rule says what to keep"),
        (["--job", "docs", "--all-jobs", "--keep-last", "1"], 2, "exclude each other"),
        (["--job", "docs", "--keep-last", "-1"], 2, "--keep-last: -1 is not at least 0"),
        (["--job", "docs", "--keep-within", "1x"], 2, "--keep-within: '1x' is no duration"),
        (["--job", "nobody", "--keep-last", "1"], 10, "nobody: no backup of this job"),
    ],
)
def test_what_is_asked_wrongly_ends_before_a_server_is_asked_for(
    run_command: Commands, words: list[str], code: int, message: str
) -> None:
    """(case 108)"""
    done = run_command("prune", *words, env={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert done.rc == code, done
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
