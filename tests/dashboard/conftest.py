"""Browsers for tests of the dashboard: Debian's Chromium, on a desktop's screen and a phone's.

A browser's start, its empty cache and each login cost more than what most tests look at, so those
of a module share them: one context of each size, in which somebody stays logged in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
PATIENCE_MS = 60_000
"""How long a page is waited for: far longer than it takes on a machine that does much else."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Give a browser; while there is one, its event loop is that of the thread."""
    from commands import find_tool
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_tool("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(chromium: Any) -> Iterator[Callable[[str], Any]]:
    """Give what gives the module's context of a size."""
    made: dict[str, Any] = {}

    def of_size(size: str) -> Any:
        if size not in made:
            made[size] = _context(chromium, size)
        return made[size]

    yield of_size
    for one in made.values():
        one.close()


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, contexts: Callable[[str], Any]) -> Iterator[Any]:
    """Give an empty page; the test runs for a desktop and for a phone. No fault may be logged."""
    yield from _page(contexts(request.param))


@pytest.fixture
def desktop_page(contexts: Callable[[str], Any]) -> Iterator[Any]:
    """Give an empty page of a desktop."""
    yield from _page(contexts("desktop"))


@pytest.fixture
def phone_page(contexts: Callable[[str], Any]) -> Iterator[Any]:
    """Give an empty page of a phone."""
    yield from _page(contexts("phone"))


@pytest.fixture
def strange_page(chromium: Any) -> Iterator[Any]:
    """Give an empty page of a desktop on which nobody was yet."""
    context = _context(chromium, "desktop")
    yield from _page(context)
    context.close()


def _context(chromium: Any, size: str) -> Any:
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, timezone_id="Asia/Tokyo",
        has_touch=size == "phone", color_scheme="dark" if size == "phone" else "light",
    )  # fmt: skip
    context.set_default_timeout(PATIENCE_MS)
    return context


def _page(context: Any) -> Iterator[Any]:
    made = context.new_page()
    faults: list[str] = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on(
        "console",
        lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None,
    )
    # Nothing may come from anywhere else.
    made.on("request", lambda asked: faults.append(asked.url) if _is_foreign(asked.url) else None)
    yield made
    made.close()
    assert faults == []


def _is_foreign(address: str) -> bool:
    return not address.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
