"""Which run `pybak logs` means, and what it shows of the lines that a source gives."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from looking import look
from prefect_double import Double

from pybak.catalog.engine import Database
from pybak.catalog.runs import Catalog
from pybak.errors import NotFoundError, PlanError
from pybak.home import catalog_url
from pybak.logs import server as server_module
from pybak.logs.lines import LogLine
from pybak.logs.server import ServerLogs
from pybak.logs.which import find_run

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
FLOW_RUNS = [str(uuid.UUID(int=number)) for number in range(1, 5)]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Runs of two jobs, the newest one a check; one of a time before flow runs were kept."""
    monkeypatch.setenv("PREFECT_HOME", "/nowhere")
    catalog = Catalog(catalog_url())
    for number, (run_id, kind, job) in enumerate([
        ("aaaa1111", "backup", "docs"), ("aaaa2222", "backup", "docs"),
        ("bbbb1111", "backup", "mail"), ("cccc1111", "verify", "mail"),
    ]):  # fmt: skip
        catalog.begin_run(
            run_id, kind=kind, job=job, options={}, now=NOW + timedelta(minutes=number),
            flow_run=FLOW_RUNS[number],
        )  # fmt: skip
    catalog.begin_run("old", kind="backup", job="old", options={}, now=NOW - timedelta(days=9))
    catalog.close()
    opened = Database(catalog_url())
    yield opened
    opened.close()


def test_without_a_run_the_newest_of_all_is_meant(database: Database) -> None:
    found = find_run(database, None, None)
    assert (found.run_id, found.kind, found.flow_run) == ("cccc1111", "verify", FLOW_RUNS[3])
    assert found.started_at == NOW + timedelta(minutes=3)


def test_latest_needs_a_job_where_there_are_several(database: Database) -> None:
    with pytest.raises(PlanError, match="docs, mail, old"):
        find_run(database, "latest", None)
    assert find_run(database, "latest", "docs").run_id == "aaaa2222"
    assert find_run(database, None, "docs").run_id == "aaaa2222"


def test_a_run_is_named_by_the_beginning_of_its_id(database: Database) -> None:
    assert find_run(database, "aaaa2", None).flow_run == FLOW_RUNS[1]
    assert find_run(database, "cccc1111", None).kind == "verify"
    with pytest.raises(PlanError, match="which run"):
        find_run(database, "aaaa", None)
    with pytest.raises(NotFoundError):
        find_run(database, "zzzzzzzz", None)
    with pytest.raises(NotFoundError, match="of job mail"):
        find_run(database, "aaaa1111", "mail")


def test_prefects_own_id_is_understood_with_and_without_a_catalog(database: Database) -> None:
    assert find_run(database, FLOW_RUNS[0], None).run_id == "aaaa1111"
    strange = str(uuid.UUID(int=99))
    assert find_run(database, strange, None).flow_run == strange
    assert find_run(None, strange, None).run_id is None
    with pytest.raises(NotFoundError):
        find_run(None, None, None)


def test_one_flow_run_of_several_jobs_is_found_by_prefects_id(database: Database) -> None:
    """As a prune of several jobs."""
    shared = str(uuid.UUID(int=7))
    catalog = Catalog(catalog_url())
    for job in ("docs", "mail"):
        catalog.begin_run(
            f"prune-{job}", kind="prune", job=job, options={}, now=NOW, flow_run=shared
        )
    catalog.close()
    assert find_run(database, shared, None).flow_run == shared
    assert find_run(database, shared, "docs").run_id == "prune-docs"


def test_a_run_of_an_older_pybak_says_why_there_is_no_log(database: Database) -> None:
    with pytest.raises(NotFoundError, match="older PyBak"):
        find_run(database, "old", None)


# ---- lines of a server


def row(number: int, at: datetime, level: int = 20) -> dict[str, Any]:
    return {
        "id": f"{number:05d}", "timestamp": at.isoformat(), "level": level,
        "message": f"line {number}", "name": "prefect.flow_runs", "task_run_id": None,
    }  # fmt: skip


def store(rows: list[dict[str, Any]]) -> Double:
    """Filter as Prefect's server does."""

    def filtered(body: Any) -> list[dict[str, Any]]:
        wanted = body["logs"]
        after = wanted.get("timestamp", {}).get("after_", "")
        found = [
            one for one in sorted(rows, key=lambda one: one["timestamp"])
            if one["timestamp"] >= after and one["level"] >= wanted["level"]["ge_"]
        ]  # fmt: skip
        return found[body["offset"] : body["offset"] + body["limit"]]

    return Double({"/logs/filter": filtered})


@pytest.mark.parametrize("at_once", [1, 3, 9, 500])
def test_every_line_comes_once_however_many_share_a_moment(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PAGE", 4)
    rows = [row(number, NOW + timedelta(seconds=number // at_once)) for number in range(41)]
    double = store(rows)

    def cut(body: Any) -> list[Any]:
        assert body["limit"] == 4
        return double.answers["/logs/filter"](body)  # type: ignore[no-any-return]

    api = Double({"/logs/filter": cut}).api()
    assert [line.text for line in ServerLogs(api).lines("x")] == [one["message"] for one in rows]


# ---- what is shown


class Fixed:
    """A source with lines of its own; each call of `state` is the next of `states`."""

    where = "somewhere"

    def __init__(self, *lines: LogLine, states: tuple[str, ...] = ("COMPLETED",)) -> None:
        self.kept = list(lines)
        self.states = list(states)
        self.later: list[LogLine] = []

    def lines(self, flow_run: str, *, least: int = 0, since: Any = None) -> Iterator[LogLine]:
        yield from [
            one for one in self.kept if one.level >= least and (since is None or one.time >= since)
        ]

    def state(self, flow_run: str) -> str | None:
        if len(self.states) > 1:
            self.kept += self.later[:1]
            del self.later[:1]
            return self.states.pop(0)
        return self.states[0]

    def task_names(self, flow_run: str) -> dict[str, str]:
        return {"t1": "compress-000"}

    def close(self) -> None: ...


def line(number: int, text: str, level: int = 20, task: str | None = None) -> LogLine:
    return LogLine(
        id=str(number), time=NOW + timedelta(seconds=number), level=level, text=text,
        logger="prefect.flow_runs", task_run=task,
    )  # fmt: skip


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, database: Database) -> Fixed:
    made = Fixed(
        line(0, "run aaaa1111 of job docs"), line(1, "bad \x1b[2Jname", 30, "t1"),
        line(2, "Traceback\n  File x", 40),
    )  # fmt: skip
    monkeypatch.setattr("pybak.cli.logs._sources", lambda _failed: iter([made]))
    monkeypatch.setattr("pybak.cli.logs._PAUSE_SECONDS", 0.01)
    return made


def test_lines_have_time_level_and_text_and_move_no_cursor(
    capsys: pytest.CaptureFixture[str], source: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    code, out, err = look(capsys, "logs", "aaaa1111")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "2026-11-21 19:15:00  INFO     run aaaa1111 of job docs",
        "2026-11-21 19:15:01  WARNING  compress-000: bad \\x1b[2Jname",
        "2026-11-21 19:15:02  ERROR    Traceback",
        "      File x",
    ]


def test_a_level_leaves_lesser_lines_out(capsys: pytest.CaptureFixture[str], source: Fixed) -> None:
    _, out, _ = look(capsys, "logs", "aaaa1111", "--level", "warning")
    assert [row.split()[2] for row in out.splitlines()[:2]] == ["WARNING", "ERROR"]
    code, _, err = look(capsys, "logs", "--level", "warnin")
    assert code == 2
    assert "did you mean warning" in err


def test_json_holds_the_run_and_its_lines(
    capsys: pytest.CaptureFixture[str], source: Fixed
) -> None:
    code, out, _ = look(capsys, "logs", "aaaa1111", "--json")
    parsed = json.loads(out)
    assert code == 0
    assert (parsed["status"], parsed["source"]) == ("success", "somewhere")
    assert (parsed["run"]["job"], parsed["run"]["flow_run"]) == ("docs", FLOW_RUNS[0])
    assert parsed["lines"][1] == {
        "time": "2026-11-21T10:15:01Z", "level": "WARNING", "text": "bad \x1b[2Jname",
        "logger": "prefect.flow_runs", "task": "compress-000",
    }  # fmt: skip


def test_following_shows_late_lines_once_until_the_run_has_ended(
    capsys: pytest.CaptureFixture[str], source: Fixed
) -> None:
    source.states = ["RUNNING", "RUNNING", "RUNNING", "COMPLETED"]
    # The second one comes late: it is older than what was shown before it.
    source.later = [line(8, "eight"), line(7, "seven"), line(9, "nine")]
    code, out, _ = look(capsys, "logs", "aaaa1111", "--follow", "--level", "info")
    assert code == 0
    texts = [row.split("  ")[-1].strip() for row in out.splitlines()]
    assert [text for text in texts if text in ("eight", "seven", "nine")] == [
        "eight", "seven", "nine"
    ]  # fmt: skip


def test_a_log_that_is_no_longer_kept_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], source: Fixed
) -> None:
    source.kept.clear()
    code, out, err = look(capsys, "logs", "aaaa1111")
    assert (code, out) == (10, "")
    assert "keeps no log of this run" in err
    assert "somewhere" in err
    assert len(err.splitlines()) == 1


def test_without_server_and_database_that_is_told(
    capsys: pytest.CaptureFixture[str], database: Database, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("pybak.prefect_server.is_own_listener", lambda _port: False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    code, _, err = look(capsys, "logs", "aaaa1111")
    assert code == 10
    assert "neither server nor database" in err
    assert os.listdir(tmp_path) == []


def test_a_server_that_is_away_is_told_if_nobody_else_has_the_log(
    capsys: pytest.CaptureFixture[str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    code, _, err = look(capsys, "logs", "aaaa1111")
    assert code == 1
    assert "no Prefect server answers" in err
