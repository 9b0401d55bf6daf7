"""Delete old runs of commands that brought a Prefect server along.

A server that stays does that by its settings (deployments/settings.env). One that lives for a
command does not, and a line of cron would fill its database for good. Only runs that were marked
as such go: others in the same database are their owners'.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from pybak.prefect_api import ApiError, PrefectApi

TAG: Final = "own-server"
"""What these runs are marked with."""
KEPT: Final = timedelta(days=14)
"""How long they stay, as with a server that stays."""
_EVERY_SECONDS: Final = 3600.0
_AT_ONCE: Final = 50  # the server deletes no more
_MOST_SECONDS: Final = 4.0
_BUSY: Final = 503
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.1


def forget_old_runs(url: str, auth: str, marker: Path, before: datetime | None = None) -> int:
    """Delete those that began before that, or KEPT ago, for some seconds; give how many.

    `marker` is a file whose time tells when that was done last: more than once an hour it does
    nothing. A server that refuses, or is busy, is left alone.
    """
    if not _is_due(marker):
        return 0
    deleted = 0
    with contextlib.suppress(ApiError), PrefectApi(url, auth=auth) as api:
        ends_at = time.monotonic() + _MOST_SECONDS
        gone = _AT_ONCE
        while gone == _AT_ONCE and time.monotonic() < ends_at:
            gone = _delete_some(api, before or datetime.now(UTC) - KEPT)
            deleted += gone
    return deleted


def _is_due(marker: Path) -> bool:
    with contextlib.suppress(OSError):
        age = time.time() - marker.stat().st_mtime
        if 0 <= age < _EVERY_SECONDS:
            return False
    try:
        marker.touch(mode=0o600)
    except OSError:
        return False  # it would be done in each run
    return True


def _delete_some(api: PrefectApi, before: datetime) -> int:
    runs = {"tags": {"all_": [TAG]}, "start_time": {"before_": before.isoformat()}}
    wish = {"flow_runs": runs, "limit": _AT_ONCE}
    deleted: list[str] = _patiently(lambda: api.post("/flow_runs/bulk_delete", wish))["deleted"]
    if deleted:  # logs go with them, artifacts do not
        of_them = {"artifacts": {"flow_run_id": {"any_": deleted}}}
        for artifact in list(api.pages("/artifacts/filter", of_them)):
            _patiently(partial(api.delete, f"/artifacts/{artifact['id']}"))
    return len(deleted)


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask again where the server's database was locked, as it is while it deletes logs."""
    for _ in range(_TRIES):
        try:
            return ask()
        except ApiError as error:
            if error.status != _BUSY:
                raise
        time.sleep(_PAUSE_SECONDS)
    return ask()
