"""Clients of the service's own token endpoint: make, list and remove them.

    python deployments/clients.py add nightly --scope backup:read --scope backup:write

`add` prints the secret once; only a hash of it is kept, in PYBAK_HOME (`docs/api.md`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pybak.errors import PyBakError
from pybak.home import home

if TYPE_CHECKING:
    from pybak.api.auth.clients import Clients


def _clients() -> Clients:
    from pybak.api.auth.clients import Clients

    return Clients(home())


@click.group("clients", help="Clients of the REST API's own token endpoint.")
def clients() -> None:
    """Make, list and remove clients."""


@clients.command("add")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True,
    type=click.Choice(["backup:read", "backup:write", "backup:restore"]),
    help="What its tokens may allow; give it once for each.",
)  # fmt: skip
def add(name: str, scopes: tuple[str, ...]) -> None:
    """Make a client and print its secret, which is kept nowhere."""
    try:
        secret = _clients().add(name, scopes, now=datetime.now(UTC))
    except PyBakError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"client {name}, for {' '.join(scopes)}; its secret is shown only now:", err=True)
    click.echo(secret)


@clients.command("list")
def show() -> None:
    """List the clients and what they may."""
    try:
        found = _clients().all()
    except PyBakError as error:
        raise click.ClickException(str(error)) from error
    for client in found:
        click.echo(f"{client.name}  {' '.join(client.scopes)}  {client.created_at:%Y-%m-%d}")


@clients.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove a client; tokens that it has are good for some minutes more."""
    try:
        _clients().remove(name)
    except PyBakError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"client {name}: removed")


if __name__ == "__main__":
    clients()
