"""Back up folders into one archive.

    python flows/backup.py ~/Documents --to /mnt/backups

A Prefect flow and a command. The flow is also what deployments run; its parameters are the form
in the Prefect UI.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    # The command starts a Prefect server before Prefect itself is imported, and imports this
    # module by its name, so that workers find its tasks by reference.
    from flows.support.commands import backup_command
    from flows.support.session import leave

    leave(backup_command())

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec.structs import replace
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.begun import begun_backup
from flows.support.cluster import dask_runner
from flows.support.concluded import concluded
from flows.support.fan_out import fan_out
from flows.support.history import history_to_look_at
from flows.support.interrupt import stop_on_signal
from flows.support.locks import job_locked
from flows.support.record import failure_recorded
from flows.support.resolved import check_resolved
from flows.support.screen import Screen
from flows.support.side_by_side import side_by_side
from pybak.backup.assemble import Assembly
from pybak.backup.catalog_base import JobHistory
from pybak.backup.filter import Filtered
from pybak.backup.hands import Hand
from pybak.backup.plan import BackupPlan
from pybak.backup.record import collecting, earlier_archives, write_backup
from pybak.backup.run import BackupRun
from pybak.backup.sources import resolve_sources
from pybak.catalog.collected import CollectedVersions
from pybak.catalog.failures import CatalogError
from pybak.catalog.history import History
from pybak.catalog.recorder import RunRecorder
from pybak.clusters import DIRECT
from pybak.display import escape
from pybak.home import catalog_url
from pybak.options import BackupOptions
from pybak.portable import from_portable
from pybak.progress_line import COMPRESSING, COPYING, FINISHING, SCANNING, WRITING
from pybak.report import BackupReport, Report
from tasks._password import password_for
from tasks.compress import compress
from tasks.compress_far import compress_far
from tasks.copy_archive import copy_archive
from tasks.discover import discover
from tasks.encrypt import encrypt
from tasks.filter import filter_files
from tasks.plan import plan_batches
from tasks.record_copies import record_copies
from tasks.record_metadata import record_metadata
from tasks.split import split
from tasks.upload import upload

ARTIFACT_KEY = "backup-report"
NOT_SENT_BY_WORKERS = (
    "workers can't send this archive by themselves (for that it must be one plain file without "
    "--bandwidth-limit), so each must see this host's PYBAK_HOME, or a folder named by --staging"
)


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
    return concluded(
        "backup", ARTIFACT_KEY, options, job or ", ".join(map(from_portable, sources)),
        lambda: _run(sources, to, job, options, output),
    )  # fmt: skip


def _run(
    sources: list[str], to: str | None, job: str | None, options: BackupOptions, output: str | None
) -> Report:
    check_resolved(flow_run.tags, {"sources": sources, "to": to, "output": output})
    with ExitStack() as stack:
        screen = Screen.current()
        begun = begun_backup(sources=sources, to=to, job=job, options=options, output=output)
        if begun is not None:
            if begun.lock.problem:
                screen.warn(begun.lock.problem)
            run = stack.enter_context(begun.run)
            stack.enter_context(stop_on_signal(run.request_cancel))
            return _back_up(run, screen)
        found = resolve_sources(
            [from_portable(source) for source in sources], files_from=options.files_from
        )
        scratch = lock = None
        if options.dry_run:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="pybak-plan-")))
        else:
            lock = stack.enter_context(job_locked(found.job(job), options, screen))
        run = stack.enter_context(
            BackupRun(
                found,
                output=from_portable(output) if output else None,
                to=from_portable(to) if to else None,
                job=job,
                options=options,
                password=password_for(options.password_block),
                scratch=scratch,
            )
        )
        if lock is not None:
            lock.note_run(run.run_id)
        stack.enter_context(stop_on_signal(run.request_cancel))
        make = _plan_only if options.dry_run else _back_up
        return make(run, screen)


def _plan_only(run: BackupRun, screen: Screen) -> Report:
    with history_to_look_at(screen.warn) as history:
        plan, kept = _compare(run, history, screen)
        return run.plan_summary(plan, kept)


def _back_up(run: BackupRun, screen: Screen) -> Report:
    recorder = RunRecorder(
        catalog_url(), run.run_id, kind="backup", job=run.job,
        options=run.options.model_dump(), now=run.started_at, flow_run=flow_run.id,
    )  # fmt: skip
    run.seq = recorder.seq
    for copy in run.copies.troubles():
        told = escape(f"{copy.message}; so the backup goes on without this copy")
        get_run_logger().warning("%s", told)
        screen.warn(told)
    write: Callable[..., object] | None = None
    with failure_recorded(recorder, screen):
        plan, kept = _compare(run, recorder.history, screen)
        if run.is_unchanged:
            report = run.unchanged_report(kept)
        else:
            with collecting(run, plan) as collected:
                report, assembly = _save(run, plan, kept, screen, collected)
            write = partial(
                write_backup, run=run, report=report, assembly=assembly, collected=collected
            )
    record_metadata(
        recorder, status=report.status, counts=report.files.to_json(), now=datetime.now(UTC),
        archive=report.archive, write=write,
    )  # fmt: skip
    if run.copies and not run.is_unchanged:
        report = _copy(run, report, screen)
        if not recorder.problem:
            record_copies(report)
            report = _with_lacking(run, report)
    return report


def _compare(
    run: BackupRun, history: History | None, screen: Screen
) -> tuple[BackupPlan, Filtered]:
    """Find what is there, and what of it is to be saved; without a history, all of it."""
    screen.phase(SCANNING)
    try:
        run.choose_base(JobHistory(history, run.job) if history is not None else None)
        kept = filter_files(run, discover(run, screen.scanned))
        plan = plan_batches(run, kept)
    except CatalogError as error:
        screen.warn(f"{error}; so this is a full backup")
        run.choose_base(None)
        kept = filter_files(run, discover(run, screen.scanned))
        plan = plan_batches(run, kept)
    run.check_cancelled()
    return plan, kept


def _save(
    run: BackupRun,
    plan: BackupPlan,
    kept: Filtered,
    screen: Screen,
    collected: CollectedVersions | None,
) -> tuple[BackupReport, Assembly]:
    """Write the archive that the plan is for."""
    with run.assembling(collected.add if collected is not None else None) as archive:
        screen.working(COMPRESSING, plan.staging, files=plan.files, size_bytes=plan.bytes)
        _compress(run, plan, screen)
        archive.check()
        run.check_cancelled()
        screen.phase(FINISHING)
        assembly = archive.finish(run.header(), run.owner_names(), run.conclude(kept))
    count = _write_volumes(run, plan, assembly, screen)
    run.check_cancelled()
    stored = upload(run, assembly, count)
    return run.report(kept=kept, assembly=assembly, stored=stored), assembly


def _compress(run: BackupRun, plan: BackupPlan, screen: Screen) -> None:
    """Have all batches compressed."""
    block = run.options.password_block
    how: dict[str, Any] = {
        "cluster": plan.cluster, "workers": plan.workers, "on_failure": run.request_cancel,
        "is_stopping": run.is_stopping, "screen": screen,
    }  # fmt: skip
    if run.needs_shared_staging and plan.hands:
        screen.warn(NOT_SENT_BY_WORKERS)
    if not run.is_far:
        fan_out(compress, _calls(plan, block), **how)
        return
    calls = [
        {"parcel": run.parcel(hand), "name": f"{number:03d}", "password_block": block}
        for number, hand in enumerate(plan.hands)
    ]
    fan_out(
        compress_far, calls, **how,
        on_result=lambda number, record: run.take_in(plan.hands[number].start, record),
    )  # fmt: skip


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


def _copy(run: BackupRun, report: BackupReport, screen: Screen) -> BackupReport:
    """Copy the archive, which is published and recorded, to the further places."""
    count = len(run.copies.places) - len(run.copies.troubles())
    screen.working(
        COPYING, run.copying, files=count * len(report.volumes),
        size_bytes=count * report.bytes_stored,
    )  # fmt: skip
    calls = [
        {"run": run, "report": report, "number": number} for number in range(len(run.copies.places))
    ]
    copies = side_by_side(copy_archive, calls)
    screen.phase(FINISHING)
    return run.with_copies(report, copies)


def _with_lacking(run: BackupRun, report: BackupReport) -> BackupReport:
    """Tell of the copies that are of no use without archives that are not in their place."""
    try:
        needed = earlier_archives(catalog_url(), run.run_id)
    except CatalogError:  # whoever recorded the copies has told
        return report
    return replace(report, copies=run.copies.with_lacking(report.copies, needed))


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
