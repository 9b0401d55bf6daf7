"""Make the secrets of a Prefect server: the key of its blocks, and its password.

    python deployments/new_secrets.py ~/.config/pybak/secrets.env

The file is for the server, its workers, and whoever uses commands; only its owner can read it.
What begins with PREFECT_SERVER_ is for the server alone.
Keep a copy of it: without the key, blocks must be made anew. It is never replaced.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import click


@click.command(
    "new-secrets",
    help="Write a new encryption key and password to FILE. FILE is for example "
    "~/.config/pybak/secrets.env; it is never replaced.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--user", default="pybak", show_default=True, help="Name that goes with the password."
)
def new_secrets(file: Path, user: str) -> None:
    """Write the file; ends with 1 if it is there already."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(lines(user))
    except FileExistsError as error:
        raise click.ClickException(f"{file}: is there already; it is kept as it is") from error
    except OSError as error:
        raise click.ClickException(f"{file}: can't be written: {error.strerror}") from error
    click.echo(f"{file}: written; keep a copy of it where the server's database is not")


def lines(user: str, token: Callable[[int], str] = secrets.token_urlsafe) -> str:
    """Give the file's lines."""
    from cryptography.fernet import Fernet

    password = token(24)
    return (
        f"PREFECT_SERVER_ENCRYPTION_KEY={Fernet.generate_key().decode()}\n"
        f"PREFECT_SERVER_API_AUTH_STRING={user}:{password}\n"
        f"PREFECT_API_AUTH_STRING={user}:{password}\n"
    )


if __name__ == "__main__":
    new_secrets()
