"""Start the Prefect server, or what runs flows, with the settings of settings.env.

    python deployments/start.py server
    python deployments/start.py worker
    python deployments/start.py on-request

Words after that go to `prefect server start`, to `prefect worker start --pool backup`, or to
`on_request.py`. What the environment says already, it keeps. The process becomes that command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from deployments.deploy import wait_for_server
from pybak.errors import PyBakError

SETTINGS: Final = Path(__file__).with_name("settings.env")
_COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "server": ("-m", "prefect", "server", "start"),
    "worker": ("-m", "prefect", "worker", "start", "--pool", "backup"),
    "on-request": (str(SETTINGS.with_name("on_request.py")),),
}


@click.command(
    "start",
    help="Start the Prefect server, a worker, or what runs the REST API's requests, with PyBak's "
    "settings. Example: start.py server --port 4300; then set PREFECT_API_URL for everyone else.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--wait", type=click.FloatRange(min=0), default=60, show_default=True, metavar="SECONDS",
    help="How long all but the server wait for it.",
)  # fmt: skip
@click.argument("what", type=click.Choice(list(_COMMANDS)))
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[ITS OPTIONS]...")
def start(what: str, words: tuple[str, ...], wait: float) -> None:
    """Become that command; ends with 1 if it needs a server and finds none."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)
    if what == "server":
        os.umask(0o077)  # its database has blocks with credentials
    else:
        try:
            os.environ["PREFECT_API_URL"] = wait_for_server(os.environ, wait)
        except PyBakError as error:
            raise click.ClickException(str(error)) from error
    os.execv(sys.executable, [sys.executable, *_COMMANDS[what], *words])  # noqa: S606 - ours


def settings(file: Path = SETTINGS) -> Mapping[str, str]:
    """Read lines of NAME=value, as systemd and compose do; other lines say nothing."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line and line[:1] not in ("#", ""))
    return {name.strip(): value.strip() for name, value in pairs}


if __name__ == "__main__":
    start()
