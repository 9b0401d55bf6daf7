"""Slots of "one run at a time" that nobody gives back, so that every later run is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pybak.doctor.deployed import Deployment, Limit, of_deployment, read_deployments
from pybak.doctor.finding import Finding, Findings
from pybak.prefect_api import PrefectApi
from pybak.units import format_count

SUBJECT: Final = "slots"
_AT_WORK: Final = ("PENDING", "RUNNING", "CANCELLING")
# A run that ends just now gives its slot back a moment before or after its state is told.
_AGAIN_SECONDS: Final = 2.0


def check_slots(
    api: PrefectApi, deployments: Sequence[Deployment], sleep: Callable[[float], object]
) -> list[Finding]:
    """Compare the slots that are taken with the runs that may have them. Raises ApiError.

    What looks wrong is looked at once more after a pause.
    """
    found = Findings(SUBJECT)
    limited = [one for one in deployments if one.limit is not None and one.limit.is_active]
    suspects = {one.id for one in limited if _lost(api, one)}
    if suspects:
        sleep(_AGAIN_SECONDS)
        limited = [one for one in read_deployments(api) if one.limit is not None]
    for one in limited:
        if one.limit is not None and one.id in suspects and _lost(api, one):
            _tell(found, one, one.limit, _at_work(api, one))
    if limited and not found.found:
        found.ok(f"{format_count(len(limited), 'deployment')} with a limit, no slot is lost")
    return found.found


def _tell(found: Findings, one: Deployment, limit: Limit, runs: int) -> None:
    taken = f"{limit.active_slots} of {format_count(limit.limit, 'slot')}"
    at_work = "no run is at work" if runs == 0 else f"only {format_count(runs, 'run')} at work"
    found.problem(
        f"{one.name}: {taken} taken, but {at_work}, so later runs are cancelled",
        "free it",
        f"prefect gcl update {limit.name} --active-slots {runs}",
    )


def _lost(api: PrefectApi, one: Deployment) -> bool:
    limit = one.limit
    return limit is not None and limit.active_slots > 0 and limit.active_slots > _at_work(api, one)


def _at_work(api: PrefectApi, one: Deployment) -> int:
    states: Any = {"type": {"any_": list(_AT_WORK)}}
    return int(api.post("/flow_runs/count", of_deployment(one, state=states)))
