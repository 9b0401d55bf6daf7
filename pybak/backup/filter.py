"""Keep or drop what a walk found: patterns, the size limit, what the format can't hold.

Streams one entry file into another. Folders that an exclude pattern names were not walked at
all (`pybak.backup.discover`), so here patterns drop files, and whatever no include pattern asks
for. The roots themselves are always kept.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from pybak.backup.discover import Discovery
from pybak.backup.rules import Chooser, Rules, pattern_reason
from pybak.entries import FILE, FOLDER, KIND_NAMES, Entry, EntryWriter, Root, read_entries
from pybak.problems import NO_MATCH, UNSUPPORTED, Problem, write_problems


class Filtered(msgspec.Struct, frozen=True):
    """What a run is to store.

    `files` counts everything but folders, `total_bytes` the regular files among them. `excluded`
    counts by reason what the walk and the filter left out together; what the format can't hold
    is in neither, it is a problem of its own. `problems` lists the files of problems so far.
    """

    entries: Path
    problems: tuple[Path, ...]
    files: int
    folders: int
    total_bytes: int
    excluded: dict[str, int]
    problem_count: int


def filter_entries(
    discovery: Discovery,
    roots: Sequence[Root],
    rules: Rules,
    out: Path,
    problems_out: Path,
    *,
    unsupported: frozenset[str] = frozenset(),
    format_name: str = "zip",
) -> Filtered:
    """Write the entries to keep to `out` and what was found wrong to `problems_out`.

    With include patterns a folder is kept if one matches it, or if something below it is kept.
    An include pattern that matches no entry is a problem. Entries whose kind is in `unsupported`
    are dropped with a problem that names `format_name`. Where there is nothing to decide, `out`
    becomes another name of the walk's entry file. Both files are replaced.
    """
    # It may be a second name of the walk's file, from an earlier try.
    out.unlink(missing_ok=True)
    sieve = _Sieve(roots, rules, unsupported, format_name)
    if not (
        rules.include
        or rules.exclude
        or rules.max_file_size is not None
        or not unsupported.isdisjoint(discovery.counts)
    ):
        _same_file(discovery.entries, out)
        write_problems(problems_out, ())
        sieve.counts.update(discovery.counts)
        sieve.total_bytes = discovery.total_bytes
    else:
        with EntryWriter(out) as entries:
            found = read_entries(discovery.entries)
            write_problems(problems_out, sieve.run(found, entries.add))
    excluded = Counter(discovery.excluded)
    excluded.update(sieve.excluded)
    folders = sieve.counts[FOLDER]
    return Filtered(
        entries=out,
        problems=(discovery.problems, problems_out),
        files=sieve.counts.total() - folders,
        folders=folders,
        total_bytes=sieve.total_bytes,
        excluded=dict(excluded),
        problem_count=discovery.problem_count + sieve.problem_count,
    )


class _Sieve:
    def __init__(
        self, roots: Sequence[Root], rules: Rules, unsupported: frozenset[str], format_name: str
    ) -> None:
        self._roots = roots
        self._rules = rules
        self._unsupported = unsupported
        self._format_name = format_name
        self.counts: Counter[str] = Counter()
        self.total_bytes = 0
        self.excluded: Counter[str] = Counter()
        self.problem_count = 0

    def run(self, found: Iterator[Entry], add: Callable[[Entry], None]) -> Iterator[Problem]:
        """Pass on what is kept; problems come out."""
        for problem in self._select(found, add):
            self.problem_count += 1
            yield problem

    def _select(self, found: Iterator[Entry], add: Callable[[Entry], None]) -> Iterator[Problem]:
        unsupported = self._unsupported
        wanted = self._included if self._rules.include else self._not_excluded
        chooser = Chooser(self._rules.include, self._rules.exclude)
        # Folders above the current entry that nothing asked for yet.
        waiting: list[Entry] = []
        for entry in found:
            while waiting and not _is_below(entry, waiting[-1]):
                waiting.pop()
            if not wanted(entry, chooser):
                if entry.kind == FOLDER:
                    waiting.append(entry)
                continue
            if entry.kind in unsupported:
                disk = self._roots[entry.root].disk_path(entry.path)
                kind = KIND_NAMES[entry.kind]
                message = f"a {kind}; {self._format_name} can't hold it"
                yield Problem(os.fsdecode(disk), UNSUPPORTED, message)
                continue
            for folder in waiting:
                self._keep(folder, add)
            waiting.clear()
            self._keep(entry, add)
        for text in chooser.unmatched():
            message = "this include pattern matched nothing; it is for paths below a source"
            yield Problem(text, NO_MATCH, message)

    def _not_excluded(self, entry: Entry, _chooser: Chooser) -> bool:
        """Decide where there are no include patterns: no folder above is excluded."""
        if entry.kind == FOLDER or not entry.path:
            return True
        exclude = self._rules.exclude
        if exclude:
            hit = exclude.last_match(os.fsdecode(entry.path))
            if hit >= 0 and exclude.takes[hit]:
                self.excluded[pattern_reason(exclude.texts[hit])] += 1
                return False
        return self._small_enough(entry)

    def _included(self, entry: Entry, chooser: Chooser) -> bool:
        """Decide where there are include patterns; folders left out are not counted."""
        path = os.fsdecode(entry.path)
        if not path:
            if entry.kind != FOLDER:
                chooser.note(os.fsdecode(os.path.basename(self._roots[entry.root].source)))
            return True
        if entry.kind == FOLDER:
            return chooser.reason(path + "/") is None
        reason = chooser.reason(path)
        if reason is not None:
            self.excluded[reason] += 1
            return False
        return self._small_enough(entry)

    def _small_enough(self, entry: Entry) -> bool:
        limit = self._rules.max_file_size
        if limit is None or entry.size <= limit or entry.kind != FILE:
            return True
        self.excluded[self._rules.size_reason] += 1
        return False

    def _keep(self, entry: Entry, add: Callable[[Entry], None]) -> None:
        add(entry)
        self.counts[entry.kind] += 1
        if entry.kind == FILE:
            self.total_bytes += entry.size


def _is_below(entry: Entry, folder: Entry) -> bool:
    return entry.root == folder.root and entry.path.startswith(folder.path + b"/")


def _same_file(source: Path, target: Path) -> None:
    """Give a file a second name; copy where links can't be made."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
