"""Mails that could not be sent yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pybak.doctor.finding import Finding, Findings, ago
from pybak.home import home
from pybak.notify.outbox import Outbox
from pybak.units import format_count

SUBJECT: Final = "mail"
_FOLDER: Final = "outbox"
# One that was written just now is on its way.
_ON_ITS_WAY: Final = 120


def check_outbox(environ: Mapping[str, str], now: datetime) -> list[Finding]:
    """Tell of mails that wait for a mail server, and since when."""
    found = Findings(SUBJECT)
    # Their names tell; each try to send one changes its file's time.
    waiting = Outbox(home(environ) / _FOLDER).waiting()
    written = [at for path in waiting if (at := _written(path.name)) is not None]
    if written and (waited := now - min(written)).total_seconds() > _ON_ITS_WAY:
        found.note(
            f"{format_count(len(waiting), 'mail')} could not be sent, the oldest for {ago(waited)}",
            "see that the mail server can be reached; runs with --mail send them then",
        )
    return found.found


def _written(name: str) -> datetime | None:
    """Give when a letter was written: its name begins with milliseconds since 1970."""
    try:
        return datetime.fromtimestamp(int(name.partition("-")[0]) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
