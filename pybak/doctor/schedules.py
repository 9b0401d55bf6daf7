"""Whether deployments run when they should, and how their last runs ended."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pybak.doctor.deployed import Deployment, of_deployment
from pybak.doctor.finding import Finding, Findings, about, ago
from pybak.prefect_api import PrefectApi, moment
from pybak.units import format_count

SUBJECT: Final = "schedules"
SHIPPED_OFF: Final = (
    "prune/documents-prune-nightly",
    "transfer/documents-transfer-nightly",
    "mirror/documents-mirror-nightly",
)
"""What `deployments/prefect.yaml` says is to begin paused: who wants it switches it on."""
_ENDED: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_BAD: Final = ("FAILED", "CRASHED")
_LOOKED_AT: Final = 10
_LATE: Final = timedelta(minutes=2)
# A scheduler that has just heard of a deployment plans its runs within a minute.
_NEW: Final = timedelta(minutes=2)
_SOME_CANCELLED: Final = 3
# Flows tell every three minutes that they are alive, unless they are told otherwise.
_SILENT: Final = timedelta(minutes=10)
_HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_LONG: Final = 5
_LONG_AT_LEAST: Final = 600.0
_MOST_MESSAGE: Final = 120


def check_schedules(
    api: PrefectApi, deployments: Sequence[Deployment], now: datetime
) -> list[Finding]:
    """Look at the runs of each deployment: those to come, at work and past. Raises ApiError."""
    found = Findings(SUBJECT)
    paused = [one for one in deployments if one.is_paused and one.name not in SHIPPED_OFF]
    if paused:
        told = "is paused: it does not run" if len(paused) == 1 else "are paused: none runs"
        found.note(
            f"{', '.join(one.name for one in paused)} {told} by itself",
            "switch on what should run, here or in Prefect's UI",
            f"python deployments/deploy.py --start {_start_name(paused)}",
        )
    for one in deployments:
        before = len(found.found)
        upcoming = _planned(found, api, one, now)
        _at_work(found, api, one, now)
        past = _past(found, api, one)
        if upcoming is not None and len(found.found) == before:
            found.ok(f"{one.name}: next run in {about((upcoming - now).total_seconds())}{past}")
    return found.found


def _start_name(paused: Sequence[Deployment]) -> str:
    """Give the word for `deploy.py --start`, where one deployment alone can be meant."""
    return paused[0].name.partition("/")[2] if len(paused) == 1 else "NAME"


def _planned(found: Findings, api: PrefectApi, one: Deployment, now: datetime) -> datetime | None:
    """Tell of runs that are due or missing; give when the next one is planned."""
    if one.is_paused:
        return None
    if not one.schedules:
        if one.schedules_off:
            found.note(
                f"{one.name}: its schedule is switched off",
                "look at it",
                f"prefect deployment schedule ls '{one.name}'",
            )
        return None
    waiting = api.post(
        "/flow_runs/filter",
        {
            **of_deployment(one, state={"type": {"any_": ["SCHEDULED"]}}),
            "sort": "EXPECTED_START_TIME_ASC", "limit": 1,
        },
    )  # fmt: skip
    if not waiting:
        if one.updated is not None and now - one.updated < _NEW:
            found.note(f"{one.name}: no run is planned yet", "look again in a minute")
        else:
            found.problem(
                f"{one.name}: no run is planned, though its schedule is on",
                "the server's scheduler does not work: look at its log and start it again",
            )
        return None
    due = moment(waiting[0]["expected_start_time"]) or now
    if now - due > _LATE:
        filters = of_deployment(
            one, state={"type": {"any_": ["SCHEDULED"]}},
            expected_start_time={"before_": now.isoformat()},
        )  # fmt: skip
        late = int(api.post("/flow_runs/count", filters))
        found.problem(
            f"{one.name}: {format_count(late, 'run')} late, the first for {ago(now - due)}",
            "see that a worker is at work, and has room for one more",
        )
        return None
    return max(due, now)


def _at_work(found: Findings, api: PrefectApi, one: Deployment, now: datetime) -> None:
    """Tell of runs that are said to be at work and are not, or take unusually long."""
    states: Any = {"type": {"any_": ["RUNNING", "CANCELLING"]}}
    for run in api.pages("/flow_runs/filter", of_deployment(one, state=states)):
        started = moment(run.get("start_time"))
        if started is None or now - started < _SILENT:
            continue
        heard = _last_heartbeat(api, run["id"])
        if now - max(started, heard or started) > _SILENT:
            last = f"last heard of {ago(now - heard)} ago" if heard else "never heard of since"
            found.problem(
                f"{one.name}: run {run['name']!r} is said to be at work for {ago(now - started)}, "
                f"but was {last}: its process is gone, or its machine sleeps",
                "if it is gone, end it",
                _end_command(run),
            )
            continue
        usual = _usual_seconds(api, one)
        seconds = (now - started).total_seconds()
        if usual is not None and seconds > max(_LONG * usual, _LONG_AT_LEAST):
            found.note(
                f"{one.name}: run {run['name']!r} is at work for {about(seconds)}, usual are "
                f"{about(usual)}",
                "see what it does",
                f"pybak logs {run['id']}",
            )


def _end_command(run: Mapping[str, Any]) -> str:
    """Give what ends a run that nobody works on; its slot is given back with it.

    `prefect flow-run cancel` would wait for ever for the process to answer.
    """
    state = "CANCELLED" if run["state"]["type"] == "CANCELLING" else "CRASHED"
    data = json.dumps({"state": {"type": state}}, separators=(",", ":"))
    return f"prefect api POST /flow_runs/{run['id']}/set_state --data '{data}'"


def _last_heartbeat(api: PrefectApi, run_id: str) -> datetime | None:
    resource = f"prefect.flow-run.{run_id}"
    answer = api.post(
        "/events/filter",
        {
            "filter": {
                "event": {"name": [_HEARTBEAT]},
                "resource": {"id": [resource]},
                "order": "DESC",
            },
            "limit": 1,
        },
    )
    events: list[Mapping[str, Any]] = answer["events"]
    return moment(events[0]["occurred"]) if events else None


def _usual_seconds(api: PrefectApi, one: Deployment) -> float | None:
    ended = _newest(api, one, ["COMPLETED"])
    times = [float(run["total_run_time"]) for run in ended if run.get("total_run_time")]
    return statistics.median(times) if times else None


def _past(found: Findings, api: PrefectApi, one: Deployment) -> str:
    """Tell of runs that ended badly; give words about the last one, if it ended well."""
    ended = _newest(api, one, _ENDED)
    if not ended:
        return ""
    kinds = [run["state"]["type"] for run in ended]
    cancelled = _leading(kinds, ("CANCELLED",))
    # One that was cancelled says nothing of those beside it.
    rest = [run for run in ended if run["state"]["type"] != "CANCELLED"]
    bad = _leading([run["state"]["type"] for run in rest], _BAD)
    last = ended[0] if cancelled >= _SOME_CANCELLED or not rest else rest[0]
    why = _message(last)
    if cancelled >= _SOME_CANCELLED:
        found.problem(
            f"{one.name}: the last {cancelled} runs were all cancelled{why}",
            "see slots above; if no slot is lost, runs take longer than their interval",
        )
    elif bad:
        runs = f"the last {bad} runs" if bad > 1 else "the last run"
        runs += "" if last is ended[0] else f" that {'were' if bad > 1 else 'was'} not cancelled"
        found.problem(f"{one.name}: {runs} failed{why}", "see why", f"pybak logs {last['id']}")
    elif last["state"]["name"] == "Partial":
        found.note(
            f"{one.name}: the last run left files out{why}",
            "see which",
            f"pybak logs {last['id']}",
        )
    return f", the last one {ended[0]['state']['name']}"


def _newest(api: PrefectApi, one: Deployment, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    filters = of_deployment(one, state={"type": {"any_": list(kinds)}})
    body = {**filters, "sort": "EXPECTED_START_TIME_DESC", "limit": _LOOKED_AT}
    found: list[Mapping[str, Any]] = api.post("/flow_runs/filter", body)
    return found


def _leading(kinds: Sequence[str], wanted: Sequence[str]) -> int:
    """Count how many of the first are of the wanted kinds."""
    return next((n for n, kind in enumerate(kinds) if kind not in wanted), len(kinds))


def _message(run: Mapping[str, Any]) -> str:
    """Give the reason that a run's last state names, short."""
    text = " ".join(str(run["state"].get("message") or "").split())
    text = text.rstrip(".")
    if len(text) > _MOST_MESSAGE:
        words = text[: _MOST_MESSAGE + 1].rpartition(" ")[0] or text[:_MOST_MESSAGE]
        text = words.rstrip(",;: ") + "…"
    return f" ({text})" if text else ""
