"""Getting one file: the API's own download, for whoever is logged in; errors are pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from pybak.api.auth.scopes import RESTORE
from pybak.api.problems import Problem, of_error
from pybak.api.routes import archives
from pybak.dashboard import plain
from pybak.dashboard.guard import CALLER
from pybak.errors import PyBakError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TITLES: Final = {403: "Not allowed", 404: "There is no such file", 429: "Too many downloads"}


def route() -> Route:
    """Give the route; the application's state has the API's context."""
    return Route("/download/{archive_id:int}/members/{path:member}", _download, methods=["GET"])


async def _download(request: Request) -> Response:
    caller = request.scope[CALLER]
    if RESTORE not in caller.scopes:
        text = f"{caller.name} may not get files back: the scope {RESTORE} is missing."
        return plain.message(_TITLES[403], text, 403)
    number, path = request.path_params["archive_id"], request.path_params["path"]
    try:
        return await archives.download(request, caller, number, path)
    except (Problem, PyBakError) as error:
        problem = error if isinstance(error, Problem) else of_error(error)
        title = _TITLES.get(problem.status, "This file can't be had now")
        text = problem.detail
        return plain.message(title, f"{text[:1].upper()}{text[1:]}.", problem.status)
