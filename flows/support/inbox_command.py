"""The command behind `python flows/inbox.py`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.support.session import run_flow
from flows.support.watch import watch_flow
from pybak import cli
from pybak.cli.inbox import InboxRequest
from pybak.cli.inbox import inbox_command as make_command
from pybak.inbox.addresses import absolute_place
from pybak.paths import user_path
from pybak.portable import to_portable

if TYPE_CHECKING:
    from typing import Any

    from prefect import Flow
    from prefect.client.schemas.objects import State

    from pybak.inbox.run import InboxRun
    from pybak.report import InboxReport


def inbox_command() -> int:
    """Run `python flows/inbox.py`; give the exit code."""
    return cli.main(make_command(_inbox))


def _inbox(request: InboxRequest) -> int:
    from pybak.inbox.run import InboxRun

    options = request.options
    # Before a server is started for nothing.
    with InboxRun(
        request.source, request.destination, options, encrypted=bool(request.password)
    ) as run:
        if options.dry_run:
            return cli.emit(_rehearsal(run), request.view)
    password = request.password.settled(confirm=True)
    if password.value is not None:
        cli.warn_if_weak(password.value, request.view)
    cli.hand_over(os.environ, password)

    def load() -> Flow[..., State[Any]]:
        from flows.inbox import inbox

        return inbox

    also_to = [to_portable(absolute_place(place)) for place in options.also_to]
    parameters = {
        "source": to_portable(str(user_path(request.source))),
        "destination": to_portable(absolute_place(request.destination)),
        "options": options.model_copy(update={"also_to": also_to}),
    }
    if request.every_seconds is not None:
        watch_flow(load, parameters, request.view, every_seconds=request.every_seconds)
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def _rehearsal(run: InboxRun) -> InboxReport:
    """Rehearse with what the catalog knows, if there is one."""
    from pybak.catalog.address import file_of, parse
    from pybak.catalog.engine import Database
    from pybak.home import catalog_url

    path = file_of(parse(catalog_url()))
    if path is not None and not Path(path).exists():
        return run.rehearse(None)
    database = Database(catalog_url())
    try:
        return run.rehearse(database)
    finally:
        database.close()
