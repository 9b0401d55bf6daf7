"""When jobs run next, and if the last run failed, asked from a Prefect server by its REST API."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

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

    Each says whether the deployment's last run failed, so that a run which failed before the
    catalog heard of it is told by the job's state. Raises ApiError.
    """
    from pybak.prefect_api import moment

    planned: dict[str, list[datetime]] = defaultdict(list)
    deployments: dict[str, str | None] = {}
    for number, run in enumerate(api.pages("/flow_runs/filter", _FILTER)):
        if number >= _MOST:
            break
        when = moment(run.get("next_scheduled_start_time") or run.get("expected_start_time"))
        name = job_of(run.get("parameters") or {})
        if when is not None and name is not None and run.get("auto_scheduled"):
            planned[name].append(when)
            deployments[name] = run.get("deployment_id")
    found = {}
    for name, times in planned.items():
        deployment = deployments[name]
        interval = planned_interval(api, deployment, sorted(times), now())
        failed_at, flow_run = (None, None) if deployment is None else last_failure(api, deployment)
        found[name] = Schedule(
            next_run=min(times), interval_seconds=interval, failed_at=failed_at,
            failed_flow_run=flow_run,
        )  # fmt: skip
    return found


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


def job_of(parameters: Mapping[str, Any]) -> str | None:
    """Give the name that a job has in the catalog, from a flow's parameters; None if unclear."""
    if name := parameters.get("job"):
        return str(name)
    if sources := parameters.get("sources"):
        return ", ".join(sorted(os.path.abspath(str(one)) for one in sources))
    source, destination = parameters.get("source"), parameters.get("destination")
    if not source or not destination:
        return None
    if "job" in parameters:  # a mirror is called by where it goes
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
