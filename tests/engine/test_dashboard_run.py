"""What a run's page and the overview say of runs, from the catalog and from the orchestrator."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_doubles import FLOW_RUN
from dashboard_site import Site
from overviews import NOW, Written

from pybak.api.services import LogLine, LogPage, StartedRun
from pybak.dashboard import parts
from pybak.dashboard.found_run import is_settled, status, title
from pybak.overview.facts import RunDetails


def started(state: str, **more: Any) -> StartedRun:
    return StartedRun(
        flow_run_id=FLOW_RUN, kind="backup", job="docs", state=state, created_at=NOW, **more
    )


@pytest.fixture
def recorded(tmp_path: Path) -> RunDetails:
    made = Written(f"sqlite:///{tmp_path}/c.db")
    ended = made.end("success", ago=timedelta(minutes=1), counts={"total": 7, "new": 7})
    return made.overview.run(ended)


def test_a_run_that_ended_in_the_catalog_alone_is_finishing(recorded: RunDetails) -> None:
    assert status((recorded, started("running"))) == "finishing"
    assert status((recorded, started("completed"))) == "success"
    assert status((recorded, None)) == "success"
    assert status((None, started("pending"))) == "pending"


def test_a_run_is_looked_at_until_its_last_lines_have_come(recorded: RunDetails) -> None:
    ended = started("completed", finished_at=NOW)
    assert not is_settled((recorded, ended), NOW + timedelta(seconds=5))
    assert is_settled((recorded, ended), NOW + timedelta(seconds=11))
    assert not is_settled((None, started("running")), NOW + timedelta(days=1))
    assert is_settled((recorded, None), NOW)


def test_a_title_does_not_say_inbox_twice(recorded: RunDetails) -> None:
    assert title((recorded, None)) == "Backup of docs"
    summary = msgspec.structs.replace(recorded.summary, kind="inbox", job="inbox /srv/scans")
    assert title((msgspec.structs.replace(recorded, summary=summary), None)) == ("Inbox /srv/scans")


def test_what_is_the_same_has_the_same_digest() -> None:
    first, again, other = (parts.empty("a", text) for text in ("b\udce9", "b\udce9", "c"))
    assert parts.digest([first]) == parts.digest([again]) != parts.digest([other])


def test_a_page_that_is_looked_at_again_changes_only_what_is_new(tmp_path: Path) -> None:
    """A question that is open stays open, and each answer tells whose turn it was."""
    site = Site(tmp_path)
    site.log_in("ann", ("backup:read", "backup:write"))
    site.runs.at_work = [started("running", started_at=NOW, percent=10.0)]
    shown = _changed(site, {"turn": 1}, ["", "", ""])
    assert "Stop this run" in json.dumps(shown["run-top"])
    assert shown["run-looked"]["data"] == 1
    site.runs.at_work = [started("running", started_at=NOW, percent=20.0)]
    again = _changed(site, {"turn": 2}, shown["run-shown"]["data"])
    assert again.keys() == {"run-head", "run-shown", "run-tick", "run-looked"}
    site.runs.at_work = [started("completed", finished_at=NOW, report="All is well")]
    over = _changed(site, {"turn": 3}, again["run-shown"]["data"])
    assert "All is well" in json.dumps(over["run-rest"])
    assert "Stop this run" not in json.dumps(over["run-top"])
    site.runs.trouble = RuntimeError("no such thing")
    assert "fault" in site.call_back("run-head", {"run-look.data": {"turn": 4}}).text


def _changed(site: Site, look: dict[str, int], known: list[str]) -> dict[str, Any]:
    values = {"run-look.data": look, "run-id.data": FLOW_RUN, "run-shown.data": known}
    found: dict[str, Any] = site.call_back("run-head", values).json()["response"]
    return found


def test_the_log_leaves_out_what_the_engine_says_of_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    site.log_in("ann", ("backup:read",))
    site.runs.at_work = [started("running")]
    texts = ("one batch", "Finished in state Completed()", "<b>two</b>")
    lines = [
        LogLine(at=NOW, level="info", message=text, flow_run_id=FLOW_RUN, cursor="1")
        for text in texts
    ]
    monkeypatch.setattr(
        "api_doubles.Logs.lines", lambda *_, **__: LogPage(items=lines, next="2", complete=True)
    )
    for level, count in (("info", 2), ("debug", 3)):
        values = {"run-looked.data": 5, "run-id.data": FLOW_RUN, "log-level.value": level}
        answer = site.call_back("log-lines", values).json()["response"]
        assert len(answer["log-lines"]["children"]) == count
        assert answer["log-state"]["data"]["turn"] == 5


def test_a_run_that_failed_before_it_began_is_on_the_overview(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.log_in("ann", ("backup:read",))
    site.runs.bad = [started("crashed", message="no process could be started")]
    text = site.call_back("page.children", {"url.pathname": "/dashboard/"}).text
    assert "Before it began: no process could be started" in text
    assert "There are no backups yet" in text
