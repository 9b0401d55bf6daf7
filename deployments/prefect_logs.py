"""Logs of the REST API from Prefect's server: a `pybak.api.services.LogSource`.

A cursor is the time of the last line and how many lines of that very time were given, for the
server sorts by time alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from deployments.prefect_patience import PatientApi
from deployments.prefect_runs import PrefectRuns
from pybak.api.services import LogLine, LogPage
from pybak.errors import PlanError
from pybak.prefect_api import PAGE, PrefectApi, moment

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_RECENT_SECONDS: Final = 10.0
_MOST_LOOKED_AT: Final = 4000
_YEARS: Final = range(1970, 3000)


class PrefectLogs:
    """Reads the lines of our flows' runs."""

    def __init__(
        self, api: PrefectApi, runs: PrefectRuns, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = PatientApi(api)
        self._runs = runs
        self._clock = clock
        self._recent: list[str] = []
        self._recent_due = 0.0

    def lines(
        self,
        *,
        flow_run_id: str | None,
        level: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> LogPage:
        """Give lines of one run, or of the hundred that began last.

        A search looks at some thousand lines; a page may hold few of them, and go on.
        """
        flow_runs = [flow_run_id] if flow_run_id is not None else self._recent_runs()
        if not flow_runs:
            return LogPage(items=[], next=cursor)
        after, skip = _place(cursor)
        first = moment(after) or since
        start = first.astimezone(UTC).isoformat() if first is not None else None
        wanted: dict[str, Any] = {"flow_run_id": {"any_": flow_runs}}
        times = {"after_": start, "before_": until.isoformat() if until is not None else None}
        wanted["timestamp"] = {name: value for name, value in times.items() if value}
        if level is not None:
            wanted["level"] = {"ge_": LEVELS[level]}
        # The server's own search fails on SQLite before 3.44, and looks at loggers' names, too.
        words = (text or "").casefold()
        found: list[LogLine] = []
        looked_at = 0
        while len(found) < limit and looked_at < _MOST_LOOKED_AT:
            size = PAGE if words else min(PAGE, limit - len(found))
            rows = self._api.post(
                "/logs/filter",
                {
                    "logs": wanted, "sort": "TIMESTAMP_ASC", "limit": size,
                    "offset": skip + looked_at,
                },
            )  # fmt: skip
            for row in rows:
                looked_at += 1
                cursor = _cursor(*_next(row["timestamp"], cursor))
                if words in row["message"].casefold():
                    found.append(_line(row, cursor))
                    if len(found) == limit:
                        return LogPage(items=found, next=cursor, complete=False)
            if len(rows) < size:
                return LogPage(items=found, next=cursor)
        return LogPage(items=found, next=cursor, complete=False)

    def _recent_runs(self) -> list[str]:
        if self._clock() >= self._recent_due:
            self._recent = self._runs.recent()
            self._recent_due = self._clock() + _RECENT_SECONDS
        return self._recent


def _line(row: dict[str, Any], cursor: str) -> LogLine:
    at = moment(row["timestamp"])
    assert at is not None
    number = row["level"]
    level = max((name for name, least in LEVELS.items() if least <= number), key=LEVELS.__getitem__,
                default="debug")  # fmt: skip
    return LogLine(
        at=at, level=level, message=row["message"], flow_run_id=row["flow_run_id"], cursor=cursor
    )


def _next(timestamp: str, cursor: str | None) -> tuple[str, int]:
    last, count = _place(cursor)
    return (timestamp, count + 1) if last == timestamp else (timestamp, 1)


def _cursor(timestamp: str, count: int) -> str:
    data = json.dumps([timestamp, count]).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _place(cursor: str | None) -> tuple[str | None, int]:
    """Take a cursor apart. Raises PlanError for text that is none."""
    if cursor is None:
        return None, 0
    wrong = PlanError("this is no cursor of logs; begin again without one")
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        timestamp, count = json.loads(data)
        at = moment(timestamp)
        year = at.astimezone(UTC).year if at is not None else 0
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise wrong from error
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 1 << 31:
        raise wrong
    if year not in _YEARS:
        raise wrong
    return timestamp, count
