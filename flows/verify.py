"""Check that archives are whole.

    python flows/verify.py backup_20261121_101500.zip

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C just ends it
    from flows.support.commands import verify_command
    from flows.support.session import leave

    leave(verify_command())

from datetime import UTC, datetime
from typing import Any, NamedTuple

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.cluster import dask_runner
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from flows.support.states import error_state, final_state
from pybak.catalog.keeping import keep_archives
from pybak.catalog.recorder import RunRecorder
from pybak.errors import PyBakError
from pybak.home import catalog_url
from pybak.locate import locate_archive
from pybak.options import VerifyOptions
from pybak.portable import from_portable
from pybak.read_run import name_of
from pybak.report import ArchiveCheck, Report
from pybak.verify.run import UNREADABLE, VerifyRun, is_damage
from pybak.volumes.find import VolumeSet
from tasks.check import check
from tasks.email_report import email_report
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
        archives: Paths of archives, ids of the runs that made them, or "latest".
        job: The job whose latest archive is meant.
        options: How the check is made.

    """
    try:
        found = [_locate(name, job, alone=len(archives) == 1) for name in archives]
        there = [one for one in found if isinstance(one, VolumeSet)]
        with (
            keep_archives(there, catalog_url=catalog_url()),
            VerifyRun(options, catalog_url=catalog_url()) as run,
            stop_on_signal(run.request_cancel),
            Screen.current() as screen,
        ):
            return final_state(_verify(run, found, job, screen))
    except PyBakError as error:
        get_run_logger().error("%s", error)
        return error_state(error)


class _Lost(NamedTuple):
    """An archive that could not be found, as it was named, and why."""

    name: str
    error: PyBakError


def _locate(name: str, job: str | None, *, alone: bool) -> VolumeSet | _Lost:
    name = from_portable(name)
    try:
        return locate_archive(name, job=job, catalog_url=catalog_url())
    except UNREADABLE as error:
        # One that can't be found must not keep the others from being checked.
        if alone:
            raise
        return _Lost(name, error)


def _verify(
    run: VerifyRun, archives: list[VolumeSet | _Lost], job: str | None, screen: Screen
) -> Report:
    names = ", ".join(one.name if isinstance(one, _Lost) else name_of(one) for one in archives)
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="verify", job=job or names,
        options=run.options.model_dump(), now=run.started_at,
    )  # fmt: skip
    with failure_recorded(recorder, screen):
        report = run.report(
            [
                run.unreadable(one.name, number, one.error)
                if isinstance(one, _Lost)
                else _check(run, one, number, screen, alone=len(archives) == 1)
                for number, one in enumerate(archives)
            ]
        )
    record_metadata(
        recorder, status=report.status, now=datetime.now(UTC),
        counts={
            "archives": len(report.archives),
            "damaged": sum(len(done.damaged) for done in report.archives),
        },
    )  # fmt: skip
    email_report(ARTIFACT_KEY, report)
    return report


def _check(
    run: VerifyRun, archive: VolumeSet, number: int, screen: Screen, *, alone: bool
) -> ArchiveCheck:
    run.check_cancelled()
    try:
        plan = plan_verify(run, archive, number)
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
