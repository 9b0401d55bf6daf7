"""One file: its versions over time, each to be downloaded or restored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from dash import html
from dash.development.base_component import Component

from pybak.api.auth.scopes import RESTORE
from pybak.dashboard import links, parts, words
from pybak.dashboard.pages.files import changed
from pybak.dashboard.world import World
from pybak.display import printable
from pybak.errors import NotFoundError
from pybak.overview.facts import VersionFact

_LIMIT: Final = 50
_FILES: Final = ("file", "hardlink")


def page(world: World, query: Mapping[str, str]) -> tuple[Component, str]:
    """Give the page."""
    job, path, cursor = query.get("job", ""), query.get("path", ""), query.get("cursor")
    found = world.overview.versions(job, os.fsencode(path), cursor=cursor, limit=_LIMIT)
    if not found.items and cursor is None:
        raise NotFoundError(f"{printable(path)}: no backup of {printable(job)} has this file")
    folder, _, name = path.rpartition("/")
    may = RESTORE in world.caller().scopes
    newest = found.items[0] if found.items else None
    actions: list[Any] = []
    if may and newest is not None and cursor is None:
        actions = _actions(newest, job, newest=True)
    under = html.Span(
        [
            "In ", parts.link(printable(folder) if folder else "the top folder",
                              links.to("/files", job=job, run=query.get("run"), folder=folder)),
            " of ", parts.link(printable(job), links.job(job)),
        ]
    )  # fmt: skip
    content: list[Any] = [parts.heading(printable(name), *actions, under=under)]
    if not may:
        content.append(
            parts.notice("You may look, but not get files back: that needs backup:restore.")
        )
    elif newest is not None and cursor is None and not newest.is_current:
        content.append(
            parts.notice("It is no longer in the latest backup; these are its last versions.")
        )
    rows = [_version(world, one, job, may=may) for one in found.items]
    here = {"job": job, "path": path, "run": query.get("run")}
    content.append(
        parts.section(
            "Versions",
            parts.table(
                ("Changed", "#Size", "In backups", ""), rows, caption="Versions, the newest first",
                kind="versions",
            ),
            parts.pager(
                links.to("/file", **here) if cursor else None,
                links.to("/file", **here, cursor=found.next) if found.next else None,
            ),
        )
    )  # fmt: skip
    return html.Div(content), printable(name)


def _version(world: World, one: VersionFact, job: str, *, may: bool) -> tuple[Any, ...]:
    zone = world.zone()
    first, last = words.moment(one.first_at, zone), words.moment(one.last_at, zone)
    span = first if one.first_run == one.last_run else f"{first} to {last}"
    if one.is_current:
        span = f"since {first}"
    when: list[Any] = [html.Span(changed(world, one.member) or words.NONE, className="strong")]
    if one.is_current:
        when.append(html.Span("Latest", className="badge"))
    actions = html.Div(_actions(one, job), className="actions") if may else ""
    is_file = one.member.type in _FILES
    return when, words.size(one.member.size) if is_file else "", span, actions


def _actions(one: VersionFact, job: str, *, newest: bool = False) -> list[Any]:
    member = one.member
    restore = links.to("/restore", job=job, run=one.last_run, path=member.path)
    found: list[Any] = [parts.link("Restore…", restore, "button")]
    if member.type in _FILES:
        # An ordinary link: the browser itself fetches it.
        found.insert(
            0,
            html.A(
                "Download" if not newest else "Download the latest",
                href=links.download(one.archive_id, member.path),
                className="button primary" if newest else "button",
            ),
        )
    return found
