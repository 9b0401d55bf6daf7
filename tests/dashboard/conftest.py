"""Browsers for tests of the dashboard: Debian's Chromium, on a desktop's screen and a phone's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Give a browser; while there is one, its event loop is that of the thread."""
    from commands import find_tool
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_tool("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, chromium: Any) -> Iterator[Any]:
    """Give an empty page; the test runs for a desktop and for a phone. No fault may be logged."""
    yield from _page(chromium, request.param)


@pytest.fixture
def desktop_page(chromium: Any) -> Iterator[Any]:
    """Give an empty page of a desktop."""
    yield from _page(chromium, "desktop")


def _page(chromium: Any, size: str) -> Iterator[Any]:
    width, height = SIZES[size]
    context = chromium.new_context(
        viewport={"width": width, "height": height}, timezone_id="Asia/Tokyo",
        has_touch=size == "phone", color_scheme="dark" if size == "phone" else "light",
    )  # fmt: skip
    context.set_default_timeout(15_000)
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
    context.close()
    assert faults == []


def _is_foreign(address: str) -> bool:
    return not address.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))
