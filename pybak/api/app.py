"""Puts the API together: guard, routes, errors, and what every answer has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

import pybak
from pybak.api import problems
from pybak.api.auth import endpoint
from pybak.api.auth.clients import Clients
from pybak.api.auth.guard import Guard
from pybak.api.auth.jwks import ProviderKeys
from pybak.api.auth.signing import ALGORITHM, SigningKey
from pybak.api.auth.tokens import Issuer
from pybak.api.context import Context
from pybak.api.description import describe
from pybak.api.edge import Edge
from pybak.api.routes import archives, logs, metrics, runs, starts, status
from pybak.api.services import FileService, LogSource, RunService
from pybak.api.settings import ApiSettings

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp

    from pybak.overview import Overview


def create_app(
    settings: ApiSettings,
    *,
    home: Path,
    overview: Callable[[], Overview],
    runs_service: RunService,
    log_source: LogSource,
    file_service: FileService,
    mounts: Mapping[str, ASGIApp] | None = None,
    provider_transport: httpx.AsyncBaseTransport | None = None,
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """Make the application.

    `home` is where clients and the signing key are, `overview` opens the catalog when it is first
    needed. `mounts` are further applications by their path, such as a dashboard; they look after
    their own logins. Raises PlanError for settings or files that can't be used.
    """
    settings.check_startable()
    app = FastAPI(
        title="PyBak",
        version=pybak.__version__,
        description="Backups: how they are, what is in them, and how to start more.",
        # The pages that show it load scripts of other hosts; /openapi.json goes into any viewer.
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # It would name the host that a request names, and forget the TLS of a proxy.
        redirect_slashes=False,
    )
    issuers: list[Issuer] = []
    if settings.issuer is not None:
        issuers.append(_provider(settings, provider_transport))
    if settings.token_endpoint:
        key = SigningKey(home)
        issuers.append(
            Issuer(
                settings.own_issuer, settings.audience, key, (ALGORITHM,), leeway_seconds=0
            )
        )  # fmt: skip
        made = endpoint.TokenEndpoint(settings, Clients(home), key, now=now)
        app.include_router(endpoint.router(made))
    guard = Guard(issuers, open_to_all=settings.no_authentication)
    app.state.context = Context(
        settings, guard, overview, runs_service, log_source, file_service
    )  # fmt: skip
    for module in (status, runs, archives, logs, starts, metrics):
        app.include_router(module.router)
    problems.install(app)
    describe(app, settings)
    for path, mounted in (mounts or {}).items():
        app.add_route(path, _to_folder, include_in_schema=False)
        app.mount(path, mounted)
    app.add_middleware(Edge, mounts=tuple(mounts or ()))
    return app


async def _to_folder(request: Request) -> Response:
    """Send a browser from `/pages` to `/pages/`, wherever it has found the service."""
    query = f"?{request.url.query}" if request.url.query else ""
    last = request.scope["path"].rpartition("/")[2]
    return RedirectResponse(f"{last}/{query}")


def _provider(settings: ApiSettings, transport: Any) -> Issuer:
    assert settings.issuer is not None
    return Issuer(
        settings.issuer, settings.audience,
        ProviderKeys(settings.issuer, jwks_url=settings.jwks_url, transport=transport),
        settings.algorithms, settings.token_types, settings.scope_claims, settings.scope_names,
        settings.leeway_seconds,
    )  # fmt: skip
