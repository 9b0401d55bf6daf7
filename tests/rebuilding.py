"""Catalogs that are made anew from archives, and what they are compared by."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from backing_up import noise, prose
from catalogs import query

from pybak.catalog.engine import Database
from pybak.catalog.history import History
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild.run import RebuildRun
from pybak.report.rebuild import RebuildReport

# Everything that storage can tell. Numbers of rows are compared by what they stand for.
ROWS = {
    "archive": "SELECT run_id, job, name, format, encrypted, size, members, created_at, state "
    "FROM archive ORDER BY id",
    "volume": "SELECT a.run_id, v.number, v.uri, v.size, v.sha256, v.parts FROM volume v "
    "JOIN archive a ON a.id = v.archive_id ORDER BY a.run_id, v.number",
    "file_version": "SELECT j.name, v.path, v.kind, v.size, v.mtime_ns, v.ctime_ns, v.inode, "
    "v.device, v.mode, v.uid, v.gid, v.changed, v.sha256, v.parts, a.run_id, v.first_seq, "
    "v.gone_seq, v.member FROM file_version v JOIN archive a ON a.id = v.archive_id "
    "JOIN job j ON j.id = v.job_id ORDER BY j.name, v.path, v.first_seq",
    "file_error": "SELECT run_id, path, code, message FROM file_error ORDER BY run_id, path, code",
    "run": "SELECT run_id, seq, kind, job, status, started_at, archive, counts, mode, base_run, "
    "full_run, tags FROM run WHERE is_snapshot ORDER BY job, seq",
}


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: [tuple(map(str, row)) for row in query(url, text)] for table, text in ROWS.items()
    }


def rebuild(
    url: str, *places: Path, password: bytes | None = None, now: datetime | None = None,
    **options: Any,
) -> RebuildReport:  # fmt: skip
    """Do what the flow does."""
    with RebuildRun(
        [os.fspath(place) for place in places], RebuildOptions(**options), catalog_url=url, now=now
    ) as run:
        steps = run.read(password)
        if run.options.dry_run:
            return run.report(steps, {})
        volumes = run.describe(steps)
        run.write(steps, volumes)
        return run.report(steps, volumes)


def states(url: str) -> dict[str, dict[bytes, tuple[Any, ...]]]:
    """Give every snapshot's members by the id of its run."""
    database = Database(url)
    history = History(database)
    try:
        return {
            one.run_id: {v.path: (v.kind, v.size, v.sha256) for v in history.versions(one)}
            for one in history.snapshots()
        }
    finally:
        database.close()


def make_tree(tmp_path: Path) -> Path:
    """Make a folder with files of all kinds to back up."""
    top = tmp_path / "docs"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "deep").mkdir()
    for number, name in enumerate(["a", "b", "sub/c", "sub/deep/d"]):
        (top / name).write_bytes(prose(3000, number))
    (top / "link").symlink_to("a")
    (top / os.fsdecode(b"odd\xff\n\\")).write_bytes(b"odd")
    return top


def change(tree: Path, number: int) -> None:
    """Make a file, change one, remove one, swap one for a folder."""
    (tree / f"new{number}").write_bytes(noise(500, number))
    (tree / "a").write_bytes(prose(3000 + number, 50 + number))
    if number == 2:
        (tree / "b").unlink()
        shutil.rmtree(tree / "sub" / "deep")
        (tree / "sub" / "deep").write_bytes(b"a file now")
    if number == 3:
        (tree / "new2").unlink()
        (tree / "sub" / "c").chmod(0o600)
        (tree / "b").write_bytes(b"back")
