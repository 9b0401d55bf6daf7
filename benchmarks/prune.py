"""What `prune` costs with very many snapshots: processor time and memory of its plan.

    python -m benchmarks.prune --snapshots 500 2000 5040 20000

Each run but the first is an incremental one that saves four files: one stays as it is, the others
change again after 2, 20 and 200 runs. So every snapshot needs nearly all archives before it. The
rules keep one half of the snapshots. Each size is a process of its own; peak memory is less what
the process had before the plan.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import REPOSITORY

_JOB = "documents"
_SIZES = (500, 2000, 5040, 20_000)
_LIVES = (2, 20, 200, None)
_EVERY = timedelta(minutes=2)
_BYTES = 100
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--snapshots", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--consolidate", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--plan", metavar="CATALOG", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.plan:
        _plan(chosen.plan, chosen.snapshots[0], consolidate=chosen.consolidate)
        return
    for count in chosen.snapshots:
        with tempfile.TemporaryDirectory(prefix="pybak-bench-", dir=chosen.scratch) as name:
            url = f"sqlite:///{name}/catalog.db"
            _fill(url, Path(name) / "store", count)
            command = [sys.executable, "-m", "benchmarks.prune", "--plan", url]
            command += ["--snapshots", str(count), *["--consolidate"] * chosen.consolidate]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, cwd=REPOSITORY
            )
        print(f"{count:6} snapshots: {done.stdout.strip()}", flush=True)


def _plan(url: str, count: int, *, consolidate: bool) -> None:
    from pybak.options import PruneOptions
    from pybak.retention.run import PruneRun

    options = PruneOptions(keep_last=count // 2, consolidate=consolidate)
    with PruneRun(options, catalog_url=url, now=_NOW) as prune:
        prune.jobs(_JOB)  # opens the catalog
        memory, used = _kibibytes("VmRSS"), time.process_time()
        plan = prune.plan(_JOB).plan
        used = time.process_time() - used
        memory = _kibibytes("VmHWM") - memory
    print(f"{used:7.2f} s of processor time, {memory / 1024:7.1f} MiB; {plan.summary()}")


def _kibibytes(name: str) -> int:
    """Give a figure of this process alone; its `ru_maxrss` begins with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _fill(url: str, store: Path, count: int) -> None:
    """Make a catalog with so many snapshots, and files that stand for their archives."""
    from sqlalchemy import insert

    from pybak.catalog.engine import Database
    from pybak.catalog.models import Archive, Run, Volume
    from pybak.catalog.rows import execute_many
    from pybak.catalog.snapshots import job_number

    store.mkdir()
    names = {seq: store / f"{seq:06d}.zip" for seq in range(1, count + 1)}
    for name in names.values():
        name.write_bytes(b"x" * _BYTES)
    began = {seq: _NOW - _EVERY * (count - seq + 1) for seq in names}
    runs = [_run(seq, str(name), began[seq]) for seq, name in names.items()]
    archives = [
        {
            "id": seq, "run_id": f"run-{seq}", "job": _JOB, "name": str(name), "format": "zip",
            "encrypted": False, "size": _BYTES, "members": len(_LIVES), "created_at": began[seq],
            "state": "present", "content_size": _BYTES,
        }
        for seq, name in names.items()
    ]  # fmt: skip
    volumes = [
        {
            "archive_id": seq, "number": 0, "uri": name.as_uri(), "size": _BYTES,
            "sha256": "0" * 64, "parts": None,
        }
        for seq, name in names.items()
    ]  # fmt: skip
    database = Database(url)
    with database.transaction() as connection:
        job = job_number(connection, _JOB)
        for table, rows in ((Run, runs), (Archive, archives), (Volume, volumes)):
            connection.execute(insert(table), rows)
        execute_many(
            connection,
            "INSERT INTO file_version (job_id, path, kind, size, mtime_ns, ctime_ns, inode, mode, "
            "uid, gid, changed, archive_id, first_seq, gone_seq) "
            "VALUES (?, ?, 'file', 0, 0, 0, 0, 0, 0, 0, 0, ?, ?, ?)",
            (
                (job, f"f{seq}-{life}", seq, seq, None if life is None else seq + life)
                for seq in names
                for life in _LIVES
            ),
        )
    database.close()


def _run(seq: int, archive: str, began: datetime) -> dict[str, Any]:
    return {
        "run_id": f"run-{seq}", "seq": seq, "kind": "backup", "job": _JOB, "status": "success",
        "started_at": began, "finished_at": began + timedelta(seconds=5), "archive": archive,
        "message": None, "options": {}, "counts": {}, "tags": [], "is_snapshot": True,
        "mode": "full" if seq == 1 else "incremental", "flow_run": None,
        "base_run": None if seq == 1 else f"run-{seq - 1}", "full_run": "run-1",
    }  # fmt: skip


if __name__ == "__main__":
    main()
