"""When jobs run next, and if the last run failed, asked from a Prefect server by its REST API."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pybak.lateness import planned_interval
from pybak.overview.facts import JOB_KINDS, Schedule

if TYPE_CHECKING:
    from pybak.prefect_api import Asking

_MOST: Final = 1000
_BAD: Final = ("FAILED", "CRASHED")
_FILTER: Final = {
    "sort": "EXPECTED_START_TIME_ASC",
    "flows": {"name": {"any_": list(JOB_KINDS)}},
    "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
}


def read_schedules(
    api: Asking, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dict[str, Schedule]:
    """Give the schedule of each job that has runs planned, as `Overview.jobs` takes them.

    Several deployments may run one job, and jobs of several kinds may have one name: a job has the
    shortest interval of its own deployments, and their newest failure. That one tells, by the job's
    state, of a run which failed before the catalog heard of it. Raises ApiError.
    """
    from pybak.prefect_api import moment

    rows = list(islice(api.pages("/flow_runs/filter", _FILTER), _MOST))
    kinds = _kinds(api) if any(run.get("flow_id") for run in rows) else {}
    planned: dict[tuple[str, str], dict[str | None, list[datetime]]] = {}
    for run in rows:
        when = moment(run.get("next_scheduled_start_time") or run.get("expected_start_time"))
        kind = kinds.get(run.get("flow_id"), "")
        name = job_of(run.get("parameters") or {}, kind)
        if when is not None and name is not None and run.get("auto_scheduled"):
            of_job = planned.setdefault((name, kind), {})
            of_job.setdefault(run.get("deployment_id"), []).append(when)
    found: dict[str, dict[str, Schedule]] = defaultdict(dict)
    for (name, kind), deployments in planned.items():
        found[name][kind] = _together(
            [_schedule(api, one, times, now()) for one, times in deployments.items()]
        )
    return {name: _of_all(of_kinds) for name, of_kinds in found.items()}


def _kinds(api: Asking) -> dict[Any, str]:
    """Give the names of flows by their ids."""
    wanted = {"flows": {"name": {"any_": list(JOB_KINDS)}}}
    return {one["id"]: str(one["name"]) for one in api.pages("/flows/filter", wanted)}


def _schedule(
    api: Asking, deployment: str | None, times: list[datetime], now: datetime
) -> Schedule:
    """Give what one deployment has planned for a job."""
    interval = planned_interval(api, deployment, sorted(times), now)
    failed_at, flow_run = (None, None) if deployment is None else last_failure(api, deployment)
    return Schedule(
        next_run=min(times), interval_seconds=interval, failed_at=failed_at,
        failed_flow_run=flow_run,
    )  # fmt: skip


def _together(some: Sequence[Schedule]) -> Schedule:
    """Give what holds of a job that has each of these schedules."""
    intervals = [one.interval_seconds for one in some if one.interval_seconds is not None]
    failed = [(one.failed_at, one.failed_flow_run) for one in some if one.failed_at is not None]
    failed_at, flow_run = max(failed, key=itemgetter(0), default=(None, None))
    return Schedule(
        next_run=min((one.next_run for one in some if one.next_run is not None), default=None),
        interval_seconds=min(intervals, default=None), failed_at=failed_at,
        failed_flow_run=flow_run,
    )  # fmt: skip


def _of_all(kinds: dict[str, Schedule]) -> Schedule:
    """Give the schedule of all jobs of one name; one of unknown kind stands for every kind."""
    whole = _together(list(kinds.values()))
    return whole if "" in kinds else msgspec.structs.replace(whole, kinds=kinds)


def last_failure(api: Asking, deployment: str) -> tuple[datetime | None, str | None]:
    """Give end and id of a deployment's last flow run that was not cancelled, if it failed.

    Nobody but the server knows of one that failed before it began. Raises ApiError.
    """
    from pybak.prefect_api import moment

    ended = api.post(
        "/flow_runs/filter",
        {
            "flow_runs": {
                "deployment_id": {"any_": [deployment]},
                "state": {"type": {"any_": ["COMPLETED", *_BAD]}},
            },
            "sort": "END_TIME_DESC",
            "limit": 1,
        },
    )
    for run in ended:
        if (run.get("state") or {}).get("type") in _BAD:
            return moment(run.get("end_time")), str(run["id"])
    return None, None


def job_of(parameters: Mapping[str, Any], kind: str = "") -> str | None:
    """Give the name that a job has in the catalog, from a flow's parameters; None if unclear.

    `kind` is the flow's name, if it is known.
    """
    if name := parameters.get("job"):
        return str(name)
    if sources := parameters.get("sources"):
        return ", ".join(sorted(os.path.abspath(str(one)) for one in sources))
    source, destination = parameters.get("source"), parameters.get("destination")
    if not source or not destination:
        return None
    if kind == "mirror" or "job" in parameters:  # a mirror is called by where it goes
        return str(destination)
    return f"inbox {source}"


def schedules_within(seconds: float, environ: Mapping[str, str]) -> dict[str, Schedule]:
    """Ask the server that is meant; nothing where none answers in time, or there is none."""
    found: dict[str, Schedule] = {}

    def ask() -> None:
        from pybak.errors import PyBakError
        from pybak.prefect_api import PrefectApi

        try:
            api = PrefectApi.from_environment(environ)
            if api is not None:
                with api:
                    found.update(read_schedules(api))
        except (PyBakError, ValueError, KeyError, TypeError):
            return  # `pybak doctor` looks into that

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return {} if asking.is_alive() else found
