"""Storages by the names of Prefect blocks: `block:NAME/PATH`, or `block:SLUG/NAME/PATH`.

The type of the block NAME is found by asking Prefect's server, so a name without its type must be
that of one storage only. Nothing here imports Prefect, which reads once where its server is: in a
process that has not imported it, another one is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Final, NamedTuple

from blocks.described import Settings, loads, open_described
from pybak.errors import NotFoundError, PlanError, StorageError
from pybak.storage.opening import on_forgetting
from pybak.storage.protocol import Storage

SLUGS: Final = (
    "pybak-s3-storage",
    "pybak-gcs-storage",
    "pybak-local-folder",
    "s3-bucket",
    "gcs-bucket",
)
"""The types of blocks that are storages."""

_SCHEME: Final = "block:"
_ASKED: Final = "flows.support.storages"  # run, not imported: it is above this package
_SECONDS: Final = 180.0  # a first server makes its database


class Name(NamedTuple):
    """A block's type, "" if it is not named, its name, and a path below its folder."""

    slug: str
    name: str
    path: str


def open_address(address: str) -> Storage:
    """Open the folder that a block names. Raises PlanError if there is no such block.

    Raises StorageError if Prefect's server can't be asked.
    """
    name = parse(address)
    return open_described(_settings(name.slug, name.name), name.path, address)


def parse(address: str) -> Name:
    """Take an address apart. Raises PlanError if it names no block."""
    first, _, rest = address.removeprefix(_SCHEME).partition("/")
    slug, name, path = "", first, rest
    if first in SLUGS:
        slug = first
        name, _, path = rest.partition("/")
    if not address.startswith(_SCHEME) or not name:
        raise PlanError(f"{address}: names no block; write block:NAME or block:NAME/FOLDER")
    return Name(slug, name, path.strip("/"))


@cache
def _settings(slug: str, name: str) -> Settings:
    if "prefect" in sys.modules:
        from blocks.loading import load_storage

        return load_storage(slug, name)
    return _asked_elsewhere(slug, name)


on_forgetting(_settings.cache_clear)


def _asked_elsewhere(slug: str, name: str) -> Settings:
    """Have a process of its own find or start a server and load the block."""
    full = f"{slug}/{name}" if slug else name
    try:
        done = subprocess.run(  # noqa: S603 - a module of ours
            [sys.executable, "-m", _ASKED, slug, name], timeout=_SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"block {full}: Prefect can't be asked for it") from error
    if "problem" not in answer:
        return loads(done.stdout.decode())
    kinds = {kind.__name__: kind for kind in (NotFoundError, PlanError)}
    raise kinds.get(answer["family"], StorageError)(answer["problem"])
