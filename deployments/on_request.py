"""Run what the REST API starts, from one process and without a work pool.

    python deployments/on_request.py          # beside deployments/service.py; Ctrl-C ends it

It serves one deployment a flow, called `FLOW-on-request`, which has nothing set: each request says
what to do. Jobs that have deployments of their own go on being run by those (docs/operations.md).
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import click

from flows.support import environment
from flows.support.server import ServerError, standing_server
from pybak.prefect_server import START

if TYPE_CHECKING:
    from prefect import Flow

FLOWS: Final = ("backup", "inbox", "restore", "verify", "prune")


@click.command("on-request", help="Run what the REST API starts, until interrupted.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=2, show_default=True, metavar="N",
    help="How many runs work at once; more wait.",
)  # fmt: skip
def serve_all(limit: int) -> None:
    """Serve a deployment of each flow; ends with 1 if no Prefect server runs."""
    try:
        url = standing_server(os.environ, version("prefect"))
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    if url is None:
        raise click.ClickException(f"this needs a Prefect server that stays; start one: {START}")
    environment.prepare(os.environ, url, debug=True)

    from prefect import serve
    from prefect.types.entrypoint import EntrypointType

    made: list[Any] = []
    for name in FLOWS:
        flow: Flow[..., Any] = getattr(import_module(f"flows.{name}"), name)
        made.append(
            flow.to_deployment(
                name=f"{name}-on-request",
                description=f"{flow.description} Started by the REST API.",
                tags=["pybak", name],
                # By module, so that it is found whatever folder this runs in.
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    # No schedules, so nothing to pause; trying would outlast a server that ends at the same time.
    serve(*made, limit=limit, pause_on_shutdown=False)


if __name__ == "__main__":
    serve_all()
