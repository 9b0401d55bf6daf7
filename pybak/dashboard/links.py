"""Addresses of pages: everything that a page shows is in its address, so that it can be kept.

Names on disk are bytes: they stand percent-encoded, and are text with surrogates once read (PEP
383), as everywhere in PyBak.
"""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, quote, unquote, urlencode

from pybak.dashboard.settings import PATH

_MOST_FIELDS = 30


def to(page: str, **query: str | int | None) -> str:
    """Give the address of a page, such as `/files`; what is None or empty is left out."""
    return f"{PATH}{page}" + asked(**query)


def asked(**query: str | int | None) -> str:
    """Give the part of an address after the page, with its question mark if there is any."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    if not given:
        return ""
    return "?" + urlencode(given, encoding="utf-8", errors="surrogateescape", quote_via=quote)


def read(search: str | None) -> dict[str, str]:
    """Give what an address asks for; of names that stand there twice the last one counts.

    Raises ValueError for one with too many.
    """
    return dict(
        parse_qsl(
            (search or "").removeprefix("?"), encoding="utf-8", errors="surrogateescape",
            max_num_fields=_MOST_FIELDS,
        )
    )  # fmt: skip


def page_of(pathname: str | None) -> tuple[str, ...]:
    """Give the parts of a page's path below the dashboard's; none for the overview."""
    rest = (pathname or "").removeprefix(PATH)
    return tuple(unquote(part) for part in rest.split("/") if part)


def run(run_id: str) -> str:
    """Give the address of a run's page."""
    return f"{PATH}/runs/{quote(run_id, safe='')}"


def job(name: str) -> str:
    """Give the address of a job's page."""
    return to("/job", name=name)


def download(archive_id: int, path: str) -> str:
    """Give the address of a file's content."""
    return f"{PATH}/download/{archive_id}/members/{quote(os.fsencode(path), safe='/')}"


def parents(folder: str) -> list[tuple[str, str]]:
    """Give name and path of a folder and of those above it, the outermost first."""
    parts = [part for part in folder.split("/") if part]
    start = "/" if folder.startswith("/") else ""
    return [(part, start + "/".join(parts[: end + 1])) for end, part in enumerate(parts)]
