"""Members as the overview shows them, and where in the catalog they are looked for."""

from __future__ import annotations

import os
from typing import Final

from sqlalchemy import Connection

from pybak.catalog.models import escaped, unescaped
from pybak.catalog.rows import Row
from pybak.display import printable
from pybak.entries import FOLDER, JSON_NAMES
from pybak.errors import NotFoundError
from pybak.moment import utc_text
from pybak.overview.facts import Member
from pybak.overview.sql import row

COLUMNS: Final = "v.path, v.kind, v.size, v.mtime_ns, v.mode, v.sha256"


def member_of(found: Row) -> Member:
    """Give the member that a row of COLUMNS tells."""
    path, kind, size, mtime, mode, sha256 = found
    name = unescaped(path)
    return Member(
        path=name, name=name.rpartition("/")[2], type=JSON_NAMES[kind], size=size,
        mtime=utc_text(mtime), mode=f"{mode:04o}", sha256=sha256,
    )  # fmt: skip


def implied_folder(path: str) -> Member:
    """Give a folder, as stored, that only the names of what lies in it tell of."""
    name = unescaped(path)
    return Member(
        path=name, name=name.rpartition("/")[2], type=JSON_NAMES[FOLDER], size=0, mtime=None,
        mode=None, sha256=None,
    )  # fmt: skip


def stored_name(path: bytes) -> str:
    """Give a member's name as the catalog has it; slashes around it don't count."""
    return escaped(os.fsdecode(path.strip(b"/")))


def job_number(connection: Connection, job: str) -> int:
    """Give the number of a job whose files the catalog knows. Raises NotFoundError."""
    found = row(connection, "SELECT id FROM job WHERE name = ?", (escaped(job),))
    if found is None:
        raise NotFoundError(f"{printable(job)}: no such job; list them to see which there are")
    return int(found[0])


def snapshot_number(connection: Connection, job: str, run_id: str | None) -> int:
    """Give the number of a snapshot, the newest one without an id. Raises NotFoundError."""
    if run_id is None:
        found = row(
            connection,
            "SELECT seq FROM run WHERE job = ? AND is_snapshot = TRUE ORDER BY seq DESC LIMIT 1",
            (escaped(job),),
        )
        if found is None:
            raise NotFoundError(f"{printable(job)}: no backup of this job can be restored")
        return int(found[0])
    found = row(
        connection,
        "SELECT seq FROM run WHERE run_id = ? AND job = ? AND is_snapshot = TRUE",
        (escaped(run_id), escaped(job)),
    )
    if found is None:
        raise NotFoundError(
            f"{printable(run_id)}: no backup of {printable(job)} that can be restored; list its "
            "snapshots to see which can"
        )
    return int(found[0])
