"""Answers that are made while they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    """Lets go of what it is made from as soon as it ends, however it ends."""

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        source: AsyncGenerator[bytes, None],
        **more: Any,
    ) -> None:
        """Take what is sent, and what that is made from: `content` may never have been begun."""
        super().__init__(content, **more)
        self._content = content
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. What is left of a generator would wait for the garbage collector."""
        async with aclosing(self._source), aclosing(self._content):
            await super().__call__(scope, receive, send)
