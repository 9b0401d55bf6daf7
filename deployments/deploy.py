"""Give a Prefect server all that PyBak needs there: work pool, blocks, deployments, automations.

    python deployments/start.py server          # in another terminal, if none runs yet
    python deployments/deploy.py                # all of prefect.yaml, or: deploy.py backup inbox

Run again it changes nothing, unless a file or a variable has changed; one that was cut off is
completed by the next. prefect.yaml tells the variables.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, MutableMapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deployments import definitions
from deployments.definitions import DESTINATION, MAIL, Definition
from deployments.refusals import failures_told
from flows.support import environment
from flows.support.server import PasswordError, ServerError, standing_server
from pybak.errors import PlanError
from pybak.prefect_server import START

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_TICK_SECONDS: Final = 0.5
_MAIL_SLUG: Final = "pybak-mail-server"


@click.command(
    "deploy",
    help="Give a Prefect server what PyBak needs there. NAME is a flow or a deployment; without "
    "one, all of prefect.yaml is deployed. Folders, places and blocks: the head of "
    "deployments/prefect.yaml.",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--start", "to_start", multiple=True, metavar="NAME",
    help="Switch this deployment on, also one that begins paused; `all` means every one.",
)  # fmt: skip
@click.option(
    "--wait", type=click.FloatRange(min=0), default=60, show_default=True, metavar="SECONDS",
    help="How long to wait for the server.",
)  # fmt: skip
@click.option("--no-automations", is_flag=True, help="Leave the automations out.")
def deploy(
    names: tuple[str, ...], to_start: tuple[str, ...], wait: float, *, no_automations: bool
) -> None:
    """Deploy; ends with 1 if there is no server, or if it refuses something."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with failures_told():
        wanted = definitions.choose(definitions.load(os.environ), names)
        started = _started(wanted, to_start)
        environment.prepare(os.environ, wait_for_server(os.environ, wait), debug=True)
        _deploy(wanted, started, automate=not no_automations, names=names)


def wait_for_server(environ: MutableMapping[str, str], seconds: float) -> str:
    """Give the address of the Prefect server, once it answers.

    Raises ServerError if none does, and PasswordError at once if it wants another password.
    """
    deadline = time.monotonic() + seconds
    told = False
    while True:
        try:
            url = standing_server(environ, version("prefect"))
            reason = f"no Prefect server answers; start one: {START}"
        except PasswordError:
            raise
        except ServerError as error:
            url, reason = None, str(error)
        if url is not None:
            return url
        if time.monotonic() >= deadline:
            raise ServerError(f"{reason} (waited {seconds:.0f} s)")
        if not told:
            click.echo("waiting for the Prefect server", err=True)
            told = True
        time.sleep(_TICK_SECONDS)


def _started(wanted: Sequence[Definition], words: Sequence[str]) -> set[str]:
    if "all" in words:
        return {one.full_name for one in wanted}
    return {one.full_name for one in definitions.choose(wanted, words)} if words else set()


def _deploy(
    wanted: Sequence[Definition], started: set[str], *, automate: bool, names: Sequence[str]
) -> None:
    from prefect.client.orchestration import get_client

    from deployments.applying import ensure_pool

    outcomes: list[str] = []
    some_off = False

    def tell(what: str, outcome: str, more: str = "") -> None:
        outcomes.append(outcome)
        click.echo(f"{what}: {outcome}{more}")

    with get_client(sync_client=True) as client:
        for pool in sorted({one.work_pool.name for one in wanted}):
            done, kind = ensure_pool(client, pool, definitions.POOL_TYPE)
            tell(f"work pool {pool} ({kind})", done)
        for name, became in make_blocks(client):
            tell(f"block {name}", became)
        values = settled(client, os.environ)
        again = definitions.choose(definitions.load(values), names)
        for one in again:
            outcome, more, is_off = _apply(client, one, started=one.full_name in started)
            tell(one.full_name, outcome, more)
            some_off = some_off or is_off
        if automate:
            for name, outcome, more in _automate(client, values):
                tell(name, outcome, more)
    if {*outcomes} <= {"unchanged", "left out"}:
        click.echo("nothing changed")
    if some_off:
        click.echo("Switch one on: python deployments/deploy.py --start NAME")


def make_blocks(client: SyncPrefectClient) -> Iterator[tuple[str, str]]:
    """Register the types, make the blocks of the environment, and see to the usual destination."""
    from deployments.register_blocks import make_documents, register_types

    types = list(register_types())
    click.echo(f"types of blocks: {len(types)} known")
    yield from make_documents(os.environ)
    if os.environ.get("PYBAK_DEPLOY_TO") or _storages_called(client, DESTINATION):
        return
    folder = Path("~/Backups").expanduser()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)  # a block's folder must be there: it may be a disk
    except OSError as error:
        raise PlanError(f"{folder}: {error.strerror}; name another: PYBAK_DEPLOY_TO") from error
    made = {"PYBAK_BLOCK_FOLDER_PATH": str(folder), "PYBAK_BLOCK_FOLDER_NAME": DESTINATION}
    for name, _outcome in make_documents(made):
        yield f"{name} ({folder})", "made"


def _storages_called(client: SyncPrefectClient, name: str) -> bool:
    from blocks.storages import SLUGS

    wanted = {
        "block_types": {"slug": {"any_": list(SLUGS)}},
        "block_documents": {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}},
    }
    answer = client.request("POST", "/block_documents/filter", json=wanted)
    return bool(answer.raise_for_status().json())


def settled(client: SyncPrefectClient, environ: MutableMapping[str, str]) -> dict[str, str]:
    """Give the variables, with the mail server's block `mail` if there is one and none is named."""
    from prefect.exceptions import ObjectNotFound

    values = definitions.variables(environ)
    if not values[MAIL]:
        try:
            client.read_block_document_by_name("mail", _MAIL_SLUG, include_secrets=False)
        except ObjectNotFound:
            return values
        values[MAIL] = "mail"
    return values


def _apply(client: SyncPrefectClient, one: Definition, *, started: bool) -> tuple[str, str, bool]:
    """Give what was done, more words about it, and whether its schedule is off."""
    from deployments.applying import apply

    done = apply(client, one, started=started)
    more = f" ({', '.join(done.changed)})" if done.changed else ""
    if not one.schedules:
        return done.outcome, f"{more}, runs on request", False
    if not done.paused:
        return done.outcome, f"{more}, switched on", False
    why = ""
    if one.missing:
        why = f": {', '.join(one.missing)} is not here"
    return done.outcome, f"{more}, paused{why}", True


def _automate(client: SyncPrefectClient, values: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    from deployments.automating import apply_automations

    for done in apply_automations(client, values):
        why = f": {done.why}; make one (docs/operations.md, Alarms)" if done.why else ""
        yield f"automation {done.name}", done.outcome, why


if __name__ == "__main__":
    deploy()
