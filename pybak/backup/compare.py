"""Compare what is kept with an earlier snapshot: what is new, changed, touched, gone.

A member has changed when kind, size, mtime, ctime or inode differ, or when the known version moved
while it was read. Where times can't tell, because a file was touched when it was being read, its
content decides. A folder has changed when its mode or owner did; when only its time moved it is
*touched*: it goes into an archive that is written anyhow, but is no reason to write one.

Entries are compared in one pass, which gives each a verdict of one byte; a second one picks those
that go into the archive. So memory holds the base and a byte an entry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak.backup.base import (
    IDENTITY,
    KIND_CODES,
    Base,
    Known,
    clamped,
    pack_states,
    unpack_state,
)
from pybak.backup.content import failure_of, same_contents
from pybak.backup.filter import Filtered
from pybak.backup.gone import Guarded, holders, unmounted
from pybak.backup.names import write_names
from pybak.entries import FILE, FOLDER, HARD_LINK, Entry, EntryWriter, Root, read_entries
from pybak.problems import CHANGED as CHANGED_CODE
from pybak.problems import Problem

UNCHANGED: Final = 0
NEW: Final = 1
CHANGED: Final = 2
TOUCHED: Final = 3
FAILING_NEW: Final = 4
FAILING_CHANGED: Final = 5
"""It could not be read by the run that made the base, and can't be now."""
_CHECK: Final = 6
_FOLLOW: Final = 7
"""Another name of a file that decides for it."""

_CHECKED_AT_ONCE: Final = 1000
_LOOK_EVERY: Final = 10_000
_MASK64: Final = (1 << 64) - 1


class How(NamedTuple):
    """What counts as a change."""

    ignore_ctime: bool = False
    ignore_inode: bool = False
    by_content: bool = False
    allow_empty: bool = False


_BY_STATE: Final = How()


class Selection(msgspec.Struct, frozen=True):
    """What of a run's files goes into its archive, and what the comparison counted.

    `entries` are for the archive: `files` of them (all but folders), `folders`, and `total_bytes`
    of regular files. `new`, `changed`, `unchanged`, `failing` count files, `gone` those that the
    base had; `is_empty` tells that there is no reason to write an archive. `problems` are what the
    comparison found wrong, `bytes_read` what it read.

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
    changed_names: Path | None = None
    gone_names: Path | None = None
    earlier_names: Path | None = None
    returned_names: Path | None = None
    problems: tuple[Problem, ...] = ()
    bytes_read: int = 0


def select_all(kept: Filtered) -> Selection:
    """Select everything, as a full run does."""
    return Selection(kept.entries, kept.files, kept.folders, kept.total_bytes, new=kept.files)


def select_changes(
    kept: Filtered,
    roots: Sequence[Root],
    base: Base,
    folder: Path,
    *,
    how: How = _BY_STATE,
    guarded: Guarded | None = None,
    failures: Mapping[str, str] | None = None,
    is_forced: bool = False,
    threads: int = 1,
    stop: Callable[[], object] = lambda: None,
) -> Selection:
    """Compare what is kept with `base`; write what is found into `folder`.

    `guarded` are the names below which nothing is gone, as the walk could not look there; those
    from which a disk was taken away are added.
    `failures` are path and code of what the base's run could not save. `is_forced` says that an
    archive is written even without a change. Contents are read by so many `threads`; `stop` is
    called now and then, and what it raises ends the comparison.
    """
    comparison = _Comparison(
        roots, base, how, Guarded() if guarded is None else guarded, failures or {}, threads, stop
    )
    comparison.run(kept.entries)
    return comparison.write(kept, folder, is_forced=is_forced)


class _Comparison:
    def __init__(
        self,
        roots: Sequence[Root],
        base: Base,
        how: How,
        guarded: Guarded,
        failures: Mapping[str, str],
        threads: int,
        stop: Callable[[], object],
    ) -> None:
        self._roots = roots
        self._base = base
        self._how = how
        self._guarded = guarded
        self._failures = failures
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
        self._unmounted: list[Problem] = []
        self._failing: list[Problem] = []
        self._bytes_read = 0

    def run(self, kept: Path) -> None:
        """Give every entry its verdict."""
        self._left = pack_states(self._base.states())
        for entry, name in self._pass(kept):
            if self._moved is not None:
                self._look_below_moved(name)
            self._slow(entry, name)
        if self._moved is not None:
            self._look_below_moved(None)
        self._check()
        self._follow()
        self._keep_unmounted()

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
            verdict = self._judge(entry, known)
            if entry.kind == FOLDER and (
                known.device not in (0, entry.device & _MASK64)
                or known.inode != entry.inode & _MASK64
            ):
                self._moved = (number, name, entry)
            if verdict == _CHECK:
                self._checks.append((number, entry, known.ident))
            elif verdict == _FOLLOW:
                self._follows.append((number, entry, known.inode))
            if self._how.ignore_inode and entry.links > 1 and known.kind == KIND_CODES[FILE]:
                self._firsts.setdefault((entry.device, entry.inode), (number, known.inode))
        if verdict in (NEW, CHANGED) and self._failures and self._still_fails(entry):
            verdict = FAILING_NEW if verdict == NEW else FAILING_CHANGED
        self._verdicts.append(verdict)
        if len(self._checks) >= _CHECKED_AT_ONCE:
            self._check()

    def _judge(self, entry: Entry, known: Known) -> int:
        if entry.kind == FOLDER:
            return _judge_folder(entry, known, ignore_ctime=self._how.ignore_ctime)
        how = self._how
        is_other_name = known.kind == KIND_CODES[HARD_LINK] and entry.links > 1
        if (
            known.is_changed
            or not (is_other_name or known.kind == KIND_CODES[entry.kind])
            or (entry.kind == FILE and not is_other_name and known.size != entry.size)
            or known.mtime_ns != clamped(entry.mtime_ns)
            or not (how.ignore_ctime or known.ctime_ns == clamped(entry.ctime_ns))
            or not (how.ignore_inode or known.inode == entry.inode & _MASK64)
        ):
            return CHANGED
        if known.is_racy and entry.kind != FILE:
            return CHANGED
        if (known.is_racy or how.ignore_ctime) and (known.mode, known.uid, known.gid) != (
            entry.mode, entry.uid, entry.gid,
        ):  # fmt: skip
            return CHANGED
        if is_other_name and known.inode != entry.inode & _MASK64:
            return _FOLLOW  # neither its size nor its kind can be compared
        if known.is_racy or (how.by_content and entry.kind == FILE):
            return _FOLLOW if is_other_name else _CHECK
        return UNCHANGED

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
            if inode == entry.inode & _MASK64:
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
            self._unmounted.append(problem)
            # Its old version stays too: it knows of the device.
            self._verdicts[numbers[name]] = UNCHANGED

    def write(self, kept: Filtered, folder: Path, *, is_forced: bool) -> Selection:
        """Write what goes into the archive, and the names that the run must remember."""
        verdicts = self._verdicts
        gone = sorted(self._guarded.keep_out(self._left))
        gone_files = sum(self._left[name][0] != KIND_CODES[FOLDER] for name in gone)
        self._left = {}
        failures = self._failures
        is_forced |= any(failures.get(one.path) != one.code for one in self._unmounted)
        if not (is_forced or gone or NEW in verdicts or CHANGED in verdicts):
            failing = len(self._failing)
            nothing = folder / "selected"
            nothing.write_bytes(b"")
            return Selection(
                nothing, 0, 0, 0, new=0, unchanged=kept.files - failing, failing=failing,
                is_empty=True, problems=(*self._unmounted, *self._failing),
                bytes_read=self._bytes_read,
            )  # fmt: skip
        earlier = set(self._base.gone_since_full())
        picked = _Picked(folder, earlier)
        picked.pick(kept.entries, verdicts, self._roots)
        gone_names, earlier_names = folder / "names.gone", folder / "names.earlier"
        write_names(gone_names, gone)
        write_names(earlier_names, sorted(earlier.difference(picked.returned)))
        return Selection(
            picked.entries, picked.files, picked.folders, picked.total_bytes, new=picked.new,
            changed=picked.changed, unchanged=kept.files - picked.new - picked.changed,
            gone=gone_files, changed_names=picked.changed_names, gone_names=gone_names,
            earlier_names=earlier_names, returned_names=picked.returned_names,
            problems=tuple(self._unmounted), bytes_read=self._bytes_read,
        )  # fmt: skip


def _judge_folder(entry: Entry, known: Known, *, ignore_ctime: bool) -> int:
    if known.kind != KIND_CODES[FOLDER] or (known.mode, known.uid, known.gid) != (
        entry.mode, entry.uid, entry.gid,
    ):  # fmt: skip
        return CHANGED
    if known.mtime_ns != clamped(entry.mtime_ns):
        return TOUCHED
    if not ignore_ctime and known.ctime_ns != clamped(entry.ctime_ns):
        return CHANGED
    return UNCHANGED


class _Picked:
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
            add(entry)
            name = roots[entry.root].member_name(entry.path)
            if verdict in (NEW, FAILING_NEW) and name in self._earlier:
                self.returned.append(name)
            if entry.kind == FOLDER:
                self.folders += 1
                continue
            self.files += 1
            if entry.kind == FILE:
                self.total_bytes += entry.size
            if verdict in (NEW, FAILING_NEW):
                self.new += 1
            else:
                self.changed += 1
                yield name
