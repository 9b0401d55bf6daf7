"""Prefect's REST API, asked once more when the server says that it is busy.

On SQLite it answers 503 while another of its own writers holds the database. All that is asked here
may be asked twice: runs are started with an idempotency key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pybak.prefect_api import ApiError, PrefectApi

PAUSES_SECONDS: Final = (0.2, 0.5, 1.0, 2.0)
_BUSY: Final = 503


class PatientApi:
    """Asks like `PrefectApi`, a few times if need be."""

    def __init__(self, api: PrefectApi, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._api = api
        self._sleep = sleep

    def get(self, path: str) -> Any:
        """Give what is at `path`."""
        return self._ask(lambda: self._api.get(path))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Give the answer to `body`."""
        return self._ask(lambda: self._api.post(path, body))

    def pages(self, path: str, body: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Yield all rows that a `…/filter` path gives."""
        yield from self._ask(lambda: list(self._api.pages(path, body)))

    def _ask(self, ask: Callable[[], Any]) -> Any:
        for pause in PAUSES_SECONDS:
            try:
                return ask()
            except ApiError as error:
                if error.status != _BUSY:
                    raise
            self._sleep(pause)
        return ask()
