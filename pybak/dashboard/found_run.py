"""A run as it was found: in the catalog, with the orchestrator, or in both. How it stands there."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias

from pybak.api.services import ENDED, StartedRun
from pybak.display import printable
from pybak.overview.facts import RunDetails

_SETTLE_SECONDS: Final = 10.0
"""How long after its end a run is looked at: its last log lines and its report come late."""

FoundRun: TypeAlias = tuple[RunDetails | None, StartedRun | None]
"""What the catalog and what the orchestrator know of one run; one of them may know nothing."""


def title(found: FoundRun) -> str:
    """Name the run for people: its kind and its job."""
    run, started = found
    job = run.summary.job if run else started.job if started else None
    kind = run.summary.kind if run else started.kind if started else "run"
    if job and job.startswith(f"{kind} "):  # an inbox is called so
        return f"{kind.capitalize()} {printable(job.removeprefix(kind).lstrip())}"
    return f"{kind.capitalize()} of {printable(job)}" if job else kind.capitalize()


def is_over(found: FoundRun) -> bool:
    """Whether it has ended, with all that comes after the work."""
    run, started = found
    if started is not None:
        return started.state in ENDED
    return run is not None and run.summary.status != "running"


def is_settled(found: FoundRun, now: datetime) -> bool:
    """Whether a run is over, and all that it has to tell has come."""
    run, started = found
    ended = started.finished_at if started else run.summary.finished_at if run else None
    is_old = ended is None or (now - ended).total_seconds() > _SETTLE_SECONDS
    return is_over(found) and is_old


def is_finishing(found: FoundRun) -> bool:
    """Whether all is written, but reports and notices are still being sent."""
    run, _ = found
    return run is not None and run.summary.status != "running" and not is_over(found)


def flow_run(found: FoundRun) -> str | None:
    """Give the id of its flow run; None if it ran without Prefect's server."""
    run, started = found
    if started is not None:
        return started.flow_run_id
    return run.summary.flow_run if run else None


def status(found: FoundRun) -> str:
    """Give the word for its state, as `pybak.dashboard.words` knows it."""
    run, started = found
    if is_finishing(found):
        return "finishing"
    if run is not None and (started is None or started.state in ENDED | {"running"}):
        return run.summary.status
    return started.state if started else "running"
