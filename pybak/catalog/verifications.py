"""When which archive was checked, how much of it, and what was found."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sqlmodel import col, select

from pybak.catalog.models import Run, Verification
from pybak.catalog.runs import Catalog, CatalogError


class VerificationLog:
    """The catalog's memory of checks; a context manager.

    It never stands in the way of a check: what goes wrong with the catalog is noted in `problem`,
    and from then on nothing is known and nothing written.
    """

    def __init__(self, url: str | None) -> None:
        self.problem: str | None = None
        self._catalog: Catalog | None = None
        if url is not None:
            try:
                self._catalog = Catalog(url)
            except CatalogError as error:
                self._give_up(error)

    def next_slice(self, archive: str, slices: int) -> int | None:
        """Give which of `slices` parts of an archive is next; None if that can't be told.

        It is the one after that of the last check in as many parts, or the first.
        """
        if self._catalog is None:
            return None
        query = (
            select(Verification.slice)
            .where(Verification.archive == archive, Verification.slices == slices)
            .order_by(col(Verification.id).desc())
            .limit(1)
        )
        try:
            with self._catalog.session() as session:
                last = session.exec(query).first()
        except CatalogError as error:
            self._give_up(error)
            return None
        return 0 if last is None else (last + 1) % slices

    def run_of(self, archive: str) -> str | None:
        """Give the id of the newest run that wrote an archive of this name, if it is known."""
        if self._catalog is None:
            return None
        query = (
            select(Run.run_id)
            .where(Run.archive == archive, Run.kind == "backup")
            .order_by(col(Run.started_at).desc())
            .limit(1)
        )
        try:
            with self._catalog.session() as session:
                return session.exec(query).first()
        except CatalogError as error:
            self._give_up(error)
            return None

    def record(self, verification: Verification) -> None:
        """Write down one check."""
        if self._catalog is None:
            return
        try:
            with self._catalog.writing() as session:
                session.add(verification)
        except CatalogError as error:
            self._give_up(error)

    def last_checked(self, archive: str) -> datetime | None:
        """Give when an archive was checked as a whole or in part the last time, in UTC."""
        if self._catalog is None:
            return None
        query = (
            select(Verification.checked_at)
            .where(Verification.archive == archive)
            .order_by(col(Verification.id).desc())
            .limit(1)
        )
        try:
            with self._catalog.session() as session:
                found = session.exec(query).first()
        except CatalogError as error:
            self._give_up(error)
            return None
        return found.replace(tzinfo=UTC) if found is not None else None

    def close(self) -> None:
        """Close the catalog."""
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None

    def _give_up(self, error: CatalogError) -> None:
        self.problem = str(error)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
