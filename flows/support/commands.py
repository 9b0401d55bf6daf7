"""The commands behind `python flows/NAME.py`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.support.begun import backup_begun, having_begun, restore_begun
from flows.support.interrupt import stop_at_once_on_signal
from flows.support.session import run_flow
from pybak import cli
from pybak.errors import ExitCode, PlanError
from pybak.paths import user_path
from pybak.portable import to_portable
from pybak.storage.opening import is_remote

if TYPE_CHECKING:
    from typing import Any

    from prefect import Flow
    from prefect.client.schemas.objects import State

    from pybak.restore.snapshot import Share


def backup_command() -> int:
    """Run `python flows/backup.py`; give the exit code."""
    return cli.main(cli.backup_command(_backup))


def _backup(request: cli.BackupRequest) -> int:
    from pybak.report.failure import failing_as

    with failing_as(job=request.job, mode=request.options.mode):
        return _plan_backup(request) if request.options.dry_run else _run_backup(request)


def _run_backup(request: cli.BackupRequest) -> int:
    _settled(request.password, request.view, is_new=True)

    def load() -> Flow[..., State[Any]]:
        from flows.backup import backup

        return backup

    also_to = [to_portable(place) for place in request.options.also_to]
    parameters = {
        "sources": [to_portable(str(Path(source).absolute())) for source in request.sources],
        "to": to_portable(request.to) if request.to else None,
        "job": request.job,
        "options": request.options.model_copy(update={"also_to": also_to}),
        "output": to_portable(request.output) if request.output else None,
    }
    stop_at_once_on_signal()
    with backup_begun(parameters):
        report = run_flow(load, parameters, request.view)
    return cli.emit(report, request.view)


def _plan_backup(request: cli.BackupRequest) -> int:
    """Show the plan without Prefect, which would write its own records."""
    if request.password.value is not None:
        cli.warn_if_weak(request.password.value, request.view)
    from flows.support.history import history_to_look_at
    from pybak.backup.catalog_base import JobHistory
    from pybak.backup.run import BackupRun

    with (
        tempfile.TemporaryDirectory(prefix="pybak-plan-") as scratch,
        BackupRun(
            request.sources, output=request.output, to=request.to, job=request.job,
            options=request.options, password=request.password.value, scratch=Path(scratch),
            encrypted=bool(request.password),
        ) as run,
        history_to_look_at(lambda text: cli.print_error(f"warning: {text}")) as history,
    ):  # fmt: skip
        run.choose_base(JobHistory(history, run.job) if history is not None else None)
        kept = run.filter(run.discover())
        summary = run.plan_summary(run.plan(kept), kept)
        return cli.emit(summary, request.view)


def _secret(password: cli.Password) -> bytes | None:
    """Give the password itself, for what is done in this process."""
    if password.block is None:
        return password.value
    from flows.support.passwords import load_password

    return load_password(password.block)


def _settled(password: cli.Password, view: cli.View, *, is_new: bool) -> cli.Password:
    """Ask for the password if need be, and leave it where flow and workers find it.

    With `is_new` it is for an archive that is to be made: asked for twice, and judged.
    """
    settled = password.settled(confirm=is_new)
    if is_new and settled.value is not None:
        cli.warn_if_weak(settled.value, view)
    cli.hand_over(os.environ, settled)
    return settled


def restore_command() -> int:
    """Run `python flows/restore.py`; give the exit code."""
    return cli.main(cli.restore_command(_restore))


def _restore(request: cli.RestoreRequest) -> int:
    from pybak.home import catalog_url
    from pybak.restore.ask import ask

    url = catalog_url()
    # Before a server is started for nothing.
    asked = ask(request.archive, job=request.job, at=request.options.at, catalog_url=url)
    password = _settled(request.password, request.view, is_new=False)
    if request.to is None:
        with asked.kept(url):
            return _restore_to_stdout(
                request, asked.shares(url, request.options), _secret(password)
            )
    if request.options.dry_run:
        from pybak.restore.run import RestoreRun

        with (
            asked.kept(url),
            RestoreRun(asked.shares(url, request.options), request.to, request.options) as run,
        ):
            return cli.emit(run.rehearse(_secret(password)), request.view)

    def load() -> Flow[..., State[Any]]:
        from flows.restore import restore

        return restore

    parameters = {
        "archive": asked.name,
        "to": to_portable(request.to),
        "job": request.job,
        "options": request.options.model_copy(update={"at": None}),
    }
    stop_at_once_on_signal()
    with restore_begun(parameters, asked, password.value):
        report = run_flow(load, parameters, request.view)
    return cli.emit(report, request.view)


def _restore_to_stdout(
    request: cli.RestoreRequest, shares: Sequence[Share], password: bytes | None
) -> int:
    """Write one file to stdout, without Prefect, which would take longer than the file."""
    from pybak.read_run import limits
    from pybak.restore.select import Selector
    from pybak.restore.stream import restore_to_stream

    options = request.options
    selector = Selector(options.include, options.exclude)
    try:
        report = restore_to_stream(
            shares,
            selector,
            cli.binary_stdout(),
            password,
            limits=limits(options.max_ratio, options.max_members),
        )
    except PlanError as error:
        if not selector.unmatched():
            raise
        cli.print_error(str(error))
        return ExitCode.PARTIAL  # as for every include that matches nothing
    if report.exit_code:
        cli.print_error(report.message or report.headline())
    return report.exit_code


def verify_command() -> int:
    """Run `python flows/verify.py`; give the exit code."""
    return cli.main(cli.verify_command(_verify))


def _verify(request: cli.VerifyRequest) -> int:
    from pybak.home import catalog_url
    from pybak.verify.targets import find_targets, lasting_name

    url = catalog_url()
    # Before a server is started for nothing.
    find_targets(request.archives, job=request.job, catalog_url=url)
    names = [lasting_name(one, job=request.job, catalog_url=url) for one in request.archives]
    _settled(request.password, request.view, is_new=False)

    def load() -> Flow[..., State[Any]]:
        from flows.verify import verify

        return verify

    parameters = {
        "archives": names,
        "job": request.job,
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def prune_command() -> int:
    """Run `python flows/prune.py`; give the exit code."""
    return cli.main(cli.prune_command(_prune))


def _prune(request: cli.PruneRequest) -> int:
    from pybak.home import catalog_url
    from pybak.retention.run import PruneRun

    url = catalog_url()
    with PruneRun(request.options, catalog_url=url) as run:
        jobs = run.jobs(request.job)  # before a server is started for nothing
    password = _settled(request.password, request.view, is_new=False)
    if request.options.dry_run:
        with PruneRun(request.options, catalog_url=url, password=_secret(password)) as run:
            return cli.emit(run.rehearse(jobs), request.view)

    def load() -> Flow[..., State[Any]]:
        from flows.prune import prune

        return prune

    parameters = {"job": request.job, "options": request.options}
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def rebuild_command() -> int:
    """Run `python flows/rebuild.py`; give the exit code."""
    return cli.main(cli.rebuild_command(_rebuild))


def _rebuild(request: cli.RebuildRequest) -> int:
    from pybak.home import catalog_url
    from pybak.rebuild.run import RebuildRun

    if request.options.dry_run:
        password = _secret(request.password.settled(confirm=False))
        with RebuildRun(request.destinations, request.options, catalog_url=catalog_url()) as run:
            return cli.emit(run.report(run.read(password), {}), request.view)
    _settled(request.password, request.view, is_new=False)

    def load() -> Flow[..., State[Any]]:
        from flows.rebuild import rebuild

        return rebuild

    parameters = {
        "destinations": [
            to_portable(name if is_remote(name) else str(user_path(name)))
            for name in request.destinations
        ],
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def drill_command() -> int:
    """Run `python flows/drill.py`; give the exit code."""
    return cli.main(cli.drill_command(_drill))


def _drill(request: cli.DrillRequest) -> int:
    from pybak.drill.run import DrillRun
    from pybak.home import catalog_url

    # Before a server is started for nothing.
    with DrillRun(request.job, request.options, catalog_url=catalog_url()):
        pass
    _settled(request.password, request.view, is_new=False)

    def load() -> Flow[..., State[Any]]:
        from flows.drill import drill

        return drill

    parameters = {"job": request.job, "options": request.options}
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def mirror_command() -> int:
    """Run `python flows/mirror.py`; give the exit code."""
    return cli.main(cli.mirror_command(_mirror))


def _mirror(request: cli.MirrorRequest) -> int:
    from pybak.home import catalog_url
    from pybak.mirror.run import MirrorRun

    options = request.options
    # Before a server is started for nothing.
    with MirrorRun(request.source, request.destination, options, job=request.job) as run:
        if options.dry_run:
            return cli.emit(run.rehearse(run.compare()), request.view)
        if run.compare_ahead(catalog_url()):
            with having_begun(run):
                return _run_mirror(request, run.source, run.destination)
    return _run_mirror(request, run.source, run.destination)


def _run_mirror(request: cli.MirrorRequest, source: str, destination: str) -> int:
    def load() -> Flow[..., State[Any]]:
        from flows.mirror import mirror

        return mirror

    parameters = {
        "source": to_portable(source),
        "destination": to_portable(destination),
        "job": request.job,
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def transfer_command() -> int:
    """Run `python flows/transfer.py`; give the exit code."""
    return cli.main(cli.transfer_command(_transfer))


def _transfer(request: cli.TransferRequest) -> int:
    from pybak.home import catalog_url
    from pybak.transfer.find import lasting_names
    from pybak.transfer.run import TransferRun

    url = catalog_url()
    with TransferRun(
        request.archives, request.to, request.options, job=request.job, catalog_url=url
    ) as run:
        sources = run.find()  # before a server is started for nothing
        if request.options.dry_run:
            return cli.emit(run.rehearse(sources), request.view)
        to = run.to
    names = lasting_names(request.archives, sources, job=request.job, catalog_url=url)

    def load() -> Flow[..., State[Any]]:
        from flows.transfer import transfer

        return transfer

    parameters = {
        "archives": [to_portable(name) for name in names],
        "to": to_portable(to),
        "job": request.job,
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)
