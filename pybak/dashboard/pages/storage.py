"""What archives take: by job, and by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from dash import html
from dash.development.base_component import Component

from pybak.dashboard import links, parts, words
from pybak.dashboard.world import World
from pybak.display import printable

_MOST: Final = 200


def page(world: World, _query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    use = world.storage()
    if not use.places:
        return html.Div(
            [
                parts.heading("Storage"),
                parts.empty("Nothing is stored", "There are no archives in the catalog."),
            ]
        ), "Storage"
    by_job: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    by_place: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in use.places:
        for sums, key in ((by_job, one.job), (by_place, one.place)):
            sums[key][0] += one.size
            sums[key][1] += one.archives
            sums[key][2] += one.size if one.is_copy else 0
    under = f"{words.size(use.size)} in {words.count(use.archives, 'archive')}, copies included"
    return html.Div(
        [
            parts.heading("Storage", under=under),
            parts.section("By job", _table("Job", by_job, jobs=True)),
            parts.section("By place", _table("Place", by_place)),
        ]
    ), "Storage"


def _table(what: str, sums: Mapping[str, list[int]], *, jobs: bool = False) -> Component:
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    largest = max(ordered[0][1][0], 1)
    rows: list[tuple[Any, ...]] = []
    for name, (size, archives, copies) in ordered[:_MOST]:
        shown = printable(name)
        bar = html.Div(
            html.Div(style={"width": f"{100 * size / largest:.1f}%"}),
            className="bar", **parts.aria(hidden="true"),
        )  # fmt: skip
        rows.append(
            (
                parts.link(shown, links.job(name), "strong") if jobs else shown,
                bar,
                words.size(size),
                words.size(copies) if copies else words.NONE,
                f"{archives:,}",
            )
        )
    return parts.table(
        (what, "Share", "#Size", "#Of it copies", "#Archives"), rows,
        caption=f"Storage by {what.lower()}", kind="storage",
    )  # fmt: skip
