"""Single files out of archives: what the catalog knows of them, and their content."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final

from pybak.api.services import MemberFile
from pybak.catalog.engine import Database
from pybak.catalog.facts import VERSION_COLUMNS, ArchiveFacts, Version, version_of
from pybak.catalog.history import History
from pybak.catalog.locks import archives_lock
from pybak.catalog.models import escaped
from pybak.catalog.rows import stream
from pybak.display import printable
from pybak.entries import FILE, HARD_LINK, KIND_NAMES
from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.restore.select import Selector
from pybak.restore.snapshot import recorded_shares, references_of
from pybak.restore.stream import restore_to_stream
from pybak.storage.opening import forget_storages

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STORAGES_SECONDS: Final = 60.0


class OneMember(Selector):
    """Wants the member of exactly this name; patterns could not say every name."""

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self._path = path

    @property
    def takes_all(self) -> bool:
        """Never."""
        return False

    def wants(self, path: bytes, *, is_folder: bool) -> bool:
        """Whether this is the member."""
        return path == self._path and not is_folder

    def may_want(self, path: bytes) -> bool:
        """Whether this is the member."""
        return path == self._path


class ArchiveFiles:
    """Files in the archives of the catalog: a `pybak.api.services.FileService`."""

    def __init__(
        self,
        database: Database,
        catalog_url: str,
        password: Callable[[], bytes | None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the catalog, and what gives the password for encrypted archives."""
        self._database = database
        self._clock = clock
        self._storages_due = clock() + _STORAGES_SECONDS
        self._catalog_url = catalog_url
        self._password = password

    def find(self, archive_id: int, path: bytes) -> MemberFile:
        """Give what the catalog knows of a file."""
        version, facts = self._known(archive_id, path)
        return MemberFile(
            archive_id=archive_id, path=os.fsdecode(path), size=version.size,
            modified_at=_moment(version.mtime_ns), encrypted=facts.encrypted,
        )  # fmt: skip

    def send(self, archive_id: int, path: bytes, out: BinaryIO) -> None:
        """Write the content; the archive is not removed meanwhile."""
        version, facts = self._known(archive_id, path)
        if self._clock() >= self._storages_due:  # keys in a block may be others by now
            forget_storages()
            self._storages_due = self._clock() + _STORAGES_SECONDS
        names = [path] if version.member is None else []
        with archives_lock(facts.job, shared=True, catalog_url=self._catalog_url):
            shares = recorded_shares([(facts, names, references_of([version]))])
            password = self._password() if facts.encrypted else None
            report = restore_to_stream(shares, OneMember(path), out, password)
        if report.exit_code:
            raise ArchiveError(report.message or f"{printable(path)}: is damaged")

    def _known(self, archive_id: int, path: bytes) -> tuple[Version, ArchiveFacts]:
        name = printable(path)
        found = History(self._database).archives_by_id([archive_id])
        if not found or found[0].is_leaving:
            raise NotFoundError(f"{archive_id}: there is no such archive")
        statement = (
            f"SELECT {VERSION_COLUMNS} FROM file_version "  # noqa: S608 - our own names
            "WHERE archive_id = ? AND path = ? ORDER BY first_seq DESC LIMIT 1"
        )
        with self._database.reading() as connection:
            rows = list(stream(connection, statement, (archive_id, escaped(os.fsdecode(path)))))
        if not rows:
            raise NotFoundError(f"{name}: the archive {archive_id} holds no such member")
        version = version_of(rows[0])
        if version.kind not in (FILE, HARD_LINK):
            raise PlanError(f"{name}: is a {KIND_NAMES[version.kind]}; only files can be had")
        return version, found[0]


def _moment(nanoseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
