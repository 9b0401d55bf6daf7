"""Log lines from a Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pybak.logs.lines import LogLine
from pybak.prefect_api import PAGE, ApiError, PrefectApi, moment

_MISSING = 404


class ServerLogs:
    """The log store of a server. All failures are ApiErrors."""

    def __init__(self, api: PrefectApi) -> None:
        self._api = api

    @property
    def where(self) -> str:
        """The server's address."""
        return self._api.place

    def lines(
        self, flow_run: str, *, least: int = 0, since: datetime | None = None
    ) -> Iterator[LogLine]:
        """Yield the lines of a flow run by time.

        A page begins at the time where the one before it ended, for lines come in meanwhile; so
        those of that time come twice and are left out.
        """
        after = since.isoformat() if since is not None else None
        offset = 0
        seen: set[str] = set()
        while True:
            rows = self._page(flow_run, least, after, offset)
            for row in rows:
                if row["id"] not in seen:
                    yield _line(row)
            if len(rows) < PAGE:
                return
            last = rows[-1]["timestamp"]
            if last == after:  # a whole page of one moment
                offset += len(rows)
                seen |= {row["id"] for row in rows}
            else:
                after, offset = last, 0
                seen = {row["id"] for row in rows if row["timestamp"] == last}

    def _page(
        self, flow_run: str, least: int, after: str | None, offset: int
    ) -> list[dict[str, Any]]:
        wanted: dict[str, Any] = {"flow_run_id": {"any_": [flow_run]}, "level": {"ge_": least}}
        if after is not None:
            wanted["timestamp"] = {"after_": after}
        body = {"logs": wanted, "sort": "TIMESTAMP_ASC", "limit": PAGE, "offset": offset}
        rows: list[dict[str, Any]] = self._api.post("/logs/filter", body)
        return rows

    def state(self, flow_run: str) -> str | None:
        """Give the type of the state that a flow run is in."""
        try:
            run = self._api.get(f"/flow_runs/{flow_run}")
        except ApiError as error:
            if error.status == _MISSING:
                return None
            raise
        return str(run["state_type"]) if run.get("state_type") else "PENDING"

    def task_names(self, flow_run: str) -> dict[str, str]:
        """Give the names of a flow run's task runs, by their ids."""
        wanted = {"flow_runs": {"id": {"any_": [flow_run]}}}
        return {one["id"]: one["name"] for one in self._api.pages("/task_runs/filter", wanted)}

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


def _line(row: dict[str, Any]) -> LogLine:
    time = moment(row["timestamp"])
    assert time is not None
    return LogLine(
        id=row["id"],
        time=time,
        level=row["level"],
        text=row["message"],
        logger=row["name"],
        task_run=row.get("task_run_id"),
    )
