"""Waits of tests for what another process does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest


class Patience(httpx.HTTPTransport):
    """Asks a Prefect server again when SQLite is locked, as Prefect's own client does."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(40):
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            answer.close()
            time.sleep(0.5)
        return answer


def api_client(url: str, **more: Any) -> httpx.Client:
    """Give a client of a Prefect server's REST API.

    Its statements wait for each other for a minute before it answers that SQLite is locked.
    """
    return httpx.Client(base_url=url, timeout=180, transport=Patience(), **more)


def wait_for(
    look: Callable[[], Any],
    seconds: float = 90,
    *,
    told: str | Callable[[], object] = "it did not come",
    every: float = 0.05,
) -> Any:
    """Look again and again until there is something, and give it.

    Fails after so many seconds of a machine that is not shared, with what is `told` then.
    """
    deadline = time.monotonic() + shared(seconds)
    while not (found := look()):
        if time.monotonic() > deadline:
            why = told if isinstance(told, str) else told()
            pytest.fail(f"{why} (after {shared(seconds):.0f} s)")
        time.sleep(every)
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the body takes longer than so many seconds of a machine that is not shared."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < shared(seconds), f"took {took:.1f} s"


def shared(seconds: float) -> float:
    """Give what so many seconds of a machine become while others compete for its processors."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
