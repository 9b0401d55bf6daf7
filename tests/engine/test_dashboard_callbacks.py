"""Dash's callbacks called by hand: whoever is logged in can send whatever they like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from api_doubles import FLOW_RUN
from dashboard_site import Site

import pybak.dashboard
from pybak.api.services import StartedRun

EVERYTHING = ("backup:read", "backup:write", "backup:restore")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "out").symlink_to("/etc")
    made = Site(tmp_path, restore_roots=(f"{tmp_path}/back",), source_roots=(str(tmp_path),))
    made.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="running")]
    return made


def _starts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Give what the page sends, by what it would change."""
    return {
        "start-said": {
            "start-go.n_clicks": 1, "start-kind.data": "backup", "start-once.data": "start",
            '{"field":["ALL"],"of":["ALL"],"part":["ALL"]}.value': [(_field("job"), "docs")],
            '{"field":["ALL"],"of":["ALL"],"part":["ALL"]}.id': [(_field("job"), _field("job"))],
        },
        "restore-said": _restore(f"{tmp_path}/back", ""),
        "retention-said": {
            "retention-plan.n_clicks": 1, "retention-job.data": "docs",
            "retention-once.data": "retention",
        },
        "run-said": {'{"do":"cancel"}.n_clicks': 1, "run-id.data": FLOW_RUN},
    }  # fmt: skip


def _field(name: str) -> dict[str, str]:
    return {"field": name, "part": "body", "of": "backup"}


def _restore(root: Any, below: Any) -> dict[str, Any]:
    return {
        "restore-go.n_clicks": 1, "restore-root.value": root, "restore-below.value": below,
        "restore-there.value": "never", "restore-once.data": "restore",
        "restore-what.data": {"query": "?job=docs&path=a.txt", "kind": "file"},
    }  # fmt: skip


def test_who_may_only_look_starts_and_stops_nothing(site: Site, tmp_path: Path) -> None:
    site.log_in("looker", ("backup:read",))
    for output, values in _starts(tmp_path).items():
        answer = site.call_back(output, values)
        assert answer.status_code == 200
        assert "You may not do this" in answer.text, output
    asked = {"restore-ask.n_clicks": 1, **_starts(tmp_path)["restore-said"]}
    assert "You may not do this" in site.call_back("restore-said", asked).text
    assert site.runs.made == []
    assert site.runs.cancelled == []


def test_who_may_do_it_starts_one_run_however_often_they_press(site: Site, tmp_path: Path) -> None:
    site.log_in("ann", EVERYTHING)
    for number, (output, values) in enumerate(_starts(tmp_path).items()):
        for _ in range(2):
            answer = site.call_back(output, values)
            assert "started" in answer.text or "asked to stop" in answer.text
        assert len(site.runs.made) == min(number + 1, 3)
    assert [kind for kind, _, _ in site.runs.made] == ["backup", "restore", "prune"]
    assert site.runs.cancelled == [FLOW_RUN] * 2


OUTSIDE = (
    ("/etc", ""), ("{}", "../.."), ("{}", "out"), ("{}/../api", ""), ("", "etc"),
    ("s3://elsewhere/x", ""), ("block:any", ""), ("{}", "a/../../api"), ("{}\0", ""),
)  # fmt: skip


def test_a_restore_stays_below_its_roots(site: Site, tmp_path: Path) -> None:
    site.log_in("ann", EVERYTHING)
    for root, below in OUTSIDE:
        answer = site.call_back("restore-said", _restore(root.format(f"{tmp_path}/back"), below))
        assert "notice bad" in answer.text, (root, below)
    assert site.runs.made == []


def test_what_nobody_thought_of_is_said_without_saying_what(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.log_in("ann", EVERYTHING)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("pybak.dashboard.pages.start.request_of", broken)
    answers = [
        site.call_back("start-said", {"start-go.n_clicks": 1, "start-kind.data": "backup"}),
        # Properties of another kind than the page has.
        site.call_back("restore-said", _restore({"a": 1}, ["b"])),
        site.call_back("run-said", {'{"do":"cancel"}.n_clicks': 1, "run-id.data": {"a": 1}}),
        site.call_back("page.children", {"url.pathname": ["x"]}),
    ]
    for answer in answers:
        assert answer.status_code < 500
        assert "secret of the inside" not in answer.text
        assert "This went wrong here" in answer.text
    assert site.runs.made == []


def test_names_and_texts_never_become_html() -> None:
    """Dash makes text of what it is given, unless it is told not to; nothing tells it."""
    folder = Path(pybak.dashboard.__file__).parent
    for file in [*folder.rglob("*.py"), *folder.rglob("*.js")]:
        text = file.read_text()
        assert not re.search(r"dangerously|innerHTML|insertAdjacentHTML|eval\(", text), file
