"""Remove snapshots that no rule keeps, and the archives that nothing needs any more.

    python flows/prune.py --job documents --keep-daily 7 --keep-monthly 12 --dry-run

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import prune_command
    from flows.support.session import leave

    leave(prune_command())

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.concluded import concluded, keep
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from pybak.catalog.failures import CatalogError
from pybak.catalog.recorder import RunRecorder
from pybak.errors import LockedError, StorageError
from pybak.home import catalog_url
from pybak.options import PruneOptions
from pybak.report import JobPrune, Report
from pybak.retention.run import PruneRun
from pybak.stages import measuring
from tasks._password import password_for
from tasks.delete_archives import delete_archives
from tasks.plan_prune import plan_prune
from tasks.record_metadata import record_metadata

ARTIFACT_KEY = "prune-report"
PRUNING = "pruning"


def _run_name() -> str:
    what = flow_run.parameters.get("job") or "all jobs"
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="prune",
    description="Remove snapshots that no rule keeps, and archives that nothing needs any more.",
    flow_run_name=_run_name,
    persist_result=False,
)
def prune(
    job: str | None = None,
    options: PruneOptions = PruneOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Remove snapshots that no rule keeps, and the archives that nothing needs any more.

    Args:
        job: The job whose snapshots are judged. Empty: all jobs, each by itself.
        options: What to keep; at least one rule must be given.

    """
    return concluded("prune", ARTIFACT_KEY, options, job or "all jobs", lambda: _run(job, options))


def _run(job: str | None, options: PruneOptions) -> Report:
    screen = Screen.current()
    with (
        PruneRun(options, catalog_url=catalog_url(), password=_password(options)) as run,
        stop_on_signal(run.request_cancel),
    ):
        jobs = run.jobs(job)
        if options.dry_run:
            return run.rehearse(jobs)
        if job is not None:
            return run.report([_prune(run, name, screen, alone=True) for name in jobs])
        return run.report([_one_of_many(run, name, screen) for name in jobs])


def _password(options: PruneOptions) -> bytes | None:
    """Give what encrypted archives are consolidated with; nothing else needs it."""
    return password_for(options.password_block) if options.consolidate else None


def _one_of_many(run: PruneRun, job: str, screen: Screen) -> JobPrune:
    """Prune a job as a run of its own, with stages of its own."""
    with measuring() as stages:
        try:
            return _prune(run, job, screen, alone=False)
        finally:
            keep(stages)


def _prune(run: PruneRun, job: str, screen: Screen, *, alone: bool) -> JobPrune:
    run_id = run.run_id if alone else str(uuid4())
    recorder = RunRecorder(
        catalog_url(), run_id, kind="prune", job=job, options=run.options.model_dump(),
        now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    try:
        with failure_recorded(recorder, screen), run.locked(job, screen.waiting):
            screen.phase(PRUNING)
            done = delete_archives(run, plan_prune(run, job))
    except (LockedError, StorageError, CatalogError) as error:
        # One job that is at work, or whose disk is away, must not keep the others.
        if alone:
            raise
        return run.left_alone(job, error)
    record_metadata(recorder, status=done.status, counts=done.counts(), now=datetime.now(UTC))
    return done
