"""Load a block by its name, with failures that say what to do."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED

from pybak.errors import PlanError, StorageError

_B = TypeVar("_B", bound=Block)


def load_block(kind: type[_B], name: str, document: str, otherwise: str) -> _B:
    """Give the block `document` of a type; messages call it `name`.

    Raises PlanError if there is none or it can't be read, and StorageError, which advises
    `otherwise`, if Prefect's server can't be reached.
    """
    load: Any = kind.load
    try:
        block: _B = load(document, _sync=True)
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


def _unreachable(name: str, otherwise: str) -> StorageError:
    where = f"at {url} " if (url := PREFECT_API_URL.value()) else ""
    return StorageError(
        f"block {name}: Prefect's server {where}can't be reached; start it, or {otherwise}",
        retryable=True,
    )
