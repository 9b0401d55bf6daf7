"""Back up folders into one archive.

    python flows/backup.py ~/Documents --to /mnt/backups

A Prefect flow and a command. The flow is also what deployments run; its parameters are the form
in the Prefect UI.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C just ends it
    # The command starts a Prefect server before Prefect itself is imported, and imports this
    # module by its name, so that workers find its tasks by reference.
    from flows.support.commands import backup_command
    from flows.support.session import leave

    leave(backup_command())

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.cluster import dask_runner
from flows.support.fan_out import fan_out
from flows.support.interrupt import stop_on_signal
from flows.support.record import failure_recorded
from flows.support.screen import Screen
from flows.support.states import error_state, final_state
from pybak.backup.assemble import Assembly
from pybak.backup.plan import DIRECT, BackupPlan, Hand
from pybak.backup.run import BackupRun
from pybak.catalog.recorder import RunRecorder
from pybak.errors import PyBakError
from pybak.home import catalog_url
from pybak.options import BackupOptions
from pybak.portable import from_portable
from pybak.progress import COMPRESSING, FINISHING, SCANNING, WRITING
from pybak.report import Report
from tasks._password import password_for
from tasks.compress import compress
from tasks.discover import discover
from tasks.email_report import email_report
from tasks.encrypt import encrypt
from tasks.filter import filter_files
from tasks.plan import plan_batches
from tasks.record_metadata import record_metadata
from tasks.split import split
from tasks.upload import upload

ARTIFACT_KEY = "backup-report"


def _run_name() -> str:
    given = flow_run.parameters
    what = given.get("job") or ", ".join(given.get("sources") or ["nothing"])
    return f"{what} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


@flow(
    name="backup",
    description="Back up folders into one archive that any tool opens.",
    flow_run_name=_run_name,
    task_runner=dask_runner(),
    persist_result=False,
)
def backup(
    sources: list[str],
    to: str | None = None,
    job: str | None = None,
    options: BackupOptions = BackupOptions(),  # noqa: B008 - Prefect shows it as the default
    output: str | None = None,
) -> State[Any]:
    """Back up folders into one archive.

    Args:
        sources: Folders and files to back up, as paths on the machine that runs the flow.
        to: The folder to put the archive in; it is made if missing. Empty: the current folder.
        job: A name for this backup; archives are named after it and its runs form a history.
        options: How the backup is made and what it takes.
        output: The archive's own path, instead of a folder and a name made from the time.

    """
    try:
        with ExitStack() as stack:
            scratch = None
            if options.dry_run:
                scratch = Path(stack.enter_context(TemporaryDirectory(prefix="pybak-plan-")))
            run = stack.enter_context(
                BackupRun(
                    [from_portable(source) for source in sources],
                    output=from_portable(output) if output else None,
                    to=from_portable(to) if to else None,
                    job=job,
                    options=options,
                    password=password_for(options.password_block),
                    scratch=scratch,
                )
            )
            stack.enter_context(stop_on_signal(run.request_cancel))
            screen = stack.enter_context(Screen.current())
            make = _plan_only if options.dry_run else _back_up
            return final_state(make(run, screen))
    except PyBakError as error:
        get_run_logger().error("%s", error)
        return error_state(error)


def _plan_only(run: BackupRun, screen: Screen) -> Report:
    found = discover(run, screen.scanned)
    kept = filter_files(run, found)
    plan = plan_batches(run, kept)
    summary = run.plan_summary(plan, kept)
    email_report(ARTIFACT_KEY, summary)
    return summary


def _back_up(run: BackupRun, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="backup", job=run.job,
        options=run.options.model_dump(), now=run.started_at,
    )  # fmt: skip
    with failure_recorded(recorder, screen):
        screen.phase(SCANNING)
        found = discover(run, screen.scanned)
        kept = filter_files(run, found)
        plan = plan_batches(run, kept)
        run.check_cancelled()
        with run.assembling() as archive:
            screen.working(COMPRESSING, plan.staging, files=plan.files, size_bytes=plan.bytes)
            fan_out(
                compress, _calls(plan, run.options.password_block), cluster=plan.cluster,
                workers=plan.workers, on_failure=run.request_cancel, is_stopping=run.is_stopping,
                screen=screen,
            )  # fmt: skip
            archive.check()
            run.check_cancelled()
            screen.phase(FINISHING)
            assembly = archive.finish(run.header(), run.owner_names(kept))
        count = _write_volumes(run, plan, assembly, screen)
        run.check_cancelled()
        stored = upload(run, assembly, count)
        report = run.report(plan=plan, kept=kept, assembly=assembly, stored=stored)
    record_metadata(
        recorder, status=report.status, counts=report.files.to_json(), now=datetime.now(UTC),
        archive=report.archive,
    )  # fmt: skip
    email_report(ARTIFACT_KEY, report)
    return report


def _write_volumes(run: BackupRun, plan: BackupPlan, assembly: Assembly, screen: Screen) -> int:
    """Write the files of an archive that is cut or wrapped; give how many."""
    run.check_cancelled()
    count = run.cut(assembly)
    if count:
        cluster, hands = run.volume_hands(count, plan, assembly.size)
        screen.working(WRITING, run.staging / "volumes", files=count, size_bytes=assembly.size)
        calls = [
            {"name": f"{number:03d}", **run.volume_call(hand, cluster)}
            for number, hand in enumerate(hands)
        ]
        if run.is_wrapped:
            calls = [{**call, "password_block": run.options.password_block} for call in calls]
        fan_out(
            encrypt if run.is_wrapped else split, calls, cluster=cluster, workers=plan.workers,
            on_failure=run.request_cancel, is_stopping=run.is_stopping, screen=screen,
        )  # fmt: skip
        screen.phase(FINISHING)
    return count


def _calls(plan: BackupPlan, password_block: str | None) -> list[dict[str, Any]]:
    """Give the arguments of each compress task."""
    hands = plan.hands
    if plan.cluster == DIRECT and hands:
        hands = (Hand(0, plan.batches, 1),)
    return [
        {
            "staging": plan.staging, "name": f"{number:03d}",
            "start": hand.start, "stop": hand.stop, "step": hand.step,
            "password_block": password_block,
        }
        for number, hand in enumerate(hands)
    ]  # fmt: skip
