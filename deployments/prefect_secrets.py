"""The password of a Prefect block over the REST API, for a service that has no Prefect in it."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from pybak.errors import PlanError
from pybak.password import checked, encode
from pybak.prefect_api import ApiError, PrefectApi

_SLUG: Final = "pybak-encryption-password"
_FIELDS: Final = {_SLUG: "password", "secret": "value"}
_MISSING: Final = 404


def load_password(api: PrefectApi, name: str) -> bytes:
    """Give the password that a block holds, named as `blocks.password.load_password` takes it.

    Raises PlanError if there is none, or no text in it, and ApiError if no server can be asked.
    """
    kind, slash, document = name.rpartition("/")
    slug = kind if slash else _SLUG
    if slug not in _FIELDS:
        raise PlanError(f"block {name}: is no password; name a block of the type {_SLUG}")
    path = f"/block_types/slug/{slug}/block_documents/name/{quote(document, safe='')}"
    try:
        found = api.get(f"{path}?include_secrets=true")
    except ApiError as error:
        if error.status == _MISSING:
            raise PlanError(f"block {name}: there is none; make it in Prefect's UI") from error
        raise
    value = found["data"].get(_FIELDS[slug])
    if not isinstance(value, str):
        raise PlanError(f"block {name}: holds no text; put the password into it")
    return checked(encode(value), f"block {name}")
