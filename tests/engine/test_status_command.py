"""`pybak status`: what it shows, in any width and encoding, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import overviews
import pytest
from overviews import Written, fact
from terminal import Terminal
from waiting import within

from pybak.cli.program import pybak
from pybak.cli.status_view import Look, Shown, lines_of, sparkline
from pybak.display import columns
from pybak.overview.facts import Schedule, TrendPoint
from pybak.overview.schedules import job_of, read_schedules, schedules_within
from pybak.prefect_api import ApiError, PrefectApi

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LONG = "/home/you/Documents, /home/you/Pictures, /srv/a/long/place/of/data"
Catalog = Callable[..., Written]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """A catalog that commands use, whose NOW is now."""
    monkeypatch.setattr(overviews, "NOW", datetime.now(UTC))
    url = f"sqlite:///{tmp_path}/catalog.db"
    monkeypatch.setenv("PYBAK_CATALOG_URL", url)
    monkeypatch.setattr("pybak.overview.schedules.schedules_within", lambda *_: {})
    made = Written(url)
    yield made
    made.catalog.close()


def fill(written: Written) -> None:
    for age in range(5, 0, -1):
        written.back_up([fact("a")], "letters", ago=age * MINUTE, size=age * 10**6)
        written.back_up([fact("a")], LONG, ago=age * HOUR + DAY, size=10**9)
    for age in range(11, 0, -1):
        written.back_up([fact("a")], "old\udcff", ago=age * HOUR + 9 * DAY)
    for age in (3, 2):
        written.end("failed", LONG, ago=age * HOUR, message="/mnt: no space left; free some\x1b[2J")
    written.end("partial", "mail", ago=HOUR, counts={"failed": 2})
    written.end("cancelled", "new", ago=HOUR)
    written.begin("letters", "verify", ago=75 * timedelta(seconds=1))
    written.begin("busy", ago=12 * timedelta(seconds=1))


def test_each_job_has_a_line_and_what_is_wrong_is_said(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(written)
    assert pybak(["status"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("6 jobs: 2 with a problem, 1 late, 1 never good, 1 running, 1 good\n")
    assert re.search(r"✓ good     letters +\d+ (s|min) +15\.0 MB  █▇▅▄▂", out)
    assert re.search(r"✕ problem  mail ", out)
    assert re.search(r"\n    the last backup, .* ago, lacks 2 files; no backup was good yet\n", out)
    assert re.search(r"! late     \"old\\xff\"", out)
    assert "last good backup 9 days ago, usually every 1 hour\n" in out
    assert "▶ running  busy" in out
    assert re.search(r"letters  verify for \d+ minutes?\n", out)
    assert re.search(r"\d\d-\d\d \d\d:\d\d  0{4}\d{4}  backup failed, 2 times  /home/", out)
    assert "/mnt: no space left; free some\\x1b[2J\n" in out
    assert "\x1b" not in out


def test_it_fits_any_width(written: Written) -> None:
    fill(written)
    now = datetime.now(UTC)
    jobs = written.overview.jobs(now, {"letters": Schedule(next_run=now + 2 * MINUTE)})
    shown = Shown(
        now=now, jobs=jobs, active=written.overview.active(), problems=written.overview.problems()
    )
    for width in (70, 80, 100, 120, 160):
        for colours in (True, False):
            lines = list(lines_of(shown, Look(width=width, colours=colours, plain=False)))
            plain = [re.sub(r"\x1b\[\d*m", "", line) for line in lines]
            assert max(map(columns, plain)) <= width
            assert any(line != same for line, same in zip(lines, plain, strict=True)) == colours
            assert any(re.search(r"in \d+ (s|min)$", line) for line in plain)
            assert ("Last good" in plain[2]) == (width >= 100)


def test_a_sparkline_tells_each_run() -> None:
    def point(status: str, stored: int | None = None) -> TrendPoint:
        return TrendPoint(
            run_id="r", started_at=overviews.NOW, status=status, duration_seconds=1.0,
            bytes_read=None, bytes_stored=stored,
        )  # fmt: skip

    trend = [
        point("success", 1), point("success", 50), point("success", 100), point("unchanged"),
        point("failed"), point("partial", 100), point("died"), point("running"),
        point("success", None),
    ]  # fmt: skip
    assert sparkline(trend, plain=False) == "▁▅█·x!x>▁"
    assert sparkline(trend, plain=True).isascii()
    assert sparkline([], plain=False) == ""


@pytest.mark.parametrize(
    ("status", "code"), [("success", 0), ("failed", 1), ("partial", 1), ("cancelled", 1)]
)
def test_the_exit_code_tells_whether_all_is_well(
    written: Written, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    written.back_up([fact("a")], "fine")
    if status == "success":
        written.begin("fine", ago=timedelta(seconds=3))
    else:
        written.end(status, "other", ago=MINUTE)
    assert pybak(["status"]) == code
    assert pybak(["status", "--json"]) == code
    assert pybak(["status", "--job", "fine"]) == 0
    capsys.readouterr()
    assert pybak(["status", "--quiet"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pybak: other: ") if code else err == ""


def test_json_is_one_object_with_all_there_is(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(written)
    assert pybak(["status", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "failed"
    assert told["errors"] == []
    assert told["time"].endswith("Z")
    by_name = {job["name"]: job for job in told["jobs"]}
    assert by_name["letters"]["state"] == "good"
    assert by_name["letters"]["newest_good"]["finished_at"].endswith("Z")
    assert by_name["old\udcff"]["state"] == "late"
    assert [run["kind"] for run in told["active"]] == ["backup", "verify"]
    assert {run["status"] for run in told["problems"]} == {"failed", "partial"}


def test_an_empty_catalog_and_none_at_all_are_told(
    written: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pybak(["status"]) == 0
    assert capsys.readouterr().out.startswith("No job has run yet")
    assert pybak(["status", "--job", "nobody"]) == 10
    assert "no such job" in capsys.readouterr().err
    monkeypatch.setenv("PYBAK_CATALOG_URL", "sqlite:////nonexistent/catalog.db")
    assert pybak(["status"]) == 10
    assert "there is no catalog yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--watch", "--json"], ["--watch", "soon"], ["--watch=0s"], ["docs"]]
)
def test_wrong_usage_is_told(
    written: Written, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert pybak(["status", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_where_signs_are_missing_plain_ones_stand(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(written)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert pybak(["status"]) == 1
    text = raw.getvalue().decode("ascii")
    assert "+ good     letters" in text
    assert "\\u" not in text


def test_watching_shows_it_again_until_somebody_ends_it(written: Written, tmp_path: Path) -> None:
    """On a terminal, in colour."""
    written.back_up([fact("a")], "letters", ago=HOUR)
    written.catalog.close()
    env = {**os.environ, "TERM": "xterm", "PREFECT_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    words = [sys.executable, "-m", "pybak", "status", "--watch=1s"]
    with Terminal(words, env=env, cwd=Path(__file__).parents[2]) as terminal:
        terminal.wait_for("Ctrl-C ends", count=2)
        terminal.press(b"\x03")
        assert terminal.finish() == 130
        assert terminal.shown.count("\x1b[H\x1b[2J") >= 2
        assert "\x1b[32m✓ good\x1b[0m" in terminal.shown
        assert "Traceback" not in terminal.shown


def server(answer: Callable[[dict[str, Any]], Any]) -> PrefectApi:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/flow_runs/filter"
        return httpx.Response(200, json=answer(json.loads(request.content)))

    return PrefectApi("http://127.0.0.1:1/api", transport=httpx.MockTransport(handle))


def test_schedules_come_from_what_a_server_planned() -> None:
    def planned(minutes: int, **parameters: Any) -> dict[str, Any]:
        when = (overviews.NOW + minutes * MINUTE).isoformat()
        return {
            "parameters": parameters, "expected_start_time": when, "auto_scheduled": True,
        }  # fmt: skip

    rows = [
        planned(2, job="docs", sources=["/a"]), planned(4, job="docs"), planned(8, job="docs"),
        planned(3, sources=["/b/", "/a"], job=None), planned(5, source="/in", destination="/out"),
        planned(6, source="/in", destination="/out", job=None),
        planned(1, job="by hand") | {"auto_scheduled": False}, planned(1),
    ]  # fmt: skip
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> Any:
        asked.append(body)
        return rows

    with server(answer) as api:
        found = read_schedules(api)
    assert found == {
        "docs": Schedule(next_run=overviews.NOW + 2 * MINUTE, interval_seconds=240),
        "/a, /b": Schedule(next_run=overviews.NOW + 3 * MINUTE),
        "inbox /in": Schedule(next_run=overviews.NOW + 5 * MINUTE),
        "/out": Schedule(next_run=overviews.NOW + 6 * MINUTE),
    }
    assert asked[0]["flows"] == {"name": {"any_": ["backup", "inbox", "mirror"]}}
    assert job_of({"source": "/in"}) is None


def test_a_server_that_is_away_or_slow_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_environ: object) -> PrefectApi:
        raise ApiError("no")

    over = threading.Event()

    def slow(_environ: object) -> PrefectApi:
        over.wait(60)
        raise ApiError("no")

    for make in (away, slow):
        monkeypatch.setattr(PrefectApi, "from_environment", make)
        with within(3):
            assert schedules_within(0.3, {}) == {}
    over.set()
    assert schedules_within(1, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}) == {}


def test_importing_the_command_is_cheap() -> None:
    import subprocess

    code = (
        "import sys\nimport pybak.cli.status, pybak.cli.status_view, pybak.overview\n"
        "print([n for n in ('sqlalchemy', 'sqlmodel', 'httpx', 'rich') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
