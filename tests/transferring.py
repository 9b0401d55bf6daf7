"""Transfers by the engine alone, as the flow does them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts
from pybak.catalog.history import History
from pybak.locate import names_of
from pybak.options.transfer import TransferOptions
from pybak.report.transfer import TransferReport
from pybak.transfer.run import TransferRun


def transfer(
    url: str, *names: str | Path, to: str | Path, job: str | None = None, **options: Any
) -> TransferReport:
    """Do what the flow does."""
    with TransferRun(
        [os.fspath(name) for name in names], os.fspath(to), TransferOptions(**options), job=job,
        catalog_url=url,
    ) as run:  # fmt: skip
        if run.options.dry_run:
            return run.rehearse(run.find())
        with run.locked(run.find()):
            sources = run.find()
            run.prepare()
            return run.report([run.transfer(one, at) for at, one in enumerate(sources)])


def archives_of(url: str, job: str = "docs") -> list[ArchiveFacts]:
    database = Database(url)
    try:
        return History(database).archives_of_job(job)
    finally:
        database.close()


def places_of(url: str, job: str = "docs") -> list[tuple[str, ...]]:
    """Give where each archive of a job can be read."""
    return [names_of(one) for one in archives_of(url, job)]
