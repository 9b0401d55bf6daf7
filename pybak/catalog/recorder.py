"""Keep a run's row in the catalog without ever standing in the run's way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pybak.catalog.runs import Catalog, CatalogError
from pybak.stages import current

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from pybak.catalog.history import History


class RunRecorder:
    """Writes one run's row; a catalog that fails is noted in `problem` and left alone.

    `seq` is the run's number in its job, None where the catalog fails; `run_id` and `job` are as
    they were given.
    """

    def __init__(
        self,
        url: str,
        run_id: str,
        *,
        kind: str,
        job: str,
        options: Mapping[str, Any],
        now: datetime,
        flow_run: str | None = None,
    ) -> None:
        """Insert the run as running; `flow_run` is the id of Prefect's flow run."""
        self.problem: str | None = None
        self.seq: int | None = None
        self.run_id = run_id
        self.job = job
        self._url = url
        self._catalog: Catalog | None = None
        try:
            self._catalog = Catalog(url)
            self.seq = self._catalog.begin_run(
                run_id, kind=kind, job=job, options=options, now=now, flow_run=flow_run
            )
        except CatalogError as error:
            self.problem = str(error)

    @property
    def history(self) -> History | None:
        """What the catalog knows of earlier runs; None where it fails."""
        if self._catalog is None or self.problem is not None:
            return None
        from pybak.catalog.history import History

        return History(self._catalog.database)

    def finish(
        self,
        *,
        status: str,
        counts: Mapping[str, Any],
        now: datetime,
        archive: str | None = None,
        message: str | None = None,
        write: Callable[[Connection], object] | None = None,
    ) -> str | None:
        """Complete the row; give what went wrong with the catalog in this run, if anything.

        `write` takes over where the run made a snapshot: it writes all there is in one transaction.
        Where the history went on without the run, its row tells that, and names no archive: by
        itself one that is a difference would pass for more than it holds.
        """
        if self._catalog is not None and self.problem is None:
            try:
                if write is not None:
                    self._write(write, status=status, counts=counts, now=now)
                else:
                    self._catalog.finish_run(
                        self.run_id,
                        status=status, counts=counts, now=now, archive=archive, message=message,
                    )  # fmt: skip
            except CatalogError as error:
                self.problem = self.problem or str(error)
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
            if self.problem is None and (stages := current()) is not None:
                stages.recorded.append((self._url, self.run_id))
        return self.problem

    def _write(
        self,
        write: Callable[[Connection], object],
        *,
        status: str,
        counts: Mapping[str, Any],
        now: datetime,
    ) -> None:
        from pybak.catalog.snapshots import OvertakenError

        assert self._catalog is not None
        try:
            with self._catalog.database.transaction() as connection:
                write(connection)
        except OvertakenError as error:
            self.problem = str(error)
            self._catalog.finish_run(
                self.run_id, status=status, counts=counts, now=now, message=self.problem
            )
