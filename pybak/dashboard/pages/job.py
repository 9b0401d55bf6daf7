"""One job: its state, trend of size and duration, and its last runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import html
from dash.development.base_component import Component

from pybak.api.auth.scopes import WRITE
from pybak.dashboard import charts, links, parts, words
from pybak.dashboard.pages import runs
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.errors import NotFoundError
from pybak.lateness import every

_RUNS = 10


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    name = query.get("name", "")
    job = next((one for one in world.jobs() if one.name == name), None)
    if job is None:
        raise NotFoundError(f"{printable(name)}: there is no such job")
    good = job.newest_good
    actions: list[Any] = [parts.button("Browse files", links.to("/files", job=name), primary=True)]
    if job.kind == "backup" and WRITE in world.caller().scopes:
        actions.append(parts.button("Back up now", links.to("/start", job=name)))
    zone = world.zone()
    known: list[tuple[str, Any]] = [
        ("Newest good backup", parts.ago(world, good.finished_at if good else None, "none yet")),
        ("Next run", parts.ago(world, job.next_run, "not planned")),
        ("Usually every", every(job.usual_interval_seconds)
         if job.usual_interval_seconds else words.NONE),
        ("Stored", f"{words.size(job.size_bytes)} in {words.count(job.archives, 'archive')}"),
        ("Compressed to", words.newest_ratio(job.trend)),
    ]  # fmt: skip
    if job.failures:
        since = f", since {words.moment(job.failing_since, zone)}" if job.failing_since else ""
        known.append(("Failures", f"{job.failures:,}{since}"))
    page_of_runs = world.overview.runs(job=name, limit=_RUNS)
    return html.Div(
        [
            parts.heading(printable(name), *actions),
            html.P(parts.pill(job.state, job.words), className=f"verdict {job.state}"),
            parts.facts(known),
            _charts(job.trend, zone),
            parts.section(
                "Last runs",
                runs.table(world, page_of_runs.items, with_job=False),
                html.P(
                    [
                        parts.link("All runs of this job", links.to("/runs", job=name)), " · ",
                        parts.link("Snapshots", links.to("/snapshots", job=name)),
                    ]
                ),
            ),
        ]
    ), printable(name)  # fmt: skip


def _charts(trend: Any, zone: Any) -> Component | None:
    if len(trend) < 2:
        return None
    return html.Section(
        [
            html.H2("Trend"),
            html.Div(
                [
                    parts.graph(charts.size_figure(trend, zone), "Stored by each run"),
                    parts.graph(charts.duration_figure(trend, zone), "Time that each run took"),
                ],
                className="charts",
            ),
        ]
    )
