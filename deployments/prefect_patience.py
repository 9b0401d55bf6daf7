"""Prefect's REST API, asked once more when the server says that it is busy.

On SQLite it answers 503 while another of its own writers holds the database, and it closes idle
connections, at times just when something is asked. All that is asked here may be asked twice: runs
are started with an idempotency key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pybak.prefect_api import PAGE, ApiError, PrefectApi

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
        """Yield all rows that a `…/filter` path gives, asked for page by page."""
        offset = 0
        while True:
            rows = self.post(path, {**(body or {}), "limit": PAGE, "offset": offset})
            yield from rows
            if len(rows) < PAGE:
                return
            offset += len(rows)

    def _ask(self, ask: Callable[[], Any]) -> Any:
        was_cut = False
        for pause in PAUSES_SECONDS:
            try:
                return ask()
            except ApiError as error:
                if not was_cut and _is_cut(error):
                    was_cut = True
                    continue
                if error.status != _BUSY:
                    raise
            self._sleep(pause)
        return ask()


def _is_cut(error: ApiError) -> bool:
    """Whether a connection ended without an answer, other than by the server's being away."""
    import httpx

    cut = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
    return isinstance(error.__cause__, cut)
