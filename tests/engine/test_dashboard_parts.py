"""What the dashboard's pages say: addresses, words, pictures, forms. Nothing is served here."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overviews import NOW, Written
from pydantic import BaseModel

from pybak.api.problems import Problem
from pybak.dashboard import charts, forms, links, parts, retention, words
from pybak.dashboard.pages import restore, start
from pybak.errors import NotFoundError
from pybak.overview.facts import TrendPoint

NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)


def point(status: str = "success", stored: int | None = 100, read: int | None = 400) -> TrendPoint:
    return TrendPoint(
        run_id="1", started_at=NOW, status=status, duration_seconds=3.0, bytes_read=read,
        bytes_stored=stored,
    )  # fmt: skip


@given(NAMES)
def test_any_name_survives_an_address(name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    address = links.to("/file", job=text, path=text)
    assert address.isascii()
    assert links.read(urlsplit(address).query) == {"job": text, "path": text}


@given(NAMES)
def test_a_download_names_the_bytes_of_a_file(name: bytes) -> None:
    from urllib.parse import unquote_to_bytes

    address = links.download(7, name.decode("utf-8", "surrogateescape"))
    assert unquote_to_bytes(address.partition("/members/")[2]) == name


def test_what_is_not_asked_for_is_not_in_an_address() -> None:
    assert links.to("/runs", job=None, status="") == "/dashboard/runs"
    assert links.page_of("/dashboard/runs/a%2Fb") == ("runs", "a/b")
    assert links.page_of("/dashboard/") == () == links.page_of(None)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("", []), ("a", [("a", "a")]), ("a/b", [("a", "a"), ("b", "a/b")]),
        ("/srv/x", [("srv", "/srv"), ("x", "/srv/x")]),
    ],
)  # fmt: skip
def test_folders_above_lead_back(folder: str, expected: list[tuple[str, str]]) -> None:
    assert links.parents(folder) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (4, "just now"), (59, "59 seconds ago"), (60, "1 minute ago"), (3000, "50 minutes ago"),
        (7200, "2 hours ago"),
        (86_400, "24 hours ago"), (200_000, "2 days ago"), (-7200, "in 2 hours"), (-5, "now"),
        (-7190, "in 2 hours"), (-3590, "in 1 hour"), (-4500, "in 75 minutes"), (-50, "in 1 minute"),
    ],
)  # fmt: skip
def test_times_are_told_as_people_tell_them(seconds: int, expected: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == expected


def test_times_of_day_are_those_of_the_reader() -> None:
    at = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    assert words.moment(at, timezone(timedelta(hours=9))) == "2 Mar 2026, 08:30"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], ("There are no backups yet.", "never")),
        (["good"], ("The only job is safe.", "good")),
        (["good", "running"], ("Both jobs are safe.", "good")),
        (["good", "running", "good"], ("All 3 jobs are safe.", "good")),
        (["good", "late"], ("1 of 2 jobs needs a look.", "late")),
        (["never", "problem", "good"], ("2 of 3 jobs need a look.", "problem")),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_the_worst_job(states: list[str], expected: tuple[str, str]) -> None:
    assert words.safety(states) == expected


def test_what_was_stored_is_told_as_a_share() -> None:
    assert words.ratio(400, 100) == "25 %"
    assert words.ratio(100_000, 1) == "< 1 %"
    assert words.ratio(None, 1) == words.ratio(0, 1) == words.NONE
    assert words.newest_ratio((point(), point("failed", None))) == "25 %"


def test_small_pictures_are_good_xml_and_told_in_words() -> None:
    trend = [*[point()] * 40, point("failed", None), point("partial", 50), point("unchanged", 0)]
    address = charts.sparkline(trend)
    picture = ElementTree.fromstring(unquote(address.removeprefix("data:image/svg+xml,")))
    bars = [one.get("class") for one in picture if one.tag.endswith("rect")]
    assert bars[-4:] == ["g", "b", "p", "n"]
    assert len(bars) == 30
    assert charts.told(trend) == "Last 30 runs: 1 failed, the newest stored 50 B"
    assert charts.told([]) == "No runs yet"
    assert "rect" not in charts.sparkline([])


@pytest.mark.parametrize("count", [0, 1, 3, 60])
def test_figures_are_what_plotly_takes(count: int) -> None:
    import plotly.graph_objects as go

    for make in (charts.size_figure, charts.duration_figure):
        figure = make([point()] * count, UTC)
        go.Figure(figure)  # refuses what it does not know
        assert len(figure["data"][0]["x"]) == count


class Sample(BaseModel):
    """Options of each kind."""

    flag: bool = False
    kind: Literal["a", "b"] = "a"
    names: list[str] = []
    number: int | None = None
    text: str | None = None


def test_options_become_the_fields_that_suit_them() -> None:
    fields: Any = Sample.model_fields
    assert forms.choices_of(fields["flag"].annotation) == ["", "true", "false"]
    assert forms.choices_of(fields["kind"].annotation) == ["", "a", "b"]
    assert forms.choices_of(fields["text"].annotation) == []
    assert forms.is_list(fields["names"].annotation)
    assert not forms.is_list(fields["text"].annotation)
    made = json.dumps([one.to_plotly_json() for one in forms.option_fields(Sample, "x")],
                      default=lambda part: part.to_plotly_json())  # fmt: skip
    assert '"type": "number"' in made
    assert '"type": "Textarea"' in made


def test_a_form_asks_for_what_was_filled_in() -> None:
    def ident(field: str, part: str = "options", **more: str) -> dict[str, str]:
        return {"field": field, "part": part, "of": "backup", **more}

    body = forms.body_of(
        [ident("job", "body"), ident("to", "body"), ident("dedupe"), ident("wait"),
         ident("level"), ident("exclude", many="1"), ident("tag", many="1"), ident("mode")],
        [" docs ", None, "true", "false", 5, "*.tmp\n\n *.o ", "  \n", ""],
    )  # fmt: skip
    assert body == {
        "job": "docs",
        "options": {"dedupe": True, "wait": False, "level": 5, "exclude": ["*.tmp", "*.o"]},
    }
    assert start.request_of("backup", body).options.level == 5
    with pytest.raises(Problem) as caught:
        start.request_of("verify", {})
    assert caught.value.errors


def test_a_restore_asks_for_one_name_whatever_is_in_it() -> None:
    query = {"run": "run-1", "job": "docs", "path": "a [1]*/b!.txt"}
    made = restore.request_of(query, "/back", "never", None)
    assert made.run == "run-1"
    assert made.job is None
    assert made.to == "/back"
    assert made.options.include == ["/a \\[1\\]\\*/b\\!.txt"]
    latest = restore.request_of({"job": "docs", "path": "x"}, "/back", "never", "key")
    assert latest.job == "docs"
    assert latest.options.password_block == "key"
    with pytest.raises(Problem, match="no UTF-8"):
        restore.request_of({"job": "docs", "path": "\udce9"}, "/back", "never", None)


def test_rules_are_those_of_prune(any_catalog: str) -> None:
    made = Written(any_catalog)
    for day in range(12, 0, -1):
        made.back_up(ago=timedelta(days=day))
    rules = retention.rules_of({"keep_last": "3", "keep_within": "5d", "job": "docs"})
    assert rules == {"keep_last": 3, "keep_within": "5d"}
    found = retention.judge(made.overview, "docs", rules, now=NOW, timezone=UTC)
    kept = [one for one in found.values() if one.keep]
    assert len(found) == 12
    assert len(kept) == 5
    assert "one of the last 3" in kept[0].reasons
    assert retention.rules_of({"job": "docs"}) == {}
    for bad in ({"keep_last": "many"}, {"keep_within": "soon"}, {"keep_daily": "-1"}):
        with pytest.raises(Problem):
            retention.rules_of(bad)


def test_errors_become_sentences_and_unknown_ones_say_nothing() -> None:
    assert parts.said(NotFoundError("there is none")) == "There is none."
    assert parts.said(NotFoundError("docs: there is none")) == "docs: there is none."
    assert "secret" not in parts.said(RuntimeError("secret"))
