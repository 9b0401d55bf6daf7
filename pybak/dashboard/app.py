"""Puts the dashboard together: guard, login, downloads, and Dash for all pages."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybak.api.auth.clients import Clients
from pybak.dashboard.settings import DashboardSettings

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pybak.api.context import Context
    from pybak.api.settings import ApiSettings

_ASSETS = Path(__file__).with_name("assets")
_SMALL_BYTES = 2000
_LEVEL = 4
_WORKERS = 4
"""How many requests Dash answers at once; more would wait for the database."""


def create_dashboard(
    settings: DashboardSettings,
    api: ApiSettings,
    *,
    home: Path,
    context: Callable[[], Context],
    provider_transport: httpx.AsyncBaseTransport | None = None,
    now: Callable[[], float] = time.time,
) -> ASGIApp:
    """Make the application, to be mounted at `settings.PATH` of the API's.

    `context` gives that of the API, when the first request comes; `home` is where clients and the
    session's key are. Raises PlanError for files that can't be used.
    """
    from a2wsgi import WSGIMiddleware
    from starlette.applications import Starlette
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    from pybak.dashboard import downloads
    from pybak.dashboard.guard import DashboardGuard
    from pybak.dashboard.login import Logins
    from pybak.dashboard.provider import Provider
    from pybak.dashboard.session import Sessions
    from pybak.dashboard.shell import make_pages
    from pybak.dashboard.whole import WholeBody
    from pybak.dashboard.world import World

    sessions = Sessions(home, settings.session_minutes * 60, now=now)
    world = World(context)
    pages: Any = make_pages(world)
    provider = None
    if settings.has_provider(api):
        provider = Provider(api, settings, transport=provider_transport)
    clients = Clients(home) if api.token_endpoint else None

    class _Late:
        """Makes what needs the context when that is there."""

        def __init__(self) -> None:
            self._made: ASGIApp | None = None

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if self._made is None:
                self._made = self._make()
            await self._made(scope, receive, send)

        def _make(self) -> ASGIApp:
            world.begin()
            guard = context().guard
            logins = Logins(api, sessions, clients=clients, provider=provider, guard=guard)
            # A worker waits for no client: the body is there, and there is room for any answer.
            wsgi: Any = WSGIMiddleware(pages.server, workers=_WORKERS, send_queue_size=0)
            wsgi = WholeBody(wsgi)
            # Scripts are a megabyte, and go to a browser once.
            wsgi = GZipMiddleware(wsgi, minimum_size=_SMALL_BYTES, compresslevel=_LEVEL)
            inner = Starlette(
                routes=[
                    *logins.routes(), downloads.route(),
                    # Dash serves them only once it has served a page.
                    Mount("/assets", app=StaticFiles(directory=_ASSETS)),
                    Mount("/", app=wsgi),
                ]
            )  # fmt: skip
            inner.state.context = context()
            return DashboardGuard(
                inner, sessions, logins, is_open=guard.is_open, public_url=api.public_url,
                script_hashes=pages.csp_hashes(),
            )  # fmt: skip

    return _Late()
