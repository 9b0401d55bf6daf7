"""Write how long the stages of a run took, once it is over.

That comes after the end of the run's row, since to write that row is a stage itself, and so is to
tell people. A run that is killed in between has a row without stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import update

from pybak.catalog.engine import Database
from pybak.catalog.models import Run
from pybak.stages import Stage, to_rows

PATIENCE_SECONDS: Final = 2.0
"""How long another writer is waited for: the run must not end later for this."""


def write_stages(url: str, run_id: str, stages: Sequence[Stage]) -> None:
    """Add its stages to the row of a run, if there is one. Raises CatalogError."""
    database = Database(url, busy_seconds=PATIENCE_SECONDS)
    try:
        with database.transaction() as connection:
            connection.execute(
                update(Run).where(Run.run_id == run_id).values(stages=to_rows(stages))  # type: ignore[arg-type]
            )
    finally:
        database.close()
