"""How often somebody may do something: token buckets, for as many names as there is room."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_MOST_NAMES: Final = 10_000


def network_of(address: str) -> str:
    """Give what counts as one sender: an address, of IPv6 the 64 bits that one household has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), 64), strict=False))


class RateLimit:
    """At most `count` a minute for each name; unused ones add up to `count`."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take how many a minute; 0 for no limit."""
        self._count = count
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one; give 0, or in how many seconds there is one again."""
        if not self._count:
            return 0.0
        now = self._clock()
        left, at = self._left.pop(name, (float(self._count), now))
        left = min(float(self._count), left + (now - at) * self._count / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self._count
        self._left[name] = (left if wait else left - 1, now)
        if len(self._left) > _MOST_NAMES:  # the one that asked longest ago
            self._left.popitem(last=False)
        return wait
