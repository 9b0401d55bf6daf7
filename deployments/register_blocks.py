"""Make PyBak's types of blocks known to a Prefect server, and blocks of them from the environment.

    PYBAK_BLOCK_S3_BUCKET=archive python deployments/register_blocks.py

Run again it changes nothing, unless a variable has another value; run it on every deployment.

| variable | makes |
| --- | --- |
| PYBAK_BLOCK_PASSWORD | an encryption password |
| PYBAK_BLOCK_CATALOG_URL | the catalog's database |
| PYBAK_BLOCK_FOLDER_PATH | a local folder |
| PYBAK_BLOCK_S3_BUCKET | a folder in S3; PYBAK_BLOCK_S3_PREFIX and so on are its other fields |
| PYBAK_BLOCK_S3_ACCESS_KEY_ID, …_SECRET_ACCESS_KEY | an AwsCredentials block, and its use there |
| PYBAK_BLOCK_GCS_BUCKET | a folder in Google Cloud Storage; its other fields likewise |
| PYBAK_BLOCK_GCS_KEY_FILE | a GcpCredentials block with what the file holds, and its use there |
| PYBAK_BLOCK_MAIL_HOST | a mail server; PYBAK_BLOCK_MAIL_SENDER, …_RECIPIENTS and so on likewise |
| PYBAK_BLOCK_WEBHOOK_URL | an address that gets reports |
| PYBAK_BLOCK_PING_URL | an address that is told that runs go on |
| PYBAK_BLOCK_…_NAME | the block's name: by default password, catalog, folder, s3, gcs, mail, … |

Credentials get the name of the storage that they are for. No value of a variable is ever printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from deployments.refusals import failures_told
from flows.support import environment
from flows.support.server import ServerError, standing_server
from pybak.prefect_server import START

if TYPE_CHECKING:
    from prefect.blocks.core import Block

_PREFIX: Final = "PYBAK_BLOCK_"
_DOCS: Final = dict.fromkeys(("MAIL", "WEBHOOK", "PING"), "notices")
Outcome = Literal["made", "changed", "unchanged"]


@click.command("register-blocks")
def register() -> None:
    """Register PyBak's types of blocks, and make blocks from PYBAK_BLOCK_… variables."""
    with failures_told():
        url = standing_server(os.environ, version("prefect"))
        if url is None:
            raise ServerError(f"blocks need a Prefect server that stays; start one: {START}")
        environment.prepare(os.environ, url, debug=True)
        for name in register_types():
            click.echo(f"{name}: registered")
        for name, outcome in make_documents(os.environ):
            click.echo(f"{name}: {outcome}")


def register_types() -> Iterator[str]:
    """Make each type known to the server, and yield its name."""
    import blocks

    for name in blocks.__all__:
        kind: Any = getattr(blocks, name)
        kind.register_type_and_schema(_sync=True)
        yield str(kind.get_block_type_name())


def make_documents(environ: Mapping[str, str]) -> Iterator[tuple[str, Outcome]]:
    """Make or change the blocks that the variables ask for; yield `SLUG/NAME` and what was done.

    Raises ClickException for values that make no block; the message shows none of them.
    """
    import blocks

    if password := environ.get(f"{_PREFIX}PASSWORD"):
        made = _made(blocks.EncryptionPassword, "PASSWORD", {"password": password})
        yield _settle(made, _name(environ, "PASSWORD"))
    kinds: dict[str, tuple[type[Block], str]] = {
        "CATALOG": (blocks.CatalogUrl, "url"),
        "FOLDER": (blocks.LocalFolder, "path"),
        "S3": (blocks.S3StorageBlock, "bucket"),
        "GCS": (blocks.GcsStorageBlock, "bucket"),
        "MAIL": (blocks.MailServer, "host"),
        "WEBHOOK": (blocks.Webhook, "url"),
        "PING": (blocks.Ping, "url"),
    }
    for slot, (kind, needed) in kinds.items():
        given = _fields(kind, slot, environ)
        if needed not in given:
            continue
        name = _name(environ, slot)
        credentials = _credentials(slot, environ)
        if credentials is not None:
            yield _settle(credentials, name)
            given["credentials"] = type(credentials).load(name, _sync=True)  # type: ignore[call-arg]
        yield _settle(_made(kind, slot, given), name)


def _name(environ: Mapping[str, str], slot: str) -> str:
    return environ.get(f"{_PREFIX}{slot}_NAME") or slot.lower()


def _fields(kind: type[Block], slot: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Give the values of a type's fields that have variables."""
    found = {
        field: environ.get(f"{_PREFIX}{slot}_{field.upper()}")
        for field in kind.model_fields
        if field != "credentials"
    }
    return {field: value for field, value in found.items() if value}


def _credentials(slot: str, environ: Mapping[str, str]) -> Block | None:
    if slot == "S3" and environ.get(f"{_PREFIX}S3_ACCESS_KEY_ID"):
        from prefect_aws.credentials import AwsCredentials

        names = {
            "aws_access_key_id": "ACCESS_KEY_ID",
            "aws_secret_access_key": "SECRET_ACCESS_KEY",
            "aws_session_token": "SESSION_TOKEN",
            "region_name": "REGION",
        }
        given = {field: environ.get(f"{_PREFIX}S3_{name}") for field, name in names.items()}
        return _made(AwsCredentials, slot, {name: value for name, value in given.items() if value})
    if slot == "GCS" and (file := environ.get(f"{_PREFIX}GCS_KEY_FILE")):
        from prefect_gcp.credentials import GcpCredentials  # type: ignore[import-untyped]

        try:
            key = Path(file).read_text()
        except (OSError, ValueError) as error:
            raise click.ClickException(
                f"{_PREFIX}GCS_KEY_FILE: can't be read: {type(error).__name__}; name a key file"
            ) from None
        return _made(GcpCredentials, slot, {"service_account_info": key})
    return None


def _made(kind: type[Block], slot: str, given: Mapping[str, Any]) -> Block:
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        # Its own message would show the values.
        fields = sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]})
        raise click.ClickException(
            f"{_PREFIX}{slot}_…: {', '.join(fields) or 'what is given'}: makes no "
            f"{kind.__name__}; see its fields in docs/{_DOCS.get(slot, 'storage')}.md"
        ) from None
    except ValueError:
        raise click.ClickException(
            f"{_PREFIX}{slot}_…: makes no {kind.__name__}; check the variables"
        ) from None


def _settle(block: Block, name: str) -> tuple[str, Outcome]:
    """Save a block, unless the server has just this one."""
    full = f"{block.get_block_type_slug()}/{name}"
    there = _there(type(block), name)
    if there is not None and _plain(there) == _plain(block):
        return full, "unchanged"
    block.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]
    return full, "made" if there is None else "changed"


def _there(kind: type[Block], name: str) -> Block | None:
    try:
        found: Block = kind.load(name, _sync=True)  # type: ignore[call-arg,assignment]
    except ValueError:  # none, or what is stored does not fit the type any more
        return None
    return found


def _plain(value: Any) -> Any:
    """Give a block's values, secrets too, for comparing."""
    from pydantic import BaseModel, Secret, SecretStr

    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Secret | SecretStr):
        return _plain(value.get_secret_value())
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


if __name__ == "__main__":
    register()
