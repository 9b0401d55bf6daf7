"""Start the Prefect server or a worker with the settings of settings.env.

    python deployments/start.py server
    python deployments/start.py worker

Words after that go to `prefect server start`, or to `prefect worker start --pool backup`. What the
environment says already, it keeps. The process becomes Prefect's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from deployments.deploy import wait_for_server
from pybak.errors import PyBakError

SETTINGS: Final = Path(__file__).with_name("settings.env")
_POOL: Final = "backup"


@click.command(
    "start",
    help="Start the Prefect server, or a worker, with PyBak's settings. Example: start.py server "
    "--port 4300; then set PREFECT_API_URL for everyone else.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--wait", type=click.FloatRange(min=0), default=60, show_default=True, metavar="SECONDS",
    help="How long a worker waits for the server.",
)  # fmt: skip
@click.argument("what", type=click.Choice(["server", "worker"]))
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[PREFECT'S OPTIONS]...")
def start(what: str, words: tuple[str, ...], wait: float) -> None:
    """Become Prefect's server or worker; ends with 1 if a worker finds no server."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)
    command = [sys.executable, "-m", "prefect", what, "start"]
    if what == "worker":
        try:
            os.environ["PREFECT_API_URL"] = wait_for_server(os.environ, wait)
        except PyBakError as error:
            raise click.ClickException(str(error)) from error
        command += ["--pool", _POOL]
    os.execv(sys.executable, [*command, *words])  # noqa: S606 - Prefect's own command


def settings(file: Path = SETTINGS) -> Mapping[str, str]:
    """Read lines of NAME=value, as systemd and compose do; other lines say nothing."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and line[:1] not in ("#", ""))
    return {name.strip(): value.strip() for name, value in pairs}


if __name__ == "__main__":
    start()
