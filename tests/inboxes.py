"""Rounds of an inbox, run through the engine without Prefect."""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine.default import DefaultDialect

from pybak.catalog.engine import Database
from pybak.catalog.runs import Catalog
from pybak.inbox.journal import Journal
from pybak.inbox.pack import pack_parcel
from pybak.inbox.run import InboxRun
from pybak.inbox.states import STORED
from pybak.options.inbox import InboxOptions
from pybak.report.inbox import InboxReport

NOON = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
STAMP = f"{NOON.astimezone():%Y%m%d_%H%M%S}"


@cache
def _empty_catalog() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.db"
        Catalog(f"sqlite:///{path}").close()
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return path.read_bytes()


@cache
def _first_engine() -> Engine:
    engine = create_engine("sqlite://")
    engine.connect().close()
    return engine


def share_compiled(database: Database) -> None:
    """Have SQLite's statements compiled once for all rounds, not once a round: half of its time."""
    if not database.is_postgres:
        engine, first = database.engine, _first_engine()
        engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache


class Inbox:
    """An inbox, its destination and its catalog below one folder."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "in", folder / "out"
        self.catalog = folder / "catalog.db"
        self.source.mkdir(exist_ok=True)
        if not self.catalog.exists():
            self.catalog.write_bytes(_empty_catalog())

    def put(self, name: str, content: bytes = b"content") -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def round(
        self,
        to: str | None = None,
        *,
        password: bytes | None = None,
        now: datetime = NOON,
        catalog_url: str | None = None,
        packed: Callable[[InboxRun, int], object] = lambda _run, _number: None,
        **options: Any,
    ) -> InboxReport:
        """Run one round; `packed` is called between packing and storing of each parcel."""
        options.setdefault("settle", "0s")
        options.setdefault("workers", 2)
        url = catalog_url or f"sqlite:///{self.catalog}"
        catalog: Catalog | None = None
        try:
            with InboxRun(
                str(self.source), to or str(self.target), InboxOptions(**options),
                encrypted=password is not None, now=now,
            ) as run:  # fmt: skip
                catalog = Catalog(url)
                share_compiled(catalog.database)
                catalog.begin_run(run.run_id, kind="inbox", job=run.asked.job, options={}, now=now)
                run.start(catalog.database)
                run.scan()
                while parcels := run.next_parcels():
                    for parcel in parcels:
                        pack_parcel(run.staging, parcel.number, password=password)
                        packed(run, parcel.number)
                        run.store(parcel.number)
                run.check_cancelled()
                report = run.report()
            catalog.finish_run(run.run_id, status=report.status, counts={}, now=now)
            return report
        finally:
            if catalog is not None:
                catalog.close()

    @property
    def left(self) -> list[str]:
        """The files in the inbox."""
        return files_in(self.source)

    @property
    def stored(self) -> list[str]:
        """The files at the destination."""
        return files_in(self.target)

    def unpacked(self) -> dict[str, bytes]:
        """The content of each `.gz` at the destination, by the name before the time."""
        return {
            name.rsplit(f"_{STAMP}")[0]: gzip.decompress((self.target / name).read_bytes())
            for name in self.stored
        }

    def rows(self, columns: str = "path, state") -> list[tuple[Any, ...]]:
        """The catalog's rows, in the order in which they were written."""
        with sqlite3.connect(self.catalog) as database:
            query = f"SELECT {columns} FROM processed_file ORDER BY id"
            return database.execute(query).fetchall()


def files_in(folder: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def killed_in(
    inbox: Inbox, owner: Any, name: str, when: Callable[..., bool], **options: Any
) -> None:
    """Run a round in a process of its own that is killed before a call, where `when` is true."""
    child = os.fork()
    if not child:
        try:
            real = getattr(owner, name)

            def call(*given: Any, **more: Any) -> Any:
                if when(*given, **more):
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **more)

            setattr(owner, name, call)
            inbox.round(**options)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def killed_before_stored(inbox: Inbox, **options: Any) -> None:
    """Have a round killed when its files have their names, and the catalog says MADE."""
    killed_in(
        inbox, Journal, "move", lambda _journal, _rows, state: state == STORED, **options
    )  # fmt: skip


LASTING = ("link", "unlink", "rename", "replace", "mkdir", "rmdir")
"""What a round changes folders with, by the names that `os` has for it.

A kill before it syncs, or dresses what is staged, leaves what one before the next change does.
"""


def die_in_round(inbox: Inbox, step: int, work: Callable[[], object] | None = None) -> bool:
    """Run a round in a process of its own that is killed before its `step`th change.

    A change is a call of LASTING, or a commit that changes the catalog. True if it was killed,
    False if the round came to its end before.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == signal.SIGKILL
    code = 1
    gc.disable()  # it would touch, and so copy, all that the parent has
    try:
        left = step
        written = 0

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*given: Any, **more: Any) -> Any:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*given, **more)

            return wrapper

        for name in LASTING:
            setattr(os, name, counted(getattr(os, name)))
        dialect: Any = DefaultDialect
        commit, counted_commit = dialect.do_commit, counted(dialect.do_commit)

        def committed(self: Any, connection: Any) -> None:
            nonlocal written
            before = written
            written = getattr(connection.driver_connection, "total_changes", before + 1)
            (commit if written == before else counted_commit)(self, connection)

        dialect.do_commit = committed
        (work or inbox.round)()
        code = 0
    finally:
        os._exit(code)
