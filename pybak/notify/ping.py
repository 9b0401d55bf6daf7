"""Dead-man's pings: a service that hears of each run, and raises the alarm when it does not.

Start, success and failure each have an address. A run that was stopped, or that found another one
at work, is neither: if no good run follows in time, the service raises the alarm by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pybak.notify import http
from pybak.notify.ending import GOOD, NEITHER, Ending
from pybak.notify.http import HttpSettings
from pybak.notify.letter import encodable
from pybak.notify.patience import FIRST_WAIT_SECONDS, patiently
from pybak.report import PARTIAL

ATTEMPTS: Final = 3
TRYING_SECONDS: Final = 10.0
PING_SECONDS: Final = 15.0
"""How long a run waits for its ping in all."""
START_SECONDS: Final = 5.0
"""How long a run waits for the ping at its start, before its work."""

Method = Literal["POST", "GET", "HEAD"]


@dataclass(frozen=True)
class PingSettings:
    """The addresses, secrets all three; those left out come from `url`, as healthchecks.io has it.

    With `partial_is_good` a run that saved all but some files is a success.
    """

    url: str = field(repr=False)
    start_url: str | None = field(default=None, repr=False)
    failure_url: str | None = field(default=None, repr=False)
    tell_start: bool = True
    partial_is_good: bool = False
    method: Method = "POST"
    timeout: float = 5.0
    verify: bool = True
    ca_file: str | None = None

    def for_start(self) -> str:
        """Give the address for the start of a run."""
        return self.start_url or _below(self.url, "start")

    def for_failure(self) -> str:
        """Give the address for a failure."""
        return self.failure_url or _below(self.url, "fail")


def ping_start(settings: PingSettings, what: str) -> None:
    """Tell that a run begins. Raises NoticeError; it is tried once."""
    if settings.tell_start:
        _send(settings, settings.for_start(), f"{what} begins")


def ping_end(
    settings: PingSettings, ending: Ending, *, first_wait: float = FIRST_WAIT_SECONDS
) -> None:
    """Tell how a run ended, if it is a success or a failure. Raises NoticeError."""
    if ending.verdict == NEITHER:
        return
    is_partial = ending.status == PARTIAL or int(ending.report.exit_code) == 3
    is_good = ending.verdict == GOOD or (is_partial and settings.partial_is_good)
    url = settings.url if is_good else settings.for_failure()
    text = ending.report.to_text().splitlines()[0]
    patiently(
        lambda: _send(settings, url, text), attempts=ATTEMPTS, seconds=TRYING_SECONDS,
        first_wait=first_wait,
    )  # fmt: skip


def _send(settings: PingSettings, url: str, text: str) -> None:
    body = encodable(text).encode() if settings.method == "POST" else None
    http.send(
        HttpSettings(
            url, timeout=settings.timeout, verify=settings.verify, ca_file=settings.ca_file
        ),
        body, content_type="text/plain; charset=utf-8", method=settings.method,
    )  # fmt: skip


def _below(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
