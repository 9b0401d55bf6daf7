"""Tokens that were judged a moment ago: a signature takes a quarter of a small answer's time.

What is remembered is good for half a minute, not beyond the token's own end, and only as long as
the issuers' keys stay the same. Tokens are kept as digests.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from pybak.api.auth.scopes import Caller
from pybak.api.auth.tokens import Issuer, judge

SECONDS: Final = 30.0
_MOST: Final = 1024


class Judged:
    """Judges tokens, and remembers good ones."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = issuers
        self._clock = clock
        self._now = now
        self._good: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._version = self._versions()

    async def caller(self, token: str) -> Caller:
        """Give whose token this is. Raises what `judge` raises."""
        if (version := self._versions()) != self._version:
            self._good.clear()
            self._version = version
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._good.get(digest)
        if known is not None:
            caller, until = known
            if self._clock() < until and self._now() < (caller.expires_at or 0):
                return caller
            del self._good[digest]
        caller = await judge(token, self._issuers)
        self._good[digest] = (caller, self._clock() + SECONDS)
        if len(self._good) > _MOST:
            self._good.popitem(last=False)
        return caller

    def _versions(self) -> tuple[int, ...]:
        return tuple(issuer.keys.version for issuer in self._issuers)
