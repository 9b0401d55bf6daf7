"""Answers that are JSON, and how OpenAPI describes them: both from the structs themselves."""

from __future__ import annotations

import json
from http import HTTPStatus
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
    """Everything at a glance. `now` is when it was looked at.

    `failed_early` are runs of the last days that failed before the catalog heard of them.
    """

    now: str
    health: Health
    jobs: tuple[JobState, ...]
    active: tuple[ActiveRun, ...]
    recent: tuple[RunSummary, ...]
    failed_early: tuple[StartedRun, ...] = ()


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
    """Some runs, the newest first.

    With the first page come those of the last days that failed before the catalog heard of them.
    """

    items: tuple[RunSummary, ...]
    next: str | None = None
    failed_early: tuple[StartedRun, ...] = ()


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


def problem(status: int, code: str, description: str, detail: str) -> dict[str, Any]:
    """Give how OpenAPI describes an error, with what one may say."""
    example = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status,
        "detail": detail, "code": code,
    }  # fmt: skip
    schema = {"$ref": _REFERENCE.format(name="Problem")}
    return {
        "description": description, "content": {MEDIA_TYPE: {"schema": schema, "example": example}},
    }  # fmt: skip


def problems(*statuses: int) -> dict[Any, Any]:
    """Give how OpenAPI describes these errors, and those of every protected route."""
    wanted = sorted({401, 403, 422, 429, 503, *statuses})
    return {status: problem(status, *_WORDS[status]) for status in wanted}


_WORDS: Final = {
    400: (
        "bad-idempotency-key", "The request can't be read.",
        "Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID",
    ),
    401: (
        "invalid-token", "There is no token, or none that is good; see WWW-Authenticate.",
        "the token has expired",
    ),
    403: (
        "insufficient-scope", "The token does not allow this, or the place is outside the roots.",
        "this needs the scope backup:write; ask for a token that has it",
    ),
    404: (
        "not-found", "There is no such thing.", "5b0ff7ac: there is none; see the list for what is",
    ),
    408: (
        "request-timeout", "The body did not come in time.",
        "the body did not come within 30 s; send it again",
    ),
    409: (
        "ended", "It can't be done now, or with this archive.",
        "5b0ff7ac: can't be cancelled; it is success",
    ),
    413: (
        "request-entity-too-large", "The body is too large.",
        "a body may have 1048576 bytes at most",
    ),
    422: (
        "invalid", "Something in the request is not as it should be.",
        "query/limit: input should be less than or equal to 500",
    ),
    429: (
        "too-many-requests", "Too many requests; see Retry-After.",
        "too many requests; try again in 3 s",
    ),
    503: (
        "unavailable", "What is needed for this can't be reached; try later.",
        "what runs backups can't be asked now; the service's log says why",
    ),
}  # fmt: skip


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
