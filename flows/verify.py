"""Check that archives are whole.

    python flows/verify.py backup_20261121_101500.zip

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import verify_command
    from flows.support.session import leave

    leave(verify_command())

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from pybak.catalog.keeping import keep_archives
from pybak.catalog.recorder import RunRecorder
from pybak.home import catalog_url
from pybak.options import VerifyOptions
from pybak.report import ArchiveCheck, Report
from pybak.verify.run import VerifyRun, is_damage
from pybak.verify.targets import UNREADABLE, Target, find_targets
from tasks.check import check
from tasks.plan_verify import plan_verify
from tasks.record_metadata import record_metadata

ARTIFACT_KEY = "verify-report"
VERIFYING = "verifying"


def _run_name() -> str:
    return ", ".join(flow_run.parameters.get("archives") or ["nothing"])


@flow(
    name="verify",
    description="Read archives through and check every member.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def verify(
    archives: list[str],
    job: str | None = None,
    options: VerifyOptions = VerifyOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Read archives through and check every member: structure, checksums, SHA-256.

    Args:
        archives: Paths of archives; ids of runs or "latest" for all archives that a backup needs.
        job: The job whose latest backup is meant.
        options: How the check is made.

    """
    return concluded(
        "verify", ARTIFACT_KEY, options, job or ", ".join(archives),
        lambda: _run(archives, job, options),
    )  # fmt: skip


def _run(archives: list[str], job: str | None, options: VerifyOptions) -> Report:
    found = find_targets(archives, job=job, catalog_url=catalog_url())
    there = [one.volumes for one in found if one.volumes is not None]
    screen = Screen.current()
    with (
        keep_archives(there, catalog_url=catalog_url()),
        VerifyRun(options, catalog_url=catalog_url()) as run,
        stop_on_signal(run.request_cancel),
    ):
        return _verify(run, found, job or ", ".join(archives), screen)


def _verify(run: VerifyRun, targets: list[Target], what: str, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="verify", job=what,
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    with failure_recorded(recorder, screen):
        report = run.report(
            [
                run.unreadable(one.name, number, one.trouble)
                if one.trouble is not None
                else _check(run, one, number, screen, alone=len(targets) == 1)
                for number, one in enumerate(targets)
            ]
        )
    record_metadata(
        recorder, status=report.status, now=datetime.now(UTC),
        counts={
            "archives": len(report.archives),
            "damaged": sum(len(done.damaged) for done in report.archives),
        },
    )  # fmt: skip
    return report


def _check(
    run: VerifyRun, target: Target, number: int, screen: Screen, *, alone: bool
) -> ArchiveCheck:
    run.check_cancelled()
    archive = target.volumes
    assert archive is not None
    try:
        plan = plan_verify(run, archive, number, target.run_id)
    except UNREADABLE as error:
        # One archive that can't be read at all must not keep the others from being checked.
        if alone and not is_damage(error):
            raise
        return run.unreadable(archive, number, error)
    folder = run.work_folder(number)
    screen.working(VERIFYING, folder, files=plan.to_read, size_bytes=plan.size)
    calls = [
        {
            "staging": run.staging, "folder": folder,
            "name": f"{number:02d}-{index:03d}", "batch": batch,
            "password_block": run.options.password_block,
        }
        for index, batch in enumerate(plan.batches)
    ]  # fmt: skip
    results = fan_out(
        check, calls, cluster=run.cluster(plan), workers=run.workers,
        on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
    )  # fmt: skip
    run.check_cancelled()
    return run.check(archive, number, plan, results)
