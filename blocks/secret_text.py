"""A text that is kept secret: by a block of ours, or by one of Prefect's own Secret blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from pydantic import SecretStr

from blocks.loading import load_block
from pybak.errors import PlanError

_B = TypeVar("_B", bound=Block)


def load_text(
    kind: type[_B], secret: Callable[[_B], SecretStr], name: str, *, what: str, text: str,
    otherwise: str,
) -> str:  # fmt: skip
    """Give the text of the block `name`, which may have the type's slug before it, or `secret`.

    `secret` takes it from a block of the type. Messages call the block `what`, and what it should
    hold `text`. Raises PlanError if there is none, or no text in it, and StorageError, which
    advises `otherwise`, if Prefect's server can't be reached.
    """
    slug = kind.get_block_type_slug()
    given, slash, document = name.rpartition("/")
    if not slash or given == slug:
        return secret(load_block(kind, name, document, otherwise)).get_secret_value()
    if given != Secret.get_block_type_slug():
        raise PlanError(
            f"block {name}: is no {what}; name a block of the type {slug}, or secret/NAME"
        )
    found = load_block(Secret, name, document, otherwise).get()
    if not isinstance(found, str):
        raise PlanError(f"block {name}: holds no text; put {text} into it")
    return found
