"""Find new and changed files whose content an archive of the base holds already (`--dedupe`).

A file is read only if the base has a file of its size. Contents are the same if SHA-256 of the
whole is, or SHA-256 of each part where the archive's file was read in parts. A file with several
names, with holes or with extended attributes is always stored: a reference could tell of none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

from pybak.attributes import read_attributes
from pybak.backup.base import Base, Stored
from pybak.backup.read_source import look_again, open_source, read_pieces, state_of
from pybak.backup.verdicts import CHANGED, NEW, STORED_CHANGED, STORED_NEW
from pybak.entries import FILE, Entry, Root, read_entries
from pybak.errors import SourceError
from pybak.formats.manifest import Reference
from pybak.formats.sparse import may_have_holes

_READ_BYTES: Final = 1 << 20
_AT_ONCE: Final = 1000
_STORED: Final = {NEW: STORED_NEW, CHANGED: STORED_CHANGED}

Cut = tuple[int, ...]
"""The sizes of the parts that digests are of."""
Digests = tuple[str, ...]
_ByDigest = dict[Cut, dict[Digests, Stored]]


def refer_to_stored(
    kept: Path,
    roots: Sequence[Root],
    verdicts: bytearray,
    base: Base,
    add: Callable[[Reference], object],
    *,
    threads: int,
    stop: Callable[[], object] = lambda: None,
) -> int:
    """Find the new and changed files whose content is stored; give how many bytes were read.

    `verdicts` are those of the entries in `kept`, and are changed for what is found; `add` gets a
    reference for each.
    """
    sizes = {entry.size for _, entry in _to_store(kept, verdicts)}
    if not sizes:
        return 0
    known = Contents(base.contents(sizes))
    bytes_read = 0
    alike = (one for one in _to_store(kept, verdicts) if one[1].size in known)
    while some := list(islice(alike, _AT_ONCE)):
        files = [(roots[one.root].disk_path(one.path), one) for _, one in some]
        found = known.find(files, threads=threads, stop=stop)
        for (number, entry), stored in zip(some, found, strict=True):
            bytes_read += entry.size
            if stored is not None:
                add(_reference_to(stored, roots[entry.root].member_name(entry.path), entry))
                verdicts[number] = _STORED[verdicts[number]]
    return bytes_read


def _to_store(kept: Path, verdicts: bytearray) -> Iterator[tuple[int, Entry]]:
    """Yield the files that are to be stored and may be references, with their numbers."""
    for number, (entry, verdict) in enumerate(zip(read_entries(kept), verdicts, strict=True)):
        if verdict in _STORED and entry.kind == FILE and entry.size > 0 and entry.links == 1:
            yield number, entry


class Contents:
    """The contents that archives hold, by size and digest; of several the first counts.

    A sparse file's digests may be of its data alone, which is less than its size: these are left
    out.
    """

    def __init__(self, stored: Iterable[Stored]) -> None:
        self._by_size: dict[int, _ByDigest] = {}
        for one in stored:
            sha256, parts = one.digest
            pairs = tuple(parts) or ((one.size, sha256 or ""),)
            cut = tuple(size for size, _ in pairs)
            if sum(cut) == one.size:
                by_cut = self._by_size.setdefault(one.size, {})
                by_cut.setdefault(cut, {}).setdefault(tuple(sha for _, sha in pairs), one)

    def __contains__(self, size: int) -> bool:
        """Whether any has this size."""
        return size in self._by_size

    def find(
        self,
        files: Sequence[tuple[bytes, Entry]],
        *,
        threads: int,
        stop: Callable[[], object] = lambda: None,
    ) -> list[Stored | None]:
        """Read files (path on disk, what the walk saw); give what holds the content of each.

        A file that can't be read, or moved since the walk, has none: its packer will tell. `stop`
        is called now and then; what it raises ends the reading.
        """
        with ThreadPoolExecutor(threads) as pool:
            try:
                return list(pool.map(lambda file: self._find(file[0], file[1], stop), files))
            finally:
                pool.shutdown(cancel_futures=True)

    def _find(self, path: bytes, entry: Entry, stop: Callable[[], object]) -> Stored | None:
        stop()
        by_cut = self._by_size.get(entry.size, {})
        try:
            digests = _digests(path, entry, by_cut, stop)
        except SourceError:
            return None
        for cut, found in digests.items():
            stored = by_cut[cut].get(found)
            if stored is not None:
                return stored
        return None


def _reference_to(stored: Stored, name: bytes, entry: Entry) -> Reference:
    """Give what the manifest says of a file whose content an older archive holds."""
    sha256, parts = stored.digest
    return Reference(
        path=os.fsdecode(name), type=FILE, size=entry.size, mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns, inode=entry.inode, mode=entry.mode, uid=entry.uid, gid=entry.gid,
        run=stored.run_id, member=os.fsdecode(stored.member), sha256=sha256, parts=list(parts),
    )  # fmt: skip


def _digests(
    path: bytes, entry: Entry, cuts: Mapping[Cut, object], stop: Callable[[], object]
) -> dict[Cut, Digests]:
    """Give the digests of a file by each of these cuts; none if it is not what the walk saw.

    Raises SourceError.
    """
    fd, status = open_source(path)
    try:
        seen = state_of(status)
        if (
            seen != (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
            or status.st_dev != entry.device
            or status.st_nlink != 1
            or may_have_holes(status)
            or read_attributes(fd)
        ):
            return {}
        cutters = {cut: _Cutter(cut) for cut in cuts}
        for block in read_pieces(fd, 0, entry.size, _READ_BYTES):
            stop()
            for cutter in cutters.values():
                cutter.add(memoryview(block))
        if state_of(look_again(fd)) != seen:
            return {}
        return {cut: tuple(cutter.found) for cut, cutter in cutters.items()}
    finally:
        os.close(fd)


class _Cutter:
    """Makes the digests of parts, in hex; the sizes of the parts add up to what is given."""

    def __init__(self, cut: Cut) -> None:
        self.found: list[str] = []
        self._sizes = iter(cut)
        self._left = next(self._sizes)
        self._sha = hashlib.sha256()

    def add(self, block: memoryview) -> None:
        """Take the next bytes."""
        while block:
            piece = block[: self._left]
            self._sha.update(piece)
            self._left -= len(piece)
            block = block[len(piece) :]
            if not self._left:
                self.found.append(self._sha.hexdigest())
                self._left = next(self._sizes, 0)
                self._sha = hashlib.sha256()
                if not self._left:
                    return
