"""What a block says of a storage, as plain values that go from one process to another.

A process that has not imported Prefect must not do so to read a block: another one reads it, and
hands over the settings. Nothing here imports Prefect or an SDK.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from blocks.aws_session import AwsSession
from blocks.gcs_settings import GcsSettings, ServiceAccount
from blocks.s3_settings import S3Settings
from pybak.errors import PlanError
from pybak.storage.protocol import Storage


@dataclass(frozen=True)
class FolderSettings:
    """A local folder; it may begin with `~`."""

    path: str


Settings = S3Settings | GcsSettings | FolderSettings


def dumps(settings: Settings) -> str:
    """Write settings as JSON, with their secrets: for a pipe, not for a file."""
    return json.dumps({"kind": type(settings).__name__, "settings": asdict(settings)})


def loads(text: str) -> Settings:
    """Read what `dumps` wrote."""
    found = json.loads(text)
    given: dict[str, Any] = found["settings"]
    if found["kind"] == FolderSettings.__name__:
        return FolderSettings(**given)
    if found["kind"] == S3Settings.__name__:
        session = given.pop("session")
        return S3Settings(session=None if session is None else AwsSession(**session), **given)
    account = given.pop("credentials")
    return GcsSettings(credentials=None if account is None else ServiceAccount(**account), **given)


def open_described(settings: Settings, path: str, address: str) -> Storage:
    """Open the storage, or the folder `path` below it. Raises PlanError for a path that climbs."""
    names = [name for name in path.split("/") if name]
    if ".." in names or "." in names:
        raise PlanError(f"{address}: leads out of the block's folder; leave out the dots")
    if isinstance(settings, FolderSettings):
        from pybak.paths import user_path
        from pybak.storage.local_folder import FolderStorage

        root = user_path(settings.path)
        return FolderStorage(str(root.joinpath(*names)), root=str(root))
    prefix = "/".join([*filter(None, [settings.prefix.strip("/")]), *names])
    if isinstance(settings, S3Settings):
        from blocks.s3 import S3Storage

        return S3Storage(replace(settings, prefix=prefix), address=address)
    from blocks.gcs import GcsStorage

    return GcsStorage(replace(settings, prefix=prefix), address=address)
