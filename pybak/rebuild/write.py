"""Write what manifests say into a catalog: the rows that the runs themselves wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlmodel import SQLModel, col

from pybak.catalog.copies import StoredCopy
from pybak.catalog.models import Job, ProcessedFile, Run
from pybak.catalog.rows import stream
from pybak.catalog.runs import RUNNING
from pybak.catalog.snapshots import (
    FULL,
    SnapshotEnd,
    StoredArchive,
    add_errors,
    add_leaving,
    in_utc,
    job_number,
    write_snapshot,
)
from pybak.entries import FOLDER
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_lines import manifest_lines
from pybak.problems import STORAGE
from pybak.rebuild.manifests import Found
from pybak.rebuild.order import Step
from pybak.report.backup import RUN_DIGITS
from pybak.report.status import PARTIAL
from pybak.units import format_count
from pybak.volumes.model import Volume

_CHECK_EVERY: Final = 1000


def count_runs(connection: Connection) -> int:
    """Give how many runs a catalog knows."""
    return int(connection.execute(select(func.count()).select_from(Run)).scalar_one())


def clear(connection: Connection) -> None:
    """Delete what a catalog holds, within the caller's transaction.

    What inboxes did stays, with the names of their jobs: archives don't tell it.
    """
    inboxes = ProcessedFile.__table__, Job.__table__  # type: ignore[attr-defined]
    for table in reversed(SQLModel.metadata.sorted_tables):
        if table not in inboxes:
            connection.execute(table.delete())
    named = select(col(ProcessedFile.job_id))
    connection.execute(delete(Job).where(col(Job.id).not_in(named)))


def write_step(
    connection: Connection,
    step: Step,
    volumes: Mapping[bytes, Volume],
    check: Callable[[], object] = lambda: None,
) -> str | None:
    """Record one run with its archive and its snapshot, within the caller's transaction.

    `check` is called now and then, and raises to stop it. Gives what its snapshot lacks, in a
    sentence, if an archive that it needs is lost; it then counts as partial, with the same
    sentence as an error.
    """
    archive = step.archive
    head = archive.head
    connection.execute(
        insert(Run).values(
            run_id=head.run_id, seq=step.seq, kind="backup", job=head.job, status=RUNNING,
            started_at=in_utc(archive.created), options={}, counts={}, tags=[], is_snapshot=False,
        )
    )  # fmt: skip
    for one in archive.replaced:
        add_leaving(connection, head.run_id, head.job, _stored(one, volumes))
    end = SnapshotEnd(
        run_id=head.run_id, job=head.job, seq=step.seq, status=archive.status,
        mode=head.mode or FULL, base_run=head.base_run,
        base_seq=step.base.seq if step.base is not None else None, full_run=archive.full_run,
        finished_at=None, counts=archive.counts, tags=head.tags, errors=archive.errors,
    )  # fmt: skip
    with manifest_lines(archive.manifest) as lines:
        records = _checked(lines.members(), check)
        write_snapshot(
            connection, end, _stored(archive, volumes), records, lines.gone(), lines.references()
        )
    lost = _lost(connection, step)
    if lost is not None:
        _note(connection, step, lost)
    return lost


def _stored(one: Found, volumes: Mapping[bytes, Volume]) -> StoredArchive:
    return StoredArchive(
        name=one.name, format=one.head.format, encrypted=one.encrypted, members=one.members,
        created_at=one.created, volumes=[volumes[path] for path in one.volumes.paths],
        copies=[
            StoredCopy(name=copy.name, volumes=[volumes[path] for path in copy.volumes.paths])
            for copy in one.copies
        ],
    )  # fmt: skip


def _checked(records: Iterator[FullFact], check: Callable[[], object]) -> Iterator[FullFact]:
    for number, record in enumerate(records):
        if not number % _CHECK_EVERY:
            check()
        yield record


def _lost(connection: Connection, step: Step) -> str | None:
    """Say what a snapshot lacks, told by the archives that it needs and the files it counted."""
    archive = step.archive
    if archive.is_full:
        return None
    counted = sum(archive.counts.get(name, 0) for name in ("new", "changed", "unchanged"))
    statement = (
        "SELECT COUNT(*) FROM file_version WHERE job_id = ? AND gone_seq IS NULL AND kind <> ?"
    )
    job_id = job_number(connection, archive.head.job)
    ((there,),) = stream(connection, statement, (job_id, FOLDER))
    why = "an archive that it needs is lost"
    if step.missing:
        first, more = step.missing[0][:RUN_DIGITS], len(step.missing) - 1
        also = f" and of {format_count(more, 'other run')}" if more else ""
        why = f"the archive of run {first}{also}, which it needs, is not there"
    if there < counted:
        return (
            f"{format_count(counted - there, 'file')} of {format_count(counted, 'file')} can't be "
            f"restored from this run: {why}"
        )
    if step.missing:
        some = "some files are older than this run, or lacking"
        return f"{some if step.base is not None else 'only what it changed is there'}: {why}"
    if step.base is None and archive.head.bases is None:
        return "the full backup that this run goes back to is lost; what it changed is there"
    return None


def _note(connection: Connection, step: Step, lost: str) -> None:
    """Have a run count as partial, for a reason."""
    run_id = step.archive.head.run_id
    add_errors(connection, run_id, [(step.archive.name, STORAGE, lost)])
    connection.execute(update(Run).where(col(Run.run_id) == run_id).values(status=PARTIAL))
