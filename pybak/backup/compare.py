"""Compare what is kept with an earlier snapshot: what is new, changed, touched, gone.

A member has changed when kind, size, mtime, ctime or inode differ, or when the known version moved
while it was read. Where times can't tell, because a file was touched when it was being read, its
content decides. A folder has changed when its mode or owner did; when only its time moved it is
*touched*: it goes into an archive that is written anyhow, but is no reason to write one.

Entries are compared in one pass, which gives each a verdict of one byte; a second one picks those
that go into the archive. So memory holds the base and a byte an entry. Where an older snapshot is
asked about besides, the verdicts on it follow from these and from what the two have in two
versions.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak.backup.base import (
    IDENTITY,
    KIND_CODES,
    SINCE,
    Base,
    pack_state,
    pack_states,
    unpack_state,
)
from pybak.backup.content import failure_of, same_contents
from pybak.backup.dedupe import refer_to_stored
from pybak.backup.filter import Filtered
from pybak.backup.gone import Guarded, holders, unmounted
from pybak.backup.names import write_names
from pybak.backup.references import ReferenceWriter
from pybak.backup.selection import Picked, Selection, has_changes
from pybak.backup.verdicts import (
    CHANGED,
    CHECK,
    FAILING_CHANGED,
    FAILING_NEW,
    FOLLOW,
    MASK64,
    NEW,
    UNCHANGED,
    How,
    judge,
    judge_folder,
)
from pybak.entries import FILE, FOLDER, Entry, Root, read_entries
from pybak.problems import CHANGED as CHANGED_CODE
from pybak.problems import Problem

_CHECKED_AT_ONCE: Final = 1000
_LOOK_EVERY: Final = 10_000
_BY_STATE: Final = How()


class Seen(NamedTuple):
    """What a run met before its files are compared.

    `guarded` are the names below which nothing is gone, as the walk could not look there; those
    from which a disk was taken away are added. `failures` are path and code of what the base's run
    could not save, `problems` what is told of the comparison in any case. `is_forced` says that an
    archive is written even without a change.
    """

    guarded: Guarded | None = None
    failures: Mapping[str, str] = {}
    problems: Sequence[Problem] = ()
    is_forced: bool = False


def select_changes(
    kept: Filtered,
    roots: Sequence[Root],
    base: Base,
    folder: Path,
    *,
    older: Base | None = None,
    how: How = _BY_STATE,
    seen: Seen | None = None,
    threads: int = 1,
    stop: Callable[[], object] = lambda: None,
) -> Selection:
    """Compare what is kept with `base`; write what is found into `folder`.

    With `older`, a snapshot that is older than `base`, it is selected what differs from that; what
    can't be looked at is as in `base`. Where nothing differs from `base`, that is all there is to
    tell; where nothing differs from `older`, it is selected what differs from `base`. Contents are
    read by so many `threads`; `stop` is called now and then, and what it raises ends the
    comparison.
    """
    comparison = _Comparison(roots, base, older, how, seen or Seen(), threads, stop)
    comparison.run(kept.entries)
    return comparison.write(kept, folder)


class _Comparison:
    def __init__(
        self,
        roots: Sequence[Root],
        base: Base,
        older: Base | None,
        how: How,
        seen: Seen,
        threads: int,
        stop: Callable[[], object],
    ) -> None:
        self._roots = roots
        self._base = base
        self._older = older
        self._how = how
        self._guarded = Guarded() if seen.guarded is None else seen.guarded
        self._failures = seen.failures
        self._problems = seen.problems
        self._is_forced = seen.is_forced
        self._threads = threads
        self._stop = stop
        self._verdicts = bytearray()
        self._checks: list[tuple[int, Entry, int]] = []
        self._follows: list[tuple[int, Entry, int]] = []
        self._firsts: dict[tuple[int, int], tuple[int, int]] = {}
        self._same: dict[tuple[int, int], bool] = {}
        self._moved: tuple[int, bytes, Entry] | None = None
        self._emptied: list[tuple[int, bytes, Entry]] = []
        self._left: dict[bytes, bytes] = {}
        self._state = b""
        self._others: dict[bytes, bytes] = {}
        self._only_older: set[bytes] = set()
        self._by_older: dict[int, int] = {}
        self._unmounted: list[tuple[bytes, Problem]] = []
        self._failing: list[Problem] = []
        self._bytes_read = 0

    def run(self, kept: Path) -> None:
        """Give every entry its verdict."""
        self._left = pack_states(self._base.states())
        if self._older is not None:
            self._mark_others(self._older)
        for entry, name in self._pass(kept):
            if self._moved is not None:
                self._look_below_moved(name)
            self._slow(entry, name)
        if self._moved is not None:
            self._look_below_moved(None)
        self._check()
        self._follow()
        self._keep_unmounted()

    def _mark_others(self, older: Base) -> None:
        """Mark the states that the older snapshot does not have, and keep what it has instead."""
        left = self._left
        for name, state in self._base.other_versions(older):
            self._others[name] = b"" if state is None else pack_state(*state)
            here = left.get(name)
            if here is None:
                self._only_older.add(name)
            else:
                left[name] = here[:-1] + bytes((here[-1] | SINCE,))

    def _pass(self, kept: Path) -> Iterator[tuple[Entry, bytes]]:
        """Decide what is decided easily, and yield the other entries, with their names.

        One iteration an entry: nearly all of the time of a comparison goes by in this loop.
        """
        prefixes = [root.member + b"/" if root.member else b"" for root in self._roots]
        take, codes, pack = self._left.pop, KIND_CODES, IDENTITY.pack
        verdicts = self._verdicts
        by_content = self._how.by_content
        count = 0
        for entry in read_entries(kept):
            path, kind = entry.path, entry.kind
            prefix = prefixes[entry.root]
            name = prefix + path if path else prefix[:-1]
            count += 1
            if count % _LOOK_EVERY == 0:
                self._stop()
            is_file = kind == FILE
            try:
                identity = pack(
                    codes[kind], entry.size if is_file else 0, entry.mtime_ns, entry.ctime_ns,
                    entry.inode,
                )  # fmt: skip
            except struct.error:
                identity = b""
            state = take(name, b"")
            if (
                identity
                and state.startswith(identity)
                and not state[-1]
                and self._moved is None
                and not (by_content and is_file)
            ):
                verdicts.append(UNCHANGED)
                continue
            self._state = state
            yield entry, name

    def _slow(self, entry: Entry, name: bytes) -> None:
        """Decide about one entry whose state is not plainly that of the base."""
        verdict = NEW
        number = len(self._verdicts)
        if self._state:
            known = unpack_state(self._state)
            verdict = judge(entry, known, self._how)
            if entry.kind == FOLDER and (
                known.device not in (0, entry.device & MASK64)
                or known.inode != entry.inode & MASK64
            ):
                self._moved = (number, name, entry)
            if verdict == CHECK:
                self._checks.append((number, entry, known.ident))
            elif verdict == FOLLOW:
                self._follows.append((number, entry, known.inode))
            if self._how.ignore_inode and entry.links > 1 and known.kind == KIND_CODES[FILE]:
                self._firsts.setdefault((entry.device, entry.inode), (number, known.inode))
        if verdict in (NEW, CHANGED) and self._failures and self._still_fails(entry):
            verdict = FAILING_NEW if verdict == NEW else FAILING_CHANGED
        if (other := self._others.get(name)) is not None:
            self._only_older.discard(name)
            self._by_older[number] = self._judge_older(entry, verdict, other)
        self._verdicts.append(verdict)
        if len(self._checks) >= _CHECKED_AT_ONCE:
            self._check()

    def _judge_older(self, entry: Entry, verdict: int, other: bytes) -> int:
        """Give the verdict where the older snapshot has another version than the base, or none."""
        if verdict in (FAILING_NEW, FAILING_CHANGED):
            return FAILING_CHANGED if other else FAILING_NEW
        if not other:
            return NEW
        if entry.kind == FOLDER:
            return judge_folder(entry, unpack_state(other), ignore_ctime=self._how.ignore_ctime)
        return CHANGED

    def _still_fails(self, entry: Entry) -> bool:
        """Whether this could not be read for the base, and can't be for the same reason now."""
        disk = self._roots[entry.root].disk_path(entry.path)
        path = os.fsdecode(disk)
        code = self._failures.get(path)
        if code in (None, CHANGED_CODE) or entry.kind != FILE:
            return False
        error = failure_of(disk, self._stop)
        if error is None or error.code != code:
            return False
        self._failing.append(Problem(path, error.code, str(error)))
        return True

    def _look_below_moved(self, name: bytes | None) -> None:
        """See whether the folder before this name, which is another than it was, is empty."""
        assert self._moved is not None
        if name is None or not name.startswith(self._moved[1] + b"/"):
            self._emptied.append(self._moved)
        self._moved = None

    def _check(self) -> None:
        """Compare the contents of the files that wait for it."""
        checks = self._checks
        if not checks:
            return
        digests = self._base.digests([ident for _, _, ident in checks])
        files = [
            (self._roots[entry.root].disk_path(entry.path), entry, digests.get(ident))
            for _, entry, ident in checks
        ]
        results = same_contents(files, threads=self._threads, stop=self._stop)
        for (number, entry, _), is_same in zip(checks, results, strict=True):
            self._bytes_read += entry.size
            self._verdicts[number] = UNCHANGED if is_same else CHANGED
            if entry.links > 1:
                key = (entry.device, entry.inode)
                self._same[key] = is_same and self._same.get(key, True)
        checks.clear()

    def _follow(self) -> None:
        """Decide about other names of files, by their contents or by their first names.

        A name whose inode is another follows a first name only if both had one inode in the base.
        """
        for number, entry, inode in self._follows:
            key = (entry.device, entry.inode)
            if inode == entry.inode & MASK64:
                is_same = self._same.get(key, False)
            else:
                first, known = self._firsts.get(key, (number, -1))
                is_same = known == inode and self._verdicts[first] == UNCHANGED
            self._verdicts[number] = UNCHANGED if is_same else CHANGED

    def _keep_unmounted(self) -> None:
        """Take nothing for gone below folders from which a disk was taken away."""
        if self._how.allow_empty:
            return
        numbers = {name: number for number, name, _ in self._emptied}
        emptied = {name: entry for _, name, entry in self._emptied}
        suspects = {name: emptied[name] for name in holders(emptied, self._left)}
        for name, problem in unmounted(suspects, self._base, self._roots):
            self._guarded.add(name)
            self._unmounted.append((name, problem))
            # Its old version stays too: it knows of the device.
            self._verdicts[numbers[name]] = UNCHANGED
            self._by_older.pop(numbers[name], None)

    def write(self, kept: Filtered, folder: Path) -> Selection:
        """Write what goes into the archive, and the names that the run must remember."""
        gone = sorted(self._guarded.keep_out(self._left))
        failures = self._failures
        problems = (*self._problems, *(problem for _, problem in self._unmounted))
        is_forced = self._is_forced or any(
            failures.get(problem.path) != problem.code for _, problem in self._unmounted
        )
        if not (is_forced or gone or has_changes(self._verdicts)):
            failing = len(self._failing)
            nothing = folder / "selected"
            nothing.write_bytes(b"")
            return Selection(
                nothing, 0, 0, 0, new=0, unchanged=kept.files - failing, failing=failing,
                is_empty=True, problems=(*problems, *self._failing), bytes_read=self._bytes_read,
            )  # fmt: skip
        if self._older is None:
            return self._write(kept, folder, self._base, self._verdicts, gone, (), problems)
        verdicts = bytearray(self._verdicts)
        for number, verdict in self._by_older.items():
            verdicts[number] = verdict
        gone_older = sorted(
            {*(name for name in gone if self._is_in_older(name)), *self._only_older}
        )
        as_now = self._kept_since()
        if has_changes(verdicts) or gone_older or as_now:
            return self._write(kept, folder, self._older, verdicts, gone_older, as_now, problems)
        selected = self._write(kept, folder, self._base, self._verdicts, gone, (), problems)
        return msgspec.structs.replace(selected, goes_by_newest=True)

    def _is_in_older(self, name: bytes) -> bool:
        return self._others.get(name) != b""

    def _kept_since(self) -> list[bytes]:
        """Give what stays as it is in the base, and is not so in the older snapshot."""
        kept = {name for name, _ in self._unmounted if name in self._others}
        kept.update(
            name for name in self._left if name in self._others and self._guarded.covers(name)
        )
        return sorted(kept)

    def _write(
        self,
        kept: Filtered,
        folder: Path,
        base: Base,
        verdicts: bytearray,
        gone: Sequence[bytes],
        as_now: Iterable[bytes],
        problems: tuple[Problem, ...],
    ) -> Selection:
        """Write the difference to a snapshot; `as_now` are names that stay as `self._base` has."""
        gone_files = sum(self._kind_of(name) != KIND_CODES[FOLDER] for name in gone)
        with ReferenceWriter(folder / "references") as references:
            if self._how.dedupe:
                self._bytes_read += refer_to_stored(
                    kept.entries, self._roots, verdicts, base, references.add,
                    threads=self._threads, stop=self._stop,
                )  # fmt: skip
            for reference in self._base.references(as_now):
                references.add(reference)
        self._left = {}
        self._others = {}
        earlier = set(base.gone_since_full())
        picked = Picked(folder, earlier)
        picked.pick(kept.entries, verdicts, self._roots)
        gone_names, earlier_names = folder / "names.gone", folder / "names.earlier"
        write_names(gone_names, gone)
        write_names(earlier_names, sorted(earlier.difference(picked.returned)))
        return Selection(
            picked.entries, picked.files, picked.folders, picked.total_bytes, new=picked.new,
            changed=picked.changed, unchanged=kept.files - picked.new - picked.changed,
            gone=gone_files, stored=picked.stored, stored_bytes=picked.stored_bytes,
            references=references.path, reference_runs=tuple(references.runs),
            reference_uids=tuple(references.uids), reference_gids=tuple(references.gids),
            changed_names=picked.changed_names, gone_names=gone_names,
            earlier_names=earlier_names, returned_names=picked.returned_names, problems=problems,
            bytes_read=self._bytes_read,
        )  # fmt: skip

    def _kind_of(self, name: bytes) -> int:
        return (self._left.get(name) or self._others[name])[0]
