"""Serve a scheduled backup from one process, without a work pool.

    prefect server start                                      # in another terminal
    python deployments/serve.py ~/Documents --to ~/Backups --every 120

Until it is stopped with Ctrl-C it runs the backup at every interval, and whenever someone starts
one in the Prefect UI, where all parameters can be changed. Stopping pauses the schedule.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import click

from flows.support import environment
from flows.support.server import ServerError, find_server


@click.command("serve", help="Run a backup at every interval, and on request from the Prefect UI.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--to", required=True, metavar="FOLDER", help="Where the archives go.")
@click.option("--job", metavar="NAME", help="Name of this backup; archives are named after it.")
@click.option(
    "--every", type=click.IntRange(min=1), default=3600, show_default=True, metavar="SECONDS",
    help="Time from one start to the next; what is due while a run still works is left out.",
)  # fmt: skip
@click.option("--paused", is_flag=True, help="Begin with the schedule switched off.")
@click.option(
    "--name", default="served", show_default=True, metavar="NAME", help="Name of the deployment."
)
def serve(
    sources: tuple[str, ...], to: str, job: str | None, every: int, paused: bool, name: str
) -> None:
    """Serve the backup flow until interrupted; ends with 1 if no Prefect server runs."""
    try:
        url = find_server(os.environ, version("prefect"))
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    if url is None:
        raise click.ClickException(
            "schedules need a Prefect server that stays; start one: prefect server start"
        )
    environment.prepare(os.environ, url, debug=True)

    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    from flows.backup import backup

    backup.serve(
        name=name,
        description=backup.description,
        parameters={
            "sources": [str(Path(source).absolute()) for source in sources],
            "to": str(Path(to).absolute()),
            "job": job,
        },
        interval=every,
        paused=paused,
        global_limit=ConcurrencyLimitConfig(
            limit=1,
            collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW,
            grace_period_seconds=120,
        ),
        # By module, so that it is found whatever folder this runs in.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


if __name__ == "__main__":
    serve()
