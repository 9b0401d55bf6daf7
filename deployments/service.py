"""Serve REST API and dashboard: the one place that ties them to catalog, archives and Prefect.

    python deployments/service.py            # http://127.0.0.1:8000, settings in PYBAK_API_…
                                             # the dashboard is at /dashboard

It reads `PYBAK_HOME` and `PYBAK_CATALOG_URL` like everything else, and finds Prefect's server as
Prefect's own commands do. Nothing here imports Prefect; see `docs/api.md`, `docs/dashboard.md`.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from pybak.api.settings import ApiSettings, from_environment
from pybak.errors import PlanError, PyBakError
from pybak.home import catalog_url, home

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from pybak.api.context import Context

_logger = logging.getLogger("pybak.api")


def application(
    settings: ApiSettings,
    environ: Mapping[str, str] = os.environ,
    mounts: Mapping[str, ASGIApp] | None = None,
) -> FastAPI:
    """Make the application with everything behind it.

    `mounts` are further applications that are served beside the API, by their path. Raises
    PyBakError for settings that can't be used, or if no Prefect server is meant.
    """
    from deployments.prefect_logs import PrefectLogs
    from deployments.prefect_runs import PrefectRuns
    from deployments.prefect_secrets import load_password
    from pybak.api.app import create_app
    from pybak.api.files import ArchiveFiles
    from pybak.catalog.engine import Database
    from pybak.overview import Overview
    from pybak.overview.alive import asking_locks
    from pybak.password import from_environment as password_from
    from pybak.prefect_api import PrefectApi
    from pybak.prefect_server import START

    settings.check_startable()
    api = PrefectApi.from_environment(environ)
    if api is None:
        raise PlanError(
            f"runs need a Prefect server that stays; start one: {START}, or set PREFECT_API_URL"
        )
    url = catalog_url(environ)
    database = Database(url)
    block = settings.password_block
    password: Callable[[], bytes | None] = partial(password_from, environ)
    if block is not None:
        password = partial(load_password, api, block)
    runs = PrefectRuns(api, deployment=settings.deployment)
    made: list[FastAPI] = []
    pages = _dashboard(settings, environ, lambda: made[0].state.context)
    app = create_app(
        settings,
        home=home(environ),
        overview=lambda: Overview(database, asked=asking_locks(is_only_here=False)),
        runs_service=runs,
        log_source=PrefectLogs(api, runs),
        file_service=ArchiveFiles(database, url, password),
        mounts={**pages, **(mounts or {})},
    )
    made.append(app)
    return app


def _dashboard(
    settings: ApiSettings, environ: Mapping[str, str], context: Callable[[], Context]
) -> dict[str, ASGIApp]:
    """Make the dashboard, if it is wanted and somebody can log in."""
    from pybak.dashboard.settings import PATH
    from pybak.dashboard.settings import from_environment as dashboard_settings

    chosen = dashboard_settings(environ)
    if not chosen.enabled:
        return {}
    if not chosen.has_login(settings):
        _logger.info("no dashboard: set PYBAK_DASHBOARD_CLIENT_ID for logins at the provider")
        return {}
    from pybak.dashboard.app import create_dashboard

    return {PATH: create_dashboard(chosen, settings, home=home(environ), context=context)}


def check_certificate(settings: ApiSettings) -> None:
    """Raise PlanError unless certificate and key can be read, and are a pair."""
    if settings.tls_certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # No word: nobody may be there to be asked for one.
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise PlanError(
            f"PYBAK_API_TLS_CERTIFICATE, PYBAK_API_TLS_KEY: can't be used "
            f"({error.strerror or error}); name PEM files of a certificate and its plain key"
        ) from error


@click.command(
    "service",
    help="Serve REST API and dashboard; PYBAK_API_… and PYBAK_DASHBOARD_… variables are settings.",
)
def serve() -> None:
    """Serve until interrupted; ends with 1 where it can't start."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = from_environment(os.environ)
        check_certificate(settings)
        app = application(settings)
    except PyBakError as error:
        raise click.ClickException(str(error)) from error
    import uvicorn

    if settings.no_authentication:
        _logger.warning("nobody is asked who they are: all on this machine may do everything")
    if not settings.is_loopback and settings.tls_certificate is None:
        _logger.warning("others can read tokens on their way: set PYBAK_API_TLS_CERTIFICATE, or "
                        "put a proxy with TLS before it")  # fmt: skip
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False,
        server_header=False, proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies) or None,
        ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=5,
    )  # fmt: skip


if __name__ == "__main__":
    serve()
