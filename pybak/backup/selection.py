"""What of a run's files goes into its archive, and what else its manifest tells, in small files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pybak.backup.filter import Filtered
from pybak.backup.names import write_names
from pybak.backup.verdicts import (
    CHANGED,
    FAILING_NEW,
    NEW,
    STORED_CHANGED,
    STORED_NEW,
    UNCHANGED,
)
from pybak.entries import FILE, FOLDER, Entry, EntryWriter, Root, read_entries
from pybak.problems import Problem

_OF_OLD_NAMES = (NEW, FAILING_NEW, STORED_NEW)


class Selection(msgspec.Struct, frozen=True):
    """What of a run's files goes into its archive, and what the comparison counted.

    `entries` are for the archive: `files` of them (all but folders), `folders`, and `total_bytes`
    of regular files. `new`, `changed`, `unchanged`, `failing` count files, `gone` those that the
    base had; `is_empty` tells that there is no reason to write an archive. `problems` are what the
    comparison found wrong, `bytes_read` what it read.

    `references` are the members that older archives hold (`pybak.backup.references`), those of the
    runs `reference_runs`, of the owners `reference_uids` and groups `reference_gids`; `stored` of
    them, which have `stored_bytes`, are among the new and changed files. `goes_by_newest` tells
    that all is the difference to the newest snapshot, as there is none to the other one that was
    asked about.

    Four files have names (`pybak.backup.names`): `changed_names` the files that the base has in
    another version, `gone_names` what the base has and is gone, `earlier_names` what was gone
    before since the full run and still is, `returned_names` what was so and is new now.
    """

    entries: Path
    files: int
    folders: int
    total_bytes: int
    new: int
    changed: int = 0
    unchanged: int = 0
    failing: int = 0
    gone: int = 0
    is_empty: bool = False
    goes_by_newest: bool = False
    stored: int = 0
    stored_bytes: int = 0
    references: Path | None = None
    reference_runs: tuple[str, ...] = ()
    reference_uids: tuple[int, ...] = ()
    reference_gids: tuple[int, ...] = ()
    changed_names: Path | None = None
    gone_names: Path | None = None
    earlier_names: Path | None = None
    returned_names: Path | None = None
    problems: tuple[Problem, ...] = ()
    bytes_read: int = 0


def select_all(kept: Filtered) -> Selection:
    """Select everything, as a full run does."""
    return Selection(kept.entries, kept.files, kept.folders, kept.total_bytes, new=kept.files)


class Picked:
    """Picks the entries that go into an archive, by their verdicts, and counts them.

    `earlier` are names that were gone; `returned` those of them that are new now.
    """

    def __init__(self, folder: Path, earlier: set[bytes]) -> None:
        self.entries = folder / "selected"
        self.changed_names = folder / "names.changed"
        self.returned_names = folder / "names.returned"
        self._earlier = earlier
        self.returned: list[bytes] = []
        self.files = self.folders = self.total_bytes = self.new = self.changed = 0
        self.stored = self.stored_bytes = 0

    def pick(self, kept: Path, verdicts: bytearray, roots: Sequence[Root]) -> None:
        """Write the entries and the names."""
        with EntryWriter(self.entries) as entries:
            write_names(self.changed_names, self._names(kept, verdicts, roots, entries.add))
        write_names(self.returned_names, self.returned)

    def _names(
        self,
        kept: Path,
        verdicts: bytearray,
        roots: Sequence[Root],
        add: Callable[[Entry], None],
    ) -> Iterator[bytes]:
        """Pass on what is picked; the names of files come out that the base has already."""
        for entry, verdict in zip(read_entries(kept), verdicts, strict=True):
            if verdict == UNCHANGED:
                continue
            name = roots[entry.root].member_name(entry.path)
            is_new = verdict in _OF_OLD_NAMES
            if is_new and name in self._earlier:
                self.returned.append(name)
            if verdict in (STORED_NEW, STORED_CHANGED):
                self.stored += 1
                self.stored_bytes += entry.size
            else:
                add(entry)
                if entry.kind == FOLDER:
                    self.folders += 1
                    continue
                self.files += 1
                if entry.kind == FILE:
                    self.total_bytes += entry.size
            if is_new:
                self.new += 1
            else:
                self.changed += 1
                yield name


def has_changes(verdicts: bytearray) -> bool:
    """Whether any entry is a reason to write an archive."""
    return any(one in verdicts for one in (NEW, CHANGED, STORED_NEW, STORED_CHANGED))
