"""Serve scheduled runs from one process, without a work pool.

    python deployments/start.py server                        # in another terminal

    python deployments/serve.py ~/Documents --to ~/Backups --every 120      # one backup
    python deployments/serve.py --deployment backup --deployment inbox      # those of prefect.yaml
    python deployments/serve.py --all

Until it is stopped with Ctrl-C it runs what is due, and whatever someone starts in the Prefect UI,
where all parameters can be changed. Stopping pauses the schedules.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deployments import definitions
from deployments.definitions import Definition
from deployments.refusals import failures_told
from flows.support import environment
from flows.support.server import ServerError, standing_server
from pybak.errors import PlanError
from pybak.options.backup import parse_full_every
from pybak.prefect_server import START

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment

NO_SERVER = f"schedules need a Prefect server that stays; start one: {START}"


def _checked(_context: click.Context, _option: click.Parameter, given: str) -> str:
    try:
        parse_full_every(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return given


@click.command(
    "serve",
    help="Run a backup at every interval, or the deployments of prefect.yaml when they are due, "
    "and on request from the Prefect UI.",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--to", metavar="FOLDER", help="Where the archives of the sources go.")
@click.option("--job", metavar="NAME", help="Name of this backup; archives are named after it.")
@click.option(
    "--every", type=click.IntRange(min=1), default=3600, show_default=True, metavar="SECONDS",
    help="Time from one start to the next; what is due while a run still works is left out.",
)  # fmt: skip
@click.option(
    "--full-every", default="7d", show_default=True, metavar="N|DAYS", callback=_checked,
    help="Every so many runs, or days as 7d, all is saved; the other runs save what changed.",
)  # fmt: skip
@click.option("--paused", is_flag=True, help="Begin with the schedules switched off.")
@click.option(
    "--name", default="served", show_default=True, metavar="NAME",
    help="Name of the deployment of the sources.",
)  # fmt: skip
@click.option(
    "--deployment", "names", multiple=True, metavar="NAME",
    help="Serve this flow or deployment of prefect.yaml; can be given again.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Serve all deployments of prefect.yaml.")
def serve(
    sources: tuple[str, ...], to: str | None, job: str | None, every: int, full_every: str,
    name: str, names: tuple[str, ...], *, paused: bool, everything: bool,
) -> None:  # fmt: skip
    """Serve until interrupted; ends with 1 if no Prefect server runs, with 2 for wrong usage."""
    from_file = everything or bool(names)
    if from_file and (sources or to or job):
        raise click.UsageError("give sources, or deployments of prefect.yaml, not both")
    if not from_file and not sources:
        raise click.UsageError("Missing argument 'SOURCE...', or --deployment NAME, or --all.")
    if not from_file and not to:
        raise click.UsageError("Missing option '--to'.")
    with failures_told():
        chosen = definitions.choose(definitions.load(os.environ), names) if from_file else []
        environment.prepare(os.environ, _server(), debug=True)
        if from_file:
            _serve_defined(chosen, names, paused=paused)
        else:
            _serve_sources(sources, str(to), job, every, full_every, name, paused=paused)


def _server() -> str:
    url = standing_server(os.environ, version("prefect"))
    if url is None:
        raise ServerError(NO_SERVER)
    return url


def _serve_sources(
    sources: Sequence[str], to: str, job: str | None, every: int, full_every: str, name: str, *,
    paused: bool,
) -> None:  # fmt: skip
    from prefect.types.entrypoint import EntrypointType

    from flows.backup import backup

    backup.serve(
        name=name,
        description=backup.description,
        parameters={
            "sources": [str(Path(source).absolute()) for source in sources],
            "to": to if "://" in to or to.startswith("block:") else str(Path(to).absolute()),
            "job": job,
            # A full backup at each interval would fill any disk.
            "options": {"mode": "incremental", "full_every": full_every},
        },
        interval=every,
        paused=paused,
        global_limit=_limit(1, "CANCEL_NEW", 120),
        # By module, so that it is found whatever folder this runs in.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _serve_defined(chosen: Sequence[Definition], names: Sequence[str], *, paused: bool) -> None:
    from prefect import serve as serve_all
    from prefect.client.orchestration import get_client

    from deployments.deploy import make_blocks, settled

    with get_client(sync_client=True) as client:
        for block, outcome in make_blocks(client):
            click.echo(f"block {block}: {outcome}")
        values = settled(client, os.environ)
        for one in chosen:
            refuse_pooled(client, one)
    served = [
        to_be_served(one, paused=paused)
        for one in definitions.choose(definitions.load(values), names)
    ]
    serve_all(*served)


def to_be_served(wanted: Definition, *, paused: bool = False) -> RunnerDeployment:
    """Give a deployment of prefect.yaml as one process serves it: the same, without a work pool."""
    from prefect.types.entrypoint import EntrypointType

    wanted.check_parameters()
    limit = wanted.concurrency_limit
    flow: Any = wanted.flow
    made: RunnerDeployment = flow.to_deployment(
        name=wanted.name,
        description=wanted.description,
        tags=wanted.tags,
        parameters=wanted.parameters,
        schedules=[timing.schedule() for timing in wanted.schedules],
        paused=paused or wanted.paused or bool(wanted.missing),
        concurrency_limit=_limit(limit.limit, limit.collision_strategy, limit.grace_period_seconds),
        entrypoint_type=EntrypointType.MODULE_PATH,
        _sync=True,
    )
    return made


def refuse_pooled(client: SyncPrefectClient, wanted: Definition) -> None:
    """Raise PlanError for a deployment that workers run: it would be run twice."""
    from prefect.exceptions import ObjectNotFound

    try:
        there = client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        return
    if there.work_pool_name:
        raise PlanError(
            f"{wanted.full_name}: workers of the pool {there.work_pool_name} run it; start one "
            f"(python deployments/start.py worker), or take it away from them: "
            f"prefect deployment delete {wanted.full_name}"
        )


def _limit(limit: int, strategy: str, grace_seconds: int) -> Any:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    return ConcurrencyLimitConfig(
        limit=limit,
        collision_strategy=ConcurrencyLimitStrategy(strategy),
        grace_period_seconds=grace_seconds,
    )


if __name__ == "__main__":
    serve()
