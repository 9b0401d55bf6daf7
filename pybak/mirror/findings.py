"""What a piece of a comparison found: rows that go to files, counts, and what is to be told."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pybak.backup.rules import Chooser
from pybak.errors import reason
from pybak.mirror.compared import Compared, Tally, Todo
from pybak.mirror.rows import (
    FILE_COST,
    Batch,
    BatchWriter,
    FolderRow,
    LinkedRow,
    Row,
    write_rows,
)
from pybak.mirror.surplus import SurplusFinder
from pybak.problems import IO_ERROR, VANISHED, Problem, pack_problems

_BATCH_COST: Final = 32 << 20


class _Batches:
    """Rows of one kind, written to a file as soon as there are enough of them."""

    def __init__(self, path: Path) -> None:
        self._writer = BatchWriter(path)
        self._rows: list[Row] = []
        self._cost = 0
        self._done: list[Batch] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._cost += row.size + FILE_COST
        if self._cost >= _BATCH_COST:
            self.close()

    def close(self) -> list[Batch]:
        """Write what is left; give all batches."""
        if self._rows:
            self._done.append(self._writer.add(self._rows))
            self._rows, self._cost = [], 0
        return self._done


class Findings:
    """Takes down what is found; rows go to files whose names begin with `out`."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._batches = _Batches(self._file("batches"))
        self._late = _Batches(self._file("late"))
        self.folders: list[FolderRow] = []
        self.linked: list[LinkedRow] = []
        self.temporaries: list[bytes] = []
        self.excluded: Counter[str] = Counter()
        self.tally = Tally()
        self._problems: list[Problem] = []
        self.add = self._batches.add
        """Takes down what is to be made or changed."""
        self.add_late = self._late.add
        """Takes down what takes the place of a folder."""

    def _file(self, what: str) -> Path:
        return self._out.with_name(f"{self._out.name}.{what}")

    def note(self, path: bytes, code: str, message: str) -> None:
        """Take down what is to be told of a path."""
        self._problems.append(Problem(os.fsdecode(path), code, message))

    def skip(self, path: bytes, code: str, message: str) -> None:
        """Take down what can't be copied and is no failure."""
        self.tally.found += 1
        self.tally.skipped += 1
        self.note(path, code, message)

    def not_there(self, path: bytes, error: OSError) -> None:
        """Take down what was listed and can't be looked at."""
        if error.errno == errno.ENOENT:
            self.skip(path, VANISHED, "was gone before it could be read")
        else:
            self.tally.found += 1
            self.tally.failed += 1
            self.note(path, IO_ERROR, reason(error))

    def result(
        self, rest: Sequence[Todo], surplus: SurplusFinder, chooser: Chooser | None
    ) -> Compared:
        """Write the rows and give what came of it; `rest` is what was not compared."""
        lists = {
            name: [write_rows(self._file(name), rows)] if rows else []
            for name, rows in (
                ("folders", self.folders),
                ("linked", self.linked),
                ("surplus", surplus.rows),
            )
        }
        self.tally.there += surplus.entries
        self.tally.excluded = dict(self.excluded)
        return Compared(
            rest=list(rest),
            tally=self.tally,
            batches=self._batches.close(),
            late=self._late.close(),
            surplus_count=len(surplus.rows),
            temporaries=self.temporaries,
            problems=pack_problems([*self._problems, *surplus.problems]),
            unmatched=chooser.unmatched() if chooser is not None else [],
            **lists,
        )
