"""Answers that are JSON, and how OpenAPI describes them: both from the structs themselves."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from fastapi import Response

from pybak.api.problems import MEDIA_TYPE
from pybak.api.services import LogPage, StartedRun
from pybak.overview.facts import (
    ArchiveDetails,
    ArchiveSummary,
    ErrorFact,
    JobState,
    RunDetails,
    RunSummary,
)
from pybak.overview.paging import Page

_KEPT: Final = "x-example"
_REFERENCE: Final = "#/components/schemas/{name}"


class ActiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is at work or waits for it: as the catalog and as the orchestrator know it."""

    run: RunSummary | None = None
    progress: StartedRun | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service works. `jobs` counts jobs by state."""

    status: str
    orchestrator: str
    jobs: dict[str, int]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at a glance. `now` is when it was looked at."""

    now: str
    health: Health
    jobs: tuple[JobState, ...]
    active: tuple[ActiveRun, ...]
    recent: tuple[RunSummary, ...]


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs, the worst state first."""

    items: tuple[JobState, ...]


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One run: what the catalog has of it, and what the orchestrator."""

    run: RunDetails | None = None
    progress: StartedRun | None = None


class MemberItem(msgspec.Struct, frozen=True, kw_only=True):
    """A member of an archive. `download` is where a file's content is, from this service's root."""

    path: str
    name: str
    type: str
    size: int
    mtime: str | None
    mode: str | None
    sha256: str | None
    download: str | None


class MemberPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some members of an archive."""

    items: tuple[MemberItem, ...]
    next: str | None = None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some runs, the newest first."""

    items: tuple[RunSummary, ...]
    next: str | None = None


class ErrorPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the files that a run could not save."""

    items: tuple[ErrorFact, ...]
    next: str | None = None


class ArchivePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some archives, the newest first."""

    items: tuple[ArchiveSummary, ...]
    next: str | None = None


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service answers."""

    status: str


_VIEWS: Final = (
    Status, Jobs, RunPage, RunView, ErrorPage, ArchivePage, ArchiveDetails, MemberPage, LogPage,
    StartedRun, Alive,
)  # fmt: skip


def encoded(value: Any) -> bytes:
    """Give a value as JSON. Names that are no UTF-8 have escapes of lone surrogates."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode("ascii")


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Give a value as an answer."""
    return Response(encoded(value), status, headers=headers, media_type="application/json")


def items(page: Page[Any]) -> dict[str, Any]:
    """Give what the views of pages take."""
    return {"items": page.items, "next": page.next}


def told(view: type[Any], description: str, example: Any) -> dict[str, Any]:
    """Give how OpenAPI describes an answer."""
    return {
        "description": description,
        "content": {
            "application/json": {
                "schema": {"$ref": _REFERENCE.format(name=view.__name__)},
                "example": _kept(example),
            }
        },
    }


# FastAPI drops what is null from the document, but an example must show it.
_examples: list[Any] = []


def _kept(example: Any) -> dict[str, int]:
    _examples.append(example)
    return {_KEPT: len(_examples) - 1}


def with_examples(part: Any) -> Any:
    """Put the examples of `told` into a document, where their numbers stand."""
    if isinstance(part, dict):
        if _KEPT in part:
            return _examples[part[_KEPT]]
        return {name: with_examples(value) for name, value in part.items()}
    if isinstance(part, list):
        return [with_examples(value) for value in part]
    return part


def problem(description: str) -> dict[str, Any]:
    """Give how OpenAPI describes an error."""
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
    }


def problems(*statuses: int) -> dict[Any, Any]:
    """Give how OpenAPI describes these errors, and those of every protected route."""
    return {status: problem(_WORDS[status]) for status in sorted({401, 403, 422, 503, *statuses})}


_WORDS: Final = {
    400: "The request can't be read.",
    401: "There is no token, or none that is good; see WWW-Authenticate.",
    403: "The token does not allow this, or the place is outside the roots.",
    404: "There is no such thing.",
    409: "It can't be done now, or with this archive.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "Something in the request is not as it should be.",
    429: "Too many requests; see Retry-After.",
    503: "What is needed for this can't be reached; try later.",
}


def schemas() -> dict[str, Any]:
    """Give the schemas of all answers by name."""
    _, components = msgspec.json.schema_components(_VIEWS, ref_template=_REFERENCE)
    return {**components, "Problem": _PROBLEM}


_PROBLEM: Final = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence for people."},
        "code": {"type": "string", "description": "One word for programs."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["location", "message"],
                "properties": {
                    "location": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
    "example": {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "5b0ff7ac: there is none; see the list for what is",
        "code": "not-found",
    },
}
