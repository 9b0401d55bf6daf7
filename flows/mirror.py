"""Copy a tree to another place in parallel, and keep the copy like it.

    python flows/mirror.py ~/Pictures /mnt/disk/Pictures --delete

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import mirror_command
    from flows.support.session import leave

    leave(mirror_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.begun import mirror_run
from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from pybak.catalog.recorder import RunRecorder
from pybak.home import catalog_url
from pybak.mirror.account import Outcome
from pybak.mirror.plan import MirrorPlan
from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions
from pybak.portable import from_portable
from pybak.progress_line import COPYING, FINISHING, SCANNING
from pybak.report import Report
from tasks.compare_trees import compare_trees
from tasks.finish_mirror import finish_mirror
from tasks.mirror_files import mirror_files
from tasks.record_metadata import record_metadata

ARTIFACT_KEY = "mirror-report"


def _run_name() -> str:
    given = flow_run.parameters
    what = given.get("job") or f"{given.get('source')} to {given.get('destination')}"
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="mirror",
    description="Copy a tree to another place in parallel, and keep the copy like it.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def mirror(
    source: str,
    destination: str,
    job: str | None = None,
    options: MirrorOptions = MirrorOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Copy a tree to another place in parallel, and keep the copy like it.

    Args:
        source: The folder whose content is copied, or one file, on the machine that runs the flow.
        destination: The folder that gets it; it is made if missing.
        job: What this mirror is called in the history. Empty: the destination.
        options: What is copied and how.

    """
    return concluded(
        "mirror", ARTIFACT_KEY, options, job or f"{source} to {destination}",
        lambda: _run(from_portable(source), from_portable(destination), job, options),
    )  # fmt: skip


def _run(source: str, destination: str, job: str | None, options: MirrorOptions) -> Report:
    screen = Screen.current()
    with (
        mirror_run(source, destination, options, job=job) as run,
        stop_on_signal(run.request_cancel),
    ):
        if options.dry_run:
            return run.rehearse(run.compare(screen.scanned))
        with run.locked(catalog_url(), screen.waiting, screen.warn):
            return _mirror(run, screen)


def _mirror(run: MirrorRun, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="mirror", job=run.job,
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    with failure_recorded(recorder, screen):
        screen.phase(SCANNING)
        plan = compare_trees(run, screen.scanned)
        outcomes = [] if plan.is_nothing else _copy(run, plan, screen)
        report = run.report(plan, outcomes)
    record_metadata(recorder, status=report.status, counts=report.counts(), now=datetime.now(UTC))
    return report


def _copy(run: MirrorRun, plan: MirrorPlan, screen: Screen) -> list[Outcome]:
    """Do what the plan says: the copies side by side, then all that must come after them."""
    run.prepare(plan)
    screen.working(COPYING, run.staging, files=plan.files, size_bytes=plan.size)
    calls = [
        {"staging": run.staging, "name": f"{number:04d}", "hand": hand}
        for number, hand in enumerate(plan.hands)
    ]
    outcomes = fan_out(
        mirror_files, calls, cluster=run.cluster(plan), workers=run.workers,
        on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
    )  # fmt: skip
    run.check_cancelled()
    screen.phase(FINISHING)
    return [*outcomes, finish_mirror(run, plan, outcomes)]
