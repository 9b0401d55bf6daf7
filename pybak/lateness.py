"""When a job is late: the one rule of `pybak doctor`, `pybak status` and what else shows jobs.

A job is late once its newest good run ended longer ago than `patience` of its interval: an interval
and a half, but an interval and fifteen minutes at least; of an interval below five minutes three
and five minutes.

The interval is that of its schedule. A job without one has the usual interval of its runs, and is
late only if they are so regular that a clock starts them: what somebody does by hand is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pybak.prefect_api import Asking

_LEAST: Final = 900.0
_SHORT_TIMES: Final = 3
_SHORT_LEAST: Final = 300.0
_RARE: Final = 3600.0
_REGULAR_FROM: Final = 10
_REGULAR: Final = 2.0
_MINUTE: Final = 60
_UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", _MINUTE))


def patience(interval: float) -> float:
    """Give the seconds after a good run from which a job is late; `interval` in seconds."""
    return min(
        interval + max(_LEAST, interval / 2),
        _SHORT_TIMES * interval + _SHORT_LEAST,
    )


def is_regular(starts: Sequence[datetime]) -> bool:
    """Whether four of five runs came at about the usual interval; `starts` are in time's order.

    The newest may be first or last. A few runs are never regular.
    """
    gaps = [abs(gap) for gap in _gaps(starts)]
    if len(gaps) < _REGULAR_FROM:
        return False
    middle = median(gaps)
    near = [gap for gap in gaps if middle / _REGULAR <= gap <= middle * _REGULAR]
    return len(near) * 5 >= len(gaps) * 4


def every(seconds: float) -> str:
    """Say an interval, without the seconds that starts differ by: `2 minutes`, `24 hours`."""
    whole = int(round(seconds, -1) if seconds > _MINUTE else seconds)
    for unit, size in _UNITS:
        if whole >= 2 * size:
            return f"{whole // size} {unit}s"
        if whole == size and unit != "day":
            return f"1 {unit}"
    return f"{whole} second{'' if whole == 1 else 's'}"


def planned_interval(
    api: Asking, deployment: str | None, planned: Sequence[datetime], now: datetime
) -> float | None:
    """Give the most seconds between runs of a schedule that says no interval, such as cron.

    `planned` are the runs that the server has planned, in order. Of rare ones it plans few, so the
    one that was due last is asked for: a job of weekdays is not late on Sunday. None where one run
    alone is known. Raises ApiError.
    """
    gaps = _gaps(planned)
    if deployment is not None and planned and min(gaps, default=_RARE) >= _RARE:
        # One that was due just now may still be at work.
        slack = timedelta(seconds=max(_LEAST, min(gaps, default=0.0) / 2))
        gaps = _gaps(sorted({*planned, *_due(api, deployment, now, now - slack)}))
    return max(gaps, default=None)


def _gaps(times: Sequence[datetime]) -> list[float]:
    return [(after - before).total_seconds() for before, after in pairwise(times)]


def _due(api: Asking, deployment: str, now: datetime, until: datetime) -> list[datetime]:
    """Give when runs were due lately, back to the last one that was due before `until`."""
    from pybak.prefect_api import moment

    rows = api.post(
        "/flow_runs/filter",
        {
            "flow_runs": {
                "deployment_id": {"any_": [deployment]},
                "expected_start_time": {"before_": now.isoformat()},
            },
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": 20,
        },
    )
    due = [moment(row.get("expected_start_time")) for row in rows if row.get("auto_scheduled")]
    times = [one for one in due if one is not None]
    return times[: sum(one > until for one in times) + 1]
