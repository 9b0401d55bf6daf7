"""Which notices a run is to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

When = Literal["always", "on-change", "on-problem"]


@dataclass(frozen=True)
class Notices:
    """Which blocks tell of a run, by name, and when a mail is wanted."""

    mail: str | None = None
    mail_when: When = "on-change"
    webhook: str | None = None
    ping: str | None = None

    def __bool__(self) -> bool:
        """Whether anybody is told at all."""
        return bool(self.mail or self.webhook or self.ping)
