"""What is asked of a storage, asked again a few times where that can help."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pybak.errors import StorageError

WAITS: Final = (0.5, 2.0)
"""Seconds before each further try. A storage has its own retries below these."""

_T = TypeVar("_T")


def patiently(
    ask: Callable[[], _T],
    *,
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], object] | None = None,
) -> _T:
    """Give what `ask` gives; after a retryable StorageError wait and ask again.

    Raises what the last try raised, and at once what is not retryable.
    """
    for wait in waits:
        try:
            return ask()
        except StorageError as error:
            if not error.retryable:
                raise
        (sleep or time.sleep)(wait)
    return ask()
