"""Load a block by its name, with failures that say what to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
)

from blocks.described import FolderSettings, Settings
from pybak.bare import bare
from pybak.errors import PlanError, PyBakError, StorageError
from pybak.prefect_refusals import is_passing, refused

_B = TypeVar("_B", bound=Block)
_ITSELF: Final = "name the storage itself, as in s3://BUCKET/PREFIX"
_SHOWN: Final = 10


def load_block(kind: type[_B], name: str, document: str, otherwise: str) -> _B:
    """Give the block `document` of a type; messages call it `name`.

    Raises PlanError if there is none or it can't be read, and StorageError, which advises
    `otherwise`, if Prefect's server can't be reached, or refuses.
    """
    load: Any = kind.load
    try:
        block: _B = load(document, _sync=True)
    except httpx.HTTPStatusError as error:
        raise _refused(name, error) from error
    except (httpx.TransportError, RuntimeError) as error:
        # A RuntimeError is Prefect's when the server that it starts itself does not come up.
        raise _unreachable(name, otherwise) from error
    except ValueError as error:
        if not PREFECT_API_URL.value() and not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
            raise _unreachable(name, otherwise) from error
        if not isinstance(error.__cause__, ObjectNotFound):
            # What is stored does not fit; pydantic's message would show it.
            raise PlanError(f"block {name}: can't be read; save it again") from None
        raise PlanError(
            f"block {name}: there is none; make it in Prefect's UI, or in Python with "
            f'{kind.__name__}(...).save("{document}")'
        ) from error
    return block


def load_of_type(kind: type[_B], name: str, what: str, otherwise: str) -> _B:
    """Give the block `name`, which may have the slug of its type before it.

    Raises PlanError for one of another type, which is no `what`; for all else see `load_block`.
    """
    slug = kind.get_block_type_slug()
    given, slash, document = name.rpartition("/")
    if slash and given != slug:
        raise PlanError(f"block {name}: is no {what}; name a block of the type {slug}")
    return load_block(kind, name, document, otherwise)


def _unreachable(name: str, otherwise: str) -> StorageError:
    where = f"at {bare(url)} " if (url := PREFECT_API_URL.value()) else ""
    return StorageError(
        f"block {name}: Prefect's server {where}can't be reached; start it, or {otherwise}",
        retryable=True,
    )


def _refused(name: str, error: httpx.HTTPStatusError) -> StorageError:
    """Give the error for a server that answers, but not with what was asked for."""
    url, code = PREFECT_API_URL.value() or "", error.response.status_code
    told = refused(
        bare(url) or "Prefect's server", error.request.url.path.removeprefix("/api"), code,
        has_auth=PREFECT_API_AUTH_STRING.value() is not None,
    )  # fmt: skip
    return StorageError(f"block {name}: {told}", retryable=is_passing(code))


def load_storage(slug: str, name: str) -> Settings:
    """Give what the block `name` says of a storage; with a `slug` only one of that type.

    Raises PlanError if there is none, or if a name without type is that of several; StorageError
    if Prefect's server can't be asked, or the block's credentials can't be made.
    """
    kinds = [kind for kind, _ in _documents(name, only=True) if slug in ("", kind)]
    if not kinds:
        found = _documents(name, only=False)
        raise PlanError(_none(f"{slug}/{name}" if slug else name, found))
    if len(kinds) > 1:
        others = " or ".join(f"block:{kind}/{name}" for kind in kinds)
        raise PlanError(f"block {name}: there is more than one; write {others}")
    try:
        return _LOADERS[kinds[0]](name)
    except PyBakError:
        raise
    except Exception as error:
        from blocks.gcs_errors import translate

        # Prefect's block of Google's credentials looks for them when it is loaded.
        known = translate(error, "", f"block {name}", "") if "google.auth" in sys.modules else None
        if known is None:
            raise
        raise known from error


def _documents(name: str, *, only: bool) -> list[tuple[str, str]]:
    """Give type and name of the blocks that are storages, `only` those called `name`."""
    from prefect.client.orchestration import get_client

    wanted: dict[str, Any] = {"block_types": {"slug": {"any_": list(_LOADERS)}}}
    if only:
        wanted["block_documents"] = {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}}
    try:
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/block_documents/filter", json=wanted)
            answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise _refused(name, error) from error
    except (httpx.HTTPError, RuntimeError, ValueError) as error:
        raise _unreachable(name, _ITSELF) from error
    documents = [(found["block_type"]["slug"], found["name"]) for found in answer.json()]
    return sorted(found for found in documents if found[0] in _LOADERS)


def _none(full: str, found: Sequence[tuple[str, str]]) -> str:
    there = ", ".join(f"{slug}/{name}" for slug, name in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    known = f"there are {there}{more}" if found else "there are no blocks of storages yet"
    return f"block {full}: there is none; {known}; make it in Prefect's UI, see docs/storage.md"


def _load_s3(name: str) -> Settings:
    from blocks.s3_block import S3StorageBlock

    return load_block(S3StorageBlock, name, name, _ITSELF).settings()


def _load_gcs(name: str) -> Settings:
    _hurry()
    from blocks.gcs_block import GcsStorageBlock

    return load_block(GcsStorageBlock, name, name, _ITSELF).settings()


def _load_folder(name: str) -> Settings:
    from blocks.folder_block import LocalFolder

    return FolderSettings(load_block(LocalFolder, name, name, _ITSELF).path)


def _load_s3_bucket(name: str) -> Settings:
    from prefect_aws.s3 import S3Bucket

    from blocks.s3_block import settings_of_bucket

    return settings_of_bucket(load_block(S3Bucket, name, name, _ITSELF))


def _load_gcs_bucket(name: str) -> Settings:
    _hurry()
    from prefect_gcp.cloud_storage import GcsBucket  # type: ignore[import-untyped]

    from blocks.gcs_block import settings_of_bucket

    return settings_of_bucket(load_block(GcsBucket, name, name, _ITSELF))


def _hurry() -> None:
    """Have Google's library, once it is imported, not wait long for a server that is not there."""
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")


_LOADERS: Final[dict[str, Callable[[str], Settings]]] = {
    "pybak-s3-storage": _load_s3,
    "pybak-gcs-storage": _load_gcs,
    "pybak-local-folder": _load_folder,
    "s3-bucket": _load_s3_bucket,
    "gcs-bucket": _load_gcs_bucket,
}
