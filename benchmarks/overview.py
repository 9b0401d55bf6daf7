"""What the questions of API, dashboard and `pybak status` cost in a large catalog.

    python -m benchmarks.overview                          # SQLite, and PostgreSQL where it is
    python -m benchmarks.overview --runs 1000 --versions 100000 --only sqlite

The catalog is made anew (benchmarks/large_catalog.py), which takes a minute or more, and each
question is asked a hundred times. Times are of the question alone, in milliseconds: the middle one,
the 99th, and the middle one of processor time, which counts where other programs run beside it
(PostgreSQL works in processes of its own, so there it is that of asking). The search through all
names is a whole one, page after page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.large_catalog import Size, fill, job_name
from benchmarks.measure import REPOSITORY
from pybak.catalog.engine import Database
from pybak.overview import Overview, Page

_LIMIT_MS = 20.0


def main() -> None:
    """Measure every question on every database that there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", help="where the databases lie; by default a temporary folder")
    arguments = parser.parse_args()
    size = Size(arguments.runs, arguments.versions, arguments.jobs)
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        if arguments.only != "postgresql":
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder))
            urls["sqlite"] = f"sqlite:///{folder}/large.db"
        if arguments.only != "sqlite" and (server := _server(stack)) is not None:
            urls["postgresql"] = server.new_database("large")
        for kind, url in urls.items():
            _measure(kind, url, size, arguments.times)


def _server(stack: ExitStack) -> Any:
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from postgres import binaries, running_server

    return stack.enter_context(running_server(durable=True)) if binaries() else None


def _measure(kind: str, url: str, size: Size, times: int) -> None:
    database = Database(url)
    now = datetime.now(UTC)
    start = time.perf_counter()
    fill(database, size, now=now)
    taken = time.perf_counter() - start
    print(
        f"{kind}: {size.runs:,} runs and {size.versions:,} versions in {size.jobs} jobs, made in "
        f"{taken:.0f} s",
        flush=True,
    )
    overview = Overview(database)
    worst = (0.0, "")
    for name, ask in _questions(overview, now):
        ask()  # opens what must be opened once
        taken_ms, spent_ms = map(sorted, zip(*(_timed(ask) for _ in range(times)), strict=True))
        middle, late = taken_ms[times // 2], taken_ms[int(times * 0.99) - 1]
        spent = spent_ms[times // 2]
        worst = max(worst, (middle, name))
        print(
            f"  {name:34} p50 {middle:8.2f} ms   p99 {late:8.2f} ms   processor {spent:8.2f} ms",
            flush=True,
        )
    pages, longest, whole = _through(lambda cursor: overview.search("no-such", cursor=cursor))
    print(
        f"  {'search through all names':34} {whole:8.0f} ms in {pages} pages, the longest "
        f"{longest:.2f} ms",
        flush=True,
    )
    print(f"  slowest: {worst[1]}, {worst[0]:.2f} ms (to be at most {_LIMIT_MS:.0f})")
    database.close()


def _questions(view: Overview, now: datetime) -> Iterator[tuple[str, Callable[[], object]]]:
    job = job_name(0)
    (last,) = view.runs(job=job, status="success", limit=1).items
    newest = view.archives(job=job, limit=1).items[0].archive_id
    first = _first_archive(view, job)
    old = view.snapshots(job=job, limit=500).items[-1].run_id
    second = view.runs(limit=50).next
    leaf = _leaf(view, job)
    file = view.tree(job, folder=leaf, limit=1).items[0].path.encode()
    middle = view.members(first, limit=500).next
    yield "jobs", lambda: view.jobs(now)
    yield "active", lambda: view.active(now=now)
    yield "problems", lambda: view.problems(now=now)
    yield "runs", lambda: view.runs()
    yield "runs, second page", lambda: view.runs(cursor=second)
    yield "runs of a job", lambda: view.runs(job=job)
    yield "runs that failed", lambda: view.runs(status="failed")
    yield "runs that failed, of a job", lambda: view.runs(job=job, status="failed")
    yield "runs of three days", lambda: view.runs(kind="backup", since=now - timedelta(days=3))
    yield "run", lambda: view.run(last.run_id)
    yield "errors", lambda: view.errors(last.run_id)
    yield "archives", lambda: view.archives()
    yield "archives of a job", lambda: view.archives(job=job)
    yield "archive", lambda: view.archive(newest)
    yield "snapshots", lambda: view.snapshots()
    yield "snapshots of a job", lambda: view.snapshots(job=job)
    yield "storage", lambda: view.storage()
    yield "members of a small archive", lambda: view.members(newest)
    yield "members of a large one", lambda: view.members(first)
    yield "members of a large one, later", lambda: view.members(first, cursor=middle)
    yield "members that match", lambda: view.members(first, match="*77.odt")
    yield "members below a folder", lambda: view.members(first, prefix=leaf)
    yield "tree, the top", lambda: view.tree(job)
    yield "tree, a folder of folders", lambda: view.tree(job, folder=b"home/photos")
    yield "tree, a folder of files", lambda: view.tree(job, folder=leaf)
    yield "tree, an old snapshot", lambda: view.tree(job, run_id=old, folder=leaf)
    yield "versions", lambda: view.versions(job, file)
    yield "search, a page that finds", lambda: view.search("photo")
    yield "search, a page that finds nothing", lambda: view.search("no-such")
    yield "search, a pattern", lambda: view.search("*123*.odt")
    yield "search, a path", lambda: view.search("photos/001/")


def _first_archive(view: Overview, job: str) -> int:
    cursor: str | None = None
    while True:
        page = view.archives(job=job, cursor=cursor, limit=500)
        if page.next is None:
            return page.items[-1].archive_id
        cursor = page.next


def _leaf(view: Overview, job: str) -> bytes:
    """Give a folder of files, far down and far behind."""
    folder = b""
    while True:
        items = view.tree(job, folder=folder, limit=500).items
        folders = [one for one in items if one.type == "folder"]
        if not folders:
            return folder
        folder = folders[len(folders) // 2].path.encode()


def _timed(ask: Callable[[], object]) -> tuple[float, float]:
    """Give in ms what a question took, by the clock and of the processor."""
    start, spent = time.perf_counter(), time.process_time()
    ask()
    return (time.perf_counter() - start) * 1000, (time.process_time() - spent) * 1000


def _through(pages: Callable[[str | None], Page[Any]]) -> tuple[int, float, float]:
    """Read a list to its end; give the pages, and in ms the longest of them and all."""
    count, longest, cursor = 0, 0.0, None
    start = time.perf_counter()
    while True:
        begun = time.perf_counter()
        page = pages(cursor)
        longest = max(longest, (time.perf_counter() - begun) * 1000)
        count += 1
        cursor = page.next
        if cursor is None:
            return count, longest, (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
