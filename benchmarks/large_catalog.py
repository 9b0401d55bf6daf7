"""Catalogs of any size, made in bulk: what years of runs would leave.

`fill` writes rows, not archives. Its jobs back up folders of the same shape; every version lies in
an archive, and every snapshot but the pruned ones can be read. What a number of runs and versions
comes to is always the same, so that figures can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import insert

from pybak.catalog.engine import Database
from pybak.catalog.models import Archive, FileError, Run, Verification, Volume
from pybak.catalog.rows import by_name, execute, execute_many, insert_versions, is_postgres
from pybak.catalog.snapshots import job_number

_FOLDERS = ("reports", "photos", "letters", "music", "source", "mail")
_ENDINGS = ("txt", "odt", "jpg", "pdf", "py", "eml")
_CHUNK = 2000
_EVERY = timedelta(hours=2)


class Size(NamedTuple):
    """How much is made. A job's first snapshot has half of its versions, changes the rest."""

    runs: int
    versions: int
    jobs: int


def job_name(number: int) -> str:
    """Give the name of a job."""
    return f"documents-{number:03d}"


def fill(database: Database, size: Size, *, now: datetime) -> None:
    """Fill an empty catalog; the newest run of each job ended shortly before `now` (aware)."""
    runs = size.runs // size.jobs
    versions = size.versions // size.jobs
    for number in range(size.jobs):
        _fill_job(database, number, runs, versions, now)
    with database.transaction() as connection:
        execute(connection, "ANALYZE" if is_postgres(connection) else "SELECT 1")


def _fill_job(database: Database, number: int, runs: int, versions: int, now: datetime) -> None:
    name = job_name(number)
    first = versions // 2
    changed = (versions - first) // max(runs - 1, 1)
    begin = now - _EVERY * runs
    with database.transaction() as connection:
        job = job_number(connection, name)
        rows: list[dict[str, Any]] = []
        archives: list[dict[str, Any]] = []
        for seq in range(1, runs + 1):
            run_id = _run_id(name, seq)
            started = begin + _EVERY * seq - timedelta(minutes=10, seconds=number)
            failed = seq % 97 == 0
            rows.append(_run(run_id, name, seq, started, failed=failed))
            if not failed:
                archives.append(
                    {
                        "run_id": run_id, "job": name, "name": f"/backups/{name}/{seq:06d}.zip",
                        "format": "zip", "encrypted": False, "size": 1000 * (seq % 50 + 1),
                        "members": first if seq == 1 else changed, "created_at": started,
                        "state": "present", "content_size": 2500 * (seq % 50 + 1),
                    }
                )  # fmt: skip
        for table, some in ((Run, rows), (Archive, archives)):
            for at in range(0, len(some), _CHUNK):
                connection.execute(insert(table), some[at : at + _CHUNK])
        numbers = {
            seq: number
            for number, seq in connection.exec_driver_sql(
                "SELECT a.id, r.seq FROM archive a JOIN run r ON r.run_id = a.run_id "
                f"WHERE a.job = '{name}'"
            )
        }
        connection.execute(insert(Volume), [_volume(one) for one in numbers.values()])
        _errors_and_checks(connection, name, rows, archives)
        postgres = is_postgres(connection)
        named = by_name(connection)
        files = max(first - first // 50, 1)
        insert_versions(
            connection, job, numbers[1], 1,
            [*_folders(files, postgres=postgres), *(_file(n, 1, postgres) for n in range(files))],
        )  # fmt: skip
        for seq in sorted(numbers)[1:]:
            start = seq * 7919 % files
            these = sorted({(start + step * 13) % files for step in range(changed)})
            execute_many(
                connection,
                f"UPDATE {named.table} SET gone_seq = ? "
                f"WHERE {named.job_id} = ? AND path = ? AND gone_seq IS NULL",
                ((seq, job, _path(one)) for one in these),
            )
            insert_versions(
                connection, job, numbers[seq], seq, [_file(one, seq, postgres) for one in these]
            )


def _run(run_id: str, job: str, seq: int, started: datetime, *, failed: bool) -> dict[str, Any]:
    return {
        "run_id": run_id, "seq": seq, "kind": "backup", "job": job,
        "status": "failed" if failed else "success", "started_at": started,
        "finished_at": started + timedelta(seconds=20 + seq % 30),
        "archive": None if failed else f"/backups/{job}/{seq:06d}.zip",
        "message": "the disk is full" if failed else None,
        "options": {"level": 2, "mode": "incremental", "to": f"/backups/{job}"},
        "counts": {"total": 100 + seq, "new": seq % 7, "changed": seq % 11, "unchanged": 80},
        "mode": None if failed else "full" if seq == 1 else "incremental",
        "base_run": None, "full_run": None if failed else _run_id(job, 1), "tags": [],
        "is_snapshot": not failed, "flow_run": None,
    }  # fmt: skip


def _errors_and_checks(
    connection: Any, job: str, runs: list[dict[str, Any]], archives: list[dict[str, Any]]
) -> None:
    errors = [
        {"run_id": one["run_id"], "path": f"docs/{n}", "code": "unreadable", "message": "denied"}
        for one in runs[-20:]
        for n in range(50)
    ]
    checks = [
        {
            "archive": one["name"], "run_id": _run_id(job + "-verify", 0),
            "checked_at": one["created_at"], "status": "success", "percent": 100.0, "slice": 0,
            "slices": 1, "members": one["members"], "damaged": 0,
        }
        for one in archives[::10]
    ]  # fmt: skip
    connection.execute(insert(FileError), errors)
    connection.execute(insert(Verification), checks)


def _volume(archive: int) -> dict[str, Any]:
    return {
        "archive_id": archive, "number": 0, "uri": f"file:///backups/{archive}.zip", "size": 1000,
        "sha256": hashlib.sha256().hexdigest(), "parts": None,
    }  # fmt: skip


def _run_id(job: str, seq: int) -> str:
    return hashlib.md5(f"{job}/{seq}".encode()).hexdigest()


def _path(number: int) -> str:
    top = _FOLDERS[number % len(_FOLDERS)]
    ending = _ENDINGS[number % len(_ENDINGS)]
    folder = f"home/{top}/{number // 6000:03d}/{number // 60 % 100:02d}"
    return f"{folder}/{top[:-1]}-{number:07d}.{ending}"


def _folders(files: int, *, postgres: bool) -> Iterator[tuple[Any, ...]]:
    seen = {"home"}
    for number in range(files):
        folder = _path(number).rpartition("/")[0]
        while folder not in seen:
            seen.add(folder)
            folder = folder.rpartition("/")[0]
    for folder in sorted(seen):
        yield _row(folder, "d", 0, 1, None, postgres)


def _file(number: int, seq: int, postgres: bool) -> tuple[Any, ...]:
    digest = hashlib.sha256(b"%d/%d" % (number, seq)).hexdigest()
    return _row(_path(number), "f", number * 37 % 65536, seq, digest, postgres)


def _row(
    path: str, kind: str, size: int, seq: int, digest: str | None, postgres: bool
) -> tuple[Any, ...]:
    time_ns = 1_763_000_000_000_000_000 + seq
    changed: Any = False if postgres else 0
    mode = 0o755 if kind == "d" else 0o644
    return (
        path, kind, size, time_ns, time_ns, 1000, 66, mode, 1000, 1000, changed, digest, None, None
    )  # fmt: skip
