"""What a token may allow (RFC 6749 §3.3), and who is asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

READ: Final = "backup:read"
WRITE: Final = "backup:write"
RESTORE: Final = "backup:restore"

SCOPES: Final[Mapping[str, str]] = {
    READ: "See jobs, runs, logs, archives, the names in them, and metrics.",
    WRITE: "Start and cancel runs; verify and prune archives.",
    RESTORE: "Get contents back: download files and restore them on the host.",
}
"""Each scope with what it allows."""


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request. `expires_at` is in seconds since 1970; None for never.

    `name` is for people. `ident` is the same for no other caller, whoever issued his token.
    """

    name: str
    scopes: frozenset[str]
    expires_at: float | None = None
    ident: str = ""

    @property
    def key(self) -> str:
        """By what limits and idempotency keys are counted."""
        return self.ident or self.name


EVERYBODY: Final = Caller("anonymous", frozenset(SCOPES))
"""The caller where nobody is asked who they are."""


def granted(
    claims: Mapping[str, Any], names: Iterable[str], renamed: Mapping[str, str]
) -> frozenset[str]:
    """Give the scopes of a token's claims, of those that there are.

    `names` are the claims that hold them, as text separated by blanks or as a list; `renamed`
    gives our name for a provider's.
    """
    found: set[str] = set()
    for name in names:
        value = claims.get(name)
        words = value.split() if isinstance(value, str) else value
        if isinstance(words, list):
            found.update(renamed.get(word, word) for word in words if isinstance(word, str))
    return frozenset(found & SCOPES.keys())
