"""Errors as answers: `application/problem+json` (RFC 9457), one sentence, no traces.

Besides the members of the standard there are `code`, which programs may rely on, and for a request
that is not as it should be `errors`, with the place of each fault. What was sent is not repeated.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pybak.api.auth.refusals import ProviderError, Refusal
from pybak.api.edge import HEADERS
from pybak.display import escape
from pybak.errors import (
    ArchiveError,
    LockedError,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
    WrongPasswordError,
)

MEDIA_TYPE: Final = "application/problem+json"
_MOST_SHOWN: Final = 20
_logger = logging.getLogger("pybak.api")


class Problem(Exception):  # noqa: N818 - an answer, not a fault
    """An answer that is an error; `code` is a word for programs, `detail` a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors


def not_found(what: str) -> Problem:
    """Say that there is no such thing."""
    return Problem(404, "not-found", f"{escape(what)}: there is none; see the list for what is")


def too_many(seconds: float, what: str) -> Problem:
    """Say that somebody asked too often, and when to come back."""
    wait = max(1, int(seconds + 0.999))
    return Problem(
        429, "too-many-requests", f"too many {what}; try again in {wait} s",
        headers={"Retry-After": str(wait)},
    )  # fmt: skip


def response(problem: Problem) -> JSONResponse:
    """Give the answer."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.errors is not None:
        content["errors"] = problem.errors
    return JSONResponse(
        content, problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )  # fmt: skip


def of_error(error: PyBakError) -> Problem:
    """Give the problem that an error of the engine is: by who can act."""
    text = escape(str(error).splitlines()[0] if str(error) else type(error).__name__)
    match error:
        case NotFoundError():
            return Problem(404, "not-found", text)
        case PlanError():
            return Problem(422, "refused", text)
        case LockedError():
            return Problem(409, "locked", text, headers={"Retry-After": "30"})
        case WrongPasswordError():
            return Problem(409, "encrypted", text)
        case StorageError():
            return Problem(503, "storage", text)
        case ArchiveError():
            return Problem(409, "damaged", text)
    # Its own words tell of hosts and settings, to people who can look there.
    detail = "what runs backups can't be asked now; the service's log says why"
    return Problem(503, "unavailable", detail, headers={"Retry-After": "10"})


def install(app: FastAPI) -> None:
    """Have all errors of an application answered like this."""

    @app.exception_handler(Problem)
    async def _problem(_request: Request, error: Problem) -> JSONResponse:
        return response(error)

    @app.exception_handler(Refusal)
    async def _refusal(_request: Request, error: Refusal) -> JSONResponse:
        return response(
            Problem(
                error.status, error.code, error.detail, headers={"WWW-Authenticate": error.header}
            )
        )

    @app.exception_handler(ProviderError)
    async def _provider(_request: Request, error: ProviderError) -> JSONResponse:
        _logger.error("%s", error)
        return response(
            Problem(
                503, "provider", "the provider of tokens can't be asked for its keys; try later",
                headers={"Retry-After": "10"},
            )
        )  # fmt: skip

    @app.exception_handler(PyBakError)
    async def _known(_request: Request, error: PyBakError) -> JSONResponse:
        problem = of_error(error)
        if problem.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            _logger.error("%s", error)
        return response(problem)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        phrase = http.HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "-")
        detail = str(error.detail) or phrase
        return response(Problem(error.status_code, code, detail, headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return response(invalid(error.errors()))

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        path = escape(request.scope["path"])
        _logger.error("%s %s", request.method, path, exc_info=error)
        # This one is answered outside of the layer that gives all others their headers.
        return response(
            Problem(500, "internal", "this went wrong here; see the service's log", headers=HEADERS)
        )


def invalid(faults: Any) -> Problem:
    """Give the problem of a request that is not as it should be, from what pydantic tells."""
    errors = [
        {
            "location": "/".join(escape(str(part)) for part in fault["loc"]),
            "message": escape(_told(fault)),
        }
        for fault in list(faults)[:_MOST_SHOWN]
    ]
    first = errors[0] if errors else {"location": "request", "message": "is not valid"}
    detail = f"{first['location']}: {first['message']}"
    return Problem(422, "invalid", detail, errors=errors)


def wrong(location: str, message: str) -> Problem:
    """Give the problem of one part of a request that is not as it should be."""
    fault = {"location": location, "message": escape(message)}
    return Problem(422, "invalid", f"{location}: {fault['message']}", errors=[fault])


def _told(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "json_invalid":
        return f"this is no JSON ({fault['ctx']['error']})"
    if fault["type"] == "value_error":
        return str(fault.get("ctx", {}).get("error", fault["msg"]))
    text = str(fault["msg"])
    return text[:1].lower() + text[1:]
