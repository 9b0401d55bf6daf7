"""All runs, the newest first, by job and status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dash import html
from dash.development.base_component import Component

from pybak.dashboard import links, parts, words
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.overview.facts import RunSummary

_LIMIT: Final = 25
_STATUSES: Final = ("running", "success", "unchanged", "partial", "failed", "cancelled")


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    job, status = query.get("job"), query.get("status")
    asked = {"job": job, "status": status}
    found = world.overview.runs(
        job=job, status=status, cursor=query.get("cursor"), limit=_LIMIT, now=world.now()
    )
    jobs = sorted({one.name for one in world.jobs()})
    pickers = html.Div(
        [
            parts.picker(
                "Job", printable(job) if job else "All jobs",
                [("All jobs", links.to("/runs", status=status), job is None)]
                + [(printable(one), links.to("/runs", job=one, status=status), one == job)
                   for one in jobs],
            ),
            parts.picker(
                "State", words.status(status)[0] if status else "Any",
                [("Any", links.to("/runs", job=job), status is None)]
                + [(words.status(one)[0], links.to("/runs", job=job, status=one), one == status)
                   for one in _STATUSES],
            ),
        ],
        className="pickers",
    )  # fmt: skip
    content: Any = table(world, found.items)
    if not found.items and found.next is None:
        content = parts.empty(
            "No runs", "There are none like this.",
            parts.button("Show all runs", links.to("/runs")) if any(asked.values()) else None,
        )  # fmt: skip
    first = links.to("/runs", **asked) if query.get("cursor") else None
    following = links.to("/runs", **asked, cursor=found.next) if found.next else None
    return html.Div(
        [parts.heading("Runs"), pickers, content, parts.pager(first, following)]
    ), "Runs"


def table(world: World, runs: Iterable[RunSummary], *, with_job: bool = True) -> Component:
    """Give runs as a table."""
    rows = []
    for one in runs:
        what = printable(one.job) if with_job else words.moment(one.started_at, world.zone())
        failed = one.files.get("failed") or 0
        rows.append(
            (
                parts.status_pill(one.status),
                parts.link(what, links.run(one.run_id), "strong"),
                one.kind.capitalize(),
                parts.ago(world, one.started_at),
                words.duration(one.duration_seconds),
                words.size(one.bytes_stored),
                f"{failed:,}" if failed else words.NONE,
            )
        )
    columns = (
        "State",
        "Job" if with_job else "Run",
        "Kind",
        "Began",
        "#Time",
        "#Stored",
        "#Not saved",
    )
    return parts.table(columns, rows, caption="Runs, the newest first", kind="runs")
