"""What Prefect's server says about the deployments of our flows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from pybak.lateness import planned_interval
from pybak.prefect_api import PrefectApi, moment

FLOWS: Final = (
    "backup", "inbox", "mirror", "verify", "prune", "drill", "rebuild", "transfer", "restore",
)  # fmt: skip
"""The names of PyBak's flows."""


class Limit(msgspec.Struct, frozen=True):
    """How many runs may work at once, and how many slots for them are taken."""

    name: str
    limit: int
    active_slots: int
    is_active: bool = True


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment of one of our flows. Times are aware.

    `intervals` are the seconds between runs, of those schedules that are switched on and say so,
    or as `timed` found them;
    `schedules` counts all that are switched on.
    """

    id: str
    name: str
    flow: str
    is_paused: bool
    schedules: int
    schedules_off: int
    intervals: tuple[float, ...] = ()
    pool: str | None = None
    queue: str | None = None
    last_polled: datetime | None = None
    updated: datetime | None = None
    limit: Limit | None = None
    parameters: Mapping[str, Any] = {}

    @property
    def runs_by_itself(self) -> bool:
        """Whether a schedule is meant to start it."""
        return self.schedules > 0 and not self.is_paused


def read_deployments(api: PrefectApi) -> list[Deployment]:
    """List the deployments of our flows, by name. Raises ApiError."""
    names = {"flows": {"name": {"any_": list(FLOWS)}}}
    flows = {one["id"]: str(one["name"]) for one in api.pages("/flows/filter", names)}
    found = [
        _deployment(one, flows[one["flow_id"]])
        for one in api.pages("/deployments/filter", {**names, "sort": "NAME_ASC"})
        if one["flow_id"] in flows
    ]
    return sorted(found, key=lambda one: one.name)


def timed(api: PrefectApi, one: Deployment, now: datetime) -> Deployment:
    """Give a deployment with its interval, where its schedule does not say it. Raises ApiError."""
    if one.intervals or not one.runs_by_itself:
        return one
    waiting = of_deployment(one, state={"type": {"any_": ["SCHEDULED"]}})
    rows = api.post("/flow_runs/filter", {**waiting, "sort": "EXPECTED_START_TIME_ASC"})
    times = [moment(row.get("expected_start_time")) for row in rows if row.get("auto_scheduled")]
    interval = planned_interval(api, one.id, [at for at in times if at is not None], now)
    return msgspec.structs.replace(one, intervals=() if interval is None else (interval,))


def _deployment(row: Mapping[str, Any], flow: str) -> Deployment:
    schedules = row.get("schedules") or []
    on = [one for one in schedules if one.get("active")]
    intervals = [one["schedule"].get("interval") for one in on]
    return Deployment(
        id=row["id"],
        name=f"{flow}/{row['name']}",
        flow=flow,
        is_paused=bool(row.get("paused")),
        schedules=len(on),
        schedules_off=len(schedules) - len(on),
        intervals=tuple(float(seconds) for seconds in intervals if seconds),
        pool=row.get("work_pool_name"),
        queue=row.get("work_queue_name"),
        last_polled=moment(row.get("last_polled")),
        updated=moment(row.get("updated")),
        limit=_limit(row.get("global_concurrency_limit")),
        parameters=row.get("parameters") or {},
    )


def _limit(row: Mapping[str, Any] | None) -> Limit | None:
    if not row:
        return None
    return Limit(row["name"], row["limit"], row["active_slots"], bool(row.get("active", True)))


def of_deployment(deployment: Deployment, **flow_runs: Any) -> dict[str, Any]:
    """Give the filter for runs of a deployment, and what else they must be."""
    return {"flow_runs": {"deployment_id": {"any_": [deployment.id]}, **flow_runs}}
