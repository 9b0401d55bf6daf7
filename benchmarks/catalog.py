"""What the catalog costs: recording and reading snapshots of many files.

    python -m benchmarks.catalog                      # SQLite, and PostgreSQL where there is one
    python -m benchmarks.catalog --files 1000000 --only sqlite --folder /mnt/disk

Each line is a process of its own: a full snapshot is recorded, read the way a backup compares
with it, and followed by an incremental one in which 1 % of the files changed and 0.1 % are gone.
What it takes to make the records is told apart: the times are those of the database. Peak memory
is of the whole process, less what it had when it began to record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import REPOSITORY

_SIZES = (10_000, 100_000, 1_000_000)
_STRIDE = 999_983  # prime, so it meets every number
_JOB = "documents"
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


def main() -> None:
    """Measure every size on every database that there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", help="where the databases lie; by default a temporary folder")
    parser.add_argument("--scattered", action="store_true", help="members in no order of names")
    parser.add_argument("--measure", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        stride = _STRIDE if arguments.scattered else 1
        print(json.dumps(_measure(arguments.measure, arguments.files[0], stride)))
        return
    print(f"opening an up-to-date catalog: {_opening(arguments.folder):.1f} ms")
    with ExitStack() as stack:
        makers: dict[str, Callable[[str], str]] = {}
        if arguments.only != "postgresql":
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder))
            makers["sqlite"] = lambda name: f"sqlite:///{folder}/{name}.db"
        if arguments.only != "sqlite" and (server := _server(stack)) is not None:
            makers["postgresql"] = server.new_database
        for kind, make in makers.items():
            for files in arguments.files:
                found = _in_process(make(f"bench_{files}"), files, scattered=arguments.scattered)
                _print(kind, files, found)


def _server(stack: ExitStack) -> Any:
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from postgres import binaries, running_server

    return stack.enter_context(running_server(durable=True)) if binaries() else None


def _in_process(url: str, files: int, *, scattered: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.catalog", "--measure", url, "--files", str(files)]
    if scattered:
        command.append("--scattered")
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _print(kind: str, files: int, found: dict[str, float]) -> None:
    rate = files / found["full"]
    print(
        f"{kind:10} {files:9,} files: full {found['full']:6.2f} s ({rate:9,.0f}/s; "
        f"processor {found['cpu']:.2f} s), "
        f"read {found['read']:5.2f} s, incremental {found['incremental']:5.2f} s, "
        f"records {found['records']:5.2f} s, peak +{found['memory_mb']:.0f} MB, "
        f"{found['size'] / files:.0f} bytes a file",
        flush=True,
    )


def _measure(url: str, files: int, stride: int) -> dict[str, float]:
    from pybak.catalog.history import History
    from pybak.catalog.runs import Catalog

    catalog = Catalog(url)
    before = _peak_mb()
    spent = time.process_time()
    found = {"records": _timed(lambda: sum(1 for _ in _records(files, stride)))}
    made = time.process_time() - spent
    spent = time.process_time()
    found["full"] = _timed(lambda: _record(catalog, files, stride, seq=1)) - found["records"]
    found["cpu"] = time.process_time() - spent - made
    history = History(catalog.database)
    snapshot = history.newest(_JOB)
    assert snapshot is not None
    found["read"] = _timed(lambda: sum(1 for _ in history.states(snapshot)))
    found["memory_mb"] = _peak_mb() - before
    found["incremental"] = _timed(lambda: _record(catalog, files, stride, seq=2))
    catalog.close()  # which empties SQLite's log into the file
    found["size"] = _bytes(catalog)
    return found


def _record(catalog: Any, files: int, stride: int, *, seq: int) -> None:
    from pybak.catalog.snapshots import SnapshotEnd, StoredArchive, write_snapshot
    from pybak.volumes.model import Volume

    run_id = f"run-{seq}"
    now = _NOW + timedelta(days=seq)
    catalog.begin_run(run_id, kind="backup", job=_JOB, options={}, now=now)
    full = seq == 1
    volume = Volume(uri=f"/backups/{run_id}.zip", size=files, sha256=hashlib.sha256().hexdigest())
    archive = StoredArchive(
        name=volume.uri, format="zip", encrypted=False, members=files, created_at=now,
        volumes=[volume],
    )  # fmt: skip
    end = SnapshotEnd(
        run_id=run_id, job=_JOB, seq=seq, status="success",
        mode="full" if full else "incremental", base_run=None if full else "run-1",
        base_seq=None if full else 1, full_run="run-1", finished_at=now, counts={},
    )  # fmt: skip
    step = 1 if full else 100
    gone = () if full else (_path(number) for number in range(50, files, 1000))
    with catalog.database.transaction() as connection:
        write_snapshot(connection, end, archive, _records(files, stride, step), gone)


def _records(files: int, stride: int, step: int = 1) -> Iterator[Any]:
    """Yield what a manifest's lines are read as; every one of `files` comes once."""
    from pybak.formats.manifest_facts import FullFact

    time_ns = 1_763_000_000_000_000_000
    for position in range(0, files, step):
        number = position * stride % files
        yield FullFact(
            type="file", path=_path(number), size=number * 37 % 65536, mode=0o644,
            mtime_ns=time_ns + number, ctime_ns=time_ns + number, inode=100_000 + number, dev=66,
            uid=1000, gid=1000, sha256=hashlib.sha256(b"%d" % number).hexdigest(),
        )  # fmt: skip


def _path(number: int) -> str:
    return f"documents/{number // 10_000:03d}/{number // 100 % 100:02d}/report-{number:08d}.txt"


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _bytes(catalog: Any) -> int:
    with catalog.database.reading() as connection:
        if catalog.database.is_postgres:
            query = "SELECT pg_database_size(current_database())"
            return int(connection.exec_driver_sql(query).scalar_one())
    return Path(catalog.database.where).stat().st_size


def _opening(folder: str | None) -> float:
    """Give what opening costs in ms beyond importing, the best of five processes."""
    code = (
        "import sys, time, sqlalchemy.dialects.sqlite, pybak.catalog.runs as runs\n"
        "start = time.perf_counter()\n"
        "runs.Catalog(sys.argv[1]).close()\n"
        "assert 'alembic' not in sys.modules\n"
        "print((time.perf_counter() - start) * 1000)"
    )
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = [sys.executable, "-c", code, f"sqlite:///{Path(place)}/catalog.db"]
        taken = [
            float(
                subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
            )
            for _ in range(6)
        ]
    return min(taken[1:])


if __name__ == "__main__":
    main()
