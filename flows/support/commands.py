"""The commands behind `python flows/NAME.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.support.session import run_flow
from pybak import cli
from pybak.portable import to_portable

if TYPE_CHECKING:
    from typing import Any

    from prefect import Flow
    from prefect.client.schemas.objects import State


def backup_command() -> int:
    """Run `python flows/backup.py`; give the exit code."""
    return cli.main(cli.backup_command(_backup))


def _backup(request: cli.BackupRequest) -> int:
    if request.options.dry_run:
        return _plan_backup(request)

    def load() -> Flow[..., State[Any]]:
        from flows.backup import backup

        return backup

    report = run_flow(
        load,
        {
            "sources": [to_portable(str(Path(source).absolute())) for source in request.sources],
            "to": to_portable(request.to) if request.to else None,
            "job": request.job,
            "options": request.options,
            "output": to_portable(request.output) if request.output else None,
        },
        request.view,
    )
    return cli.emit(report, request.view)


def _plan_backup(request: cli.BackupRequest) -> int:
    """Show the plan without Prefect, which would write its own records."""
    from pybak.backup.run import BackupRun

    with (
        tempfile.TemporaryDirectory(prefix="pybak-plan-") as scratch,
        BackupRun(
            request.sources, output=request.output, to=request.to, job=request.job,
            options=request.options, scratch=Path(scratch),
        ) as run,
    ):  # fmt: skip
        kept = run.filter(run.discover())
        summary = run.plan_summary(run.plan(kept), kept)
        return cli.emit(summary, request.view)


def restore_command() -> int:
    """Run `python flows/restore.py`; give the exit code."""
    return cli.main(cli.restore_command(_restore))


def _restore(request: cli.RestoreRequest) -> int:
    archive = _archive(request.archive, request.job)
    if request.options.dry_run:
        from pybak.restore.run import RestoreRun

        with RestoreRun(archive, request.to, request.options) as run:
            return cli.emit(run.rehearse(), request.view)

    def load() -> Flow[..., State[Any]]:
        from flows.restore import restore

        return restore

    parameters = {
        "archive": to_portable(str(archive)),
        "to": to_portable(request.to),
        "job": request.job,
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def verify_command() -> int:
    """Run `python flows/verify.py`; give the exit code."""
    return cli.main(cli.verify_command(_verify))


def _verify(request: cli.VerifyRequest) -> int:
    archives = [_archive(archive, request.job) for archive in request.archives]

    def load() -> Flow[..., State[Any]]:
        from flows.verify import verify

        return verify

    parameters = {
        "archives": [to_portable(str(archive)) for archive in archives],
        "job": request.job,
        "options": request.options,
    }
    return cli.emit(run_flow(load, parameters, request.view), request.view)


def _archive(which: str, job: str | None) -> Path:
    """Find the archive before a server is started for nothing."""
    from pybak.home import catalog_url
    from pybak.locate import locate_archive

    return locate_archive(which, job=job, catalog_url=catalog_url())
