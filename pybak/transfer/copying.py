"""One archive copied from a storage to another, file by file, and all of it or nothing.

The first volume comes last, for a set without it is no archive, and checksum files behind it. A
file that is there already with the same content counts as copied, if it is not the source itself;
any other one stays, and the archive is refused. What goes is compared with the digests of the
catalog before it gets its name, and read back afterwards if that is asked for. What a failure
leaves is taken back, and after a kill by the next run (`pybak.storage.unfinished`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, ExistsError, PlanError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.opening import is_remote, join
from pybak.storage.probe import Places
from pybak.storage.protocol import Storage, Stored, Upload
from pybak.storage.unfinished import UploadNotes, is_whole, may_be
from pybak.transfer.streaming import FileAt, Stream, Tally
from pybak.transfer.sums import MOST_BYTES, lists, names_of_sums
from pybak.volumes.model import Volume, VolumePart

if TYPE_CHECKING:
    from pybak.catalog.facts import StoredVolume

Advance = Callable[[int, int, bytes], None]
"""Called with the files finished and the bytes read since the last call, and the file's path."""


class SourceFile(NamedTuple):
    """A file of the archive that is copied, and what the catalog knows of its content."""

    at: FileAt
    digests: StoredVolume | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many bytes each digest of a part is of; none where there is one of the whole."""
        return tuple(size for size, _ in self.digests.parts) if self.digests is not None else ()


class ItselfError(PlanError):
    """The destination of a copy is the archive itself; `told` says so without what to do."""

    def __init__(self, path: str) -> None:
        self.told = f"{path}: is the archive itself under another address"
        super().__init__(f"{self.told}; choose another --to")


class Copied(NamedTuple):
    """What a copy came to: its volumes, how many files were sent and how many bytes of them."""

    volumes: tuple[Volume, ...]
    files: int
    size: int


class ArchiveCopy:
    """A copy of one archive while it is made."""

    def __init__(
        self,
        files: Sequence[SourceFile],
        target: Storage,
        stream: Stream,
        *,
        notes: tuple[Path, str],
        reads_back: bool = True,
        moves: bool = False,
        places: Places | None = None,
        advance: Advance = lambda _files, _size, _path: None,
    ) -> None:
        """Take the volumes in order; `notes` are the folder and the name of what a kill leaves.

        If it `moves`, the source will be deleted: of a file that is there it is proved that it is
        another one, whatever it looks like. `places` are what is known of that.
        """
        self._files = files
        self._target = target
        self._stream = stream
        self._notes_at = notes
        self._reads_back = reads_back
        self._moves = moves
        self._places = places if places is not None else Places()
        self._advance = advance
        self._made: list[Stored] = []
        self._wrong: list[Stored] = []  # of these, what holds other bytes than were sent
        self._doubtful: tuple[str, int, int] | None = None
        self._size = 0
        self._is_left = False  # an upload could not be dropped

    def run(self, archive: str) -> Copied:
        """Copy all of it; `archive` is its name without a folder.

        Raises ExistsError for a name that is taken by another content, ArchiveError if the source
        is not what was written, ItselfError if both places are one, and StorageError.
        """
        origin = self._files[0].at.storage
        sums = find_sums(origin, [file.at.name for file in self._files], archive)
        for file in (*(one.at for one in self._files), *sums):
            self._check_other(file, check_room(file, self._target))
        first = self._files[0].at.name
        folder, run_id = self._notes_at
        notes = UploadNotes(folder, run_id, self._target.address, first)
        keep = True
        try:
            volumes = {
                file.at.name: self._copy(file, notes) for file in (*self._files[1:], self._files[0])
            }
            for file in sums:
                self._copy_small(file, notes)
            self._check_all_there()
            keep = False
        except BaseException:
            keep = not self._take_back()
            raise
        finally:
            notes.close(keep=keep)
        return Copied(
            tuple(volumes[file.at.name] for file in self._files), len(self._made), self._size
        )

    def _take_back(self) -> bool:
        """Delete what was made; say whether that worked.

        Of a set that somebody else completed with it nothing goes but what arrived damaged.
        """
        first = self._files[0].at.name
        try:
            if self._doubtful is not None:
                name, size, since_ns = self._doubtful
                found = self._target.stat(name)
                if found is not None and may_be(found, size, since_ns):
                    self._made.append(found)
            # Without the first volume it is no archive any more, and nobody takes it for one.
            for one in sorted(self._made, key=lambda one: one.name != first):
                # Asked each time: somebody may have found the others, and be completing the set.
                if one.name == first or one in self._wrong or not is_whole(self._target, first):
                    self._target.delete(one.name, version=one.version)
        except StorageError:
            return False
        return not self._is_left

    def _check_all_there(self) -> None:
        """Raise StorageError if a volume was deleted before the first one made the set whole.

        Whoever takes back what a run left deletes none from then on.
        """
        for file in self._files[1:]:
            found = self._target.stat(file.at.name)
            if found is None or found.size != file.at.known.size:
                raise StorageError(f"{printable(self._path(file.at))}: is gone again; try again")

    def _check_other(self, file: FileAt, there: Stored | None) -> None:
        """Raise ItselfError if what is there is the file that is to be copied."""
        if there is None or not (self._moves or file.known == there):
            return
        if self._places.are_one(file.storage, self._target):
            raise ItselfError(printable(self._path(file)))

    def _copy(self, file: SourceFile, notes: UploadNotes) -> Volume:
        """Copy one file, or see that it is there; give what is known of it now."""
        there = self._target.stat(file.at.name)
        sent = Tally(file.sizes)
        stored: Stored | None = None
        if there is None:
            try:
                stored = self._send(file, notes, sent)
            except ExistsError:  # somebody else made it meanwhile
                sent = Tally(file.sizes)
                there = self._target.stat(file.at.name)
        self._check_other(file.at, there)
        if there is not None:
            for block in self._stream.read(file.at):
                sent.update(block)
                self._advance(0, len(block), _raw(file))
            check_digests(file, sent)
        if self._reads_back or there is not None:
            self._compare(stored or there, file, sent)
        self._advance(1, 0, _raw(file))
        return _volume(self._path(file.at), file, sent)

    def _path(self, file: FileAt) -> str:
        return join(self._target.address, file.name)

    def _send(self, file: SourceFile, notes: UploadNotes, sent: Tally) -> Stored:
        """Send a file and have it appear, if it is what was written."""
        source, target = file.at, self._target

        def seen(block: bytes) -> None:
            sent.update(block)
            self._size += len(block)
            self._advance(0, len(block), _raw(file))

        size = source.known.size
        sizes = self._stream.sizes(target, size)
        if len(sizes) < 2:
            body = self._stream.whole(source, seen)
            check_digests(file, sent)
            return self._appear(file, notes, lambda: target.put(source.name, body))
        upload = target.begin(source.name)
        try:
            notes.begun(upload)
            parts = self._stream.send(source, target, upload, sizes, seen)
            check_digests(file, sent)
        except BaseException:
            self._abort(upload)
            raise
        try:
            self._check_free(source)
            return self._appear(file, notes, lambda: target.complete(upload, parts))
        except BaseException:
            self._abort(upload)
            raise

    def _check_free(self, file: FileAt) -> None:
        """Raise ExistsError if somebody made the file meanwhile.

        Should no answer come when it is made, what is there then is taken for what was sent here.
        """
        if self._target.stat(file.name) is not None:
            raise ExistsError(
                f"{printable(self._path(file))}: is there by now; choose another --to"
            )

    def _abort(self, upload: Upload) -> None:
        try:
            self._target.abort(upload)
        except StorageError:
            self._is_left = True

    def _appear(self, file: SourceFile, notes: UploadNotes, make: Callable[[], Stored]) -> Stored:
        size = file.at.known.size
        notes.completing(file.at.name, size)
        self._doubtful = (file.at.name, size, time.time_ns())
        try:
            stored = make()
        except ExistsError:
            self._doubtful = None
            raise
        self._doubtful = None
        self._made.append(stored)
        notes.completed(stored)
        if stored.size != size:
            self._wrong.append(stored)
            raise StorageError(
                f"{printable(self._path(file.at))}: holds {stored.size} bytes, {size} were sent; "
                "try again"
            )
        return stored

    def _compare(self, stored: Stored | None, file: SourceFile, sent: Tally) -> None:
        """Read a file at the destination and compare it with what the source holds."""
        path = printable(self._path(file.at))
        if stored is None:
            raise StorageError(f"{path}: is gone again; try again")
        found = Tally()
        for block in self._stream.read(FileAt(self._target, stored)):
            found.update(block)
            self._advance(0, len(block), _raw(file))
        if found.sha256 == sent.sha256:
            return
        if stored in self._made:
            self._wrong.append(stored)
            raise StorageError(
                f"{path}: holds other bytes than were sent; the source is as it was, try again"
            )
        raise ExistsError(
            f"{path}: is there with another content; remove it, or choose another --to"
        )

    def _copy_small(self, file: FileAt, notes: UploadNotes) -> None:
        """Copy a file of checksums."""
        data = b"".join(self._stream.read(file))
        there = self._target.stat(file.name)
        self._check_other(file, there)
        if there is None:
            body = BytesBody(data)
            self._appear(SourceFile(file), notes, lambda: self._target.put(file.name, body))
            self._size += len(data)
        elif b"".join(self._stream.read(FileAt(self._target, there))) != data:
            raise ExistsError(
                f"{printable(self._path(file))}: is there with another content; remove it, or "
                "choose another --to"
            )


def find_sums(storage: Storage, names: Sequence[str], archive: str) -> list[FileAt]:
    """Find the files of checksums that list these files of an archive. Raises StorageError."""
    found = []
    for name in names_of_sums(archive):
        known = storage.stat(name) if name not in names else None
        if known is None or not 0 < known.size <= MOST_BYTES:
            continue
        if lists(storage.read(name, 0, known.size, version=known.version or None), names):
            found.append(FileAt(storage, known))
    return found


def check_room(file: FileAt, target: Storage) -> Stored | None:
    """Give the file that has its name at the destination, None if there is none.

    Raises ExistsError for one of another size, ItselfError if the kernel says that it is the file
    itself.
    """
    there = target.stat(file.name)
    if there is None:
        return None
    path = join(target.address, file.name)
    if there.size != file.known.size:
        raise ExistsError(
            f"{printable(path)}: is there with {there.size} bytes instead of {file.known.size}; "
            "remove it, or choose another --to"
        )
    if not is_remote(file.path) and not is_remote(path) and _is_one(file.path, path):
        raise ItselfError(printable(path))
    return there


def _is_one(here: str, there: str) -> bool:
    """Whether two paths lead to one file."""
    try:
        return os.path.samefile(here, there)
    except OSError:  # one of them is gone; whoever reads it tells
        return False


def check_digests(file: SourceFile, found: Tally) -> None:
    """Raise ArchiveError if the source does not hold what the catalog says was written."""
    known = file.digests
    if known is None:
        return
    if known.parts:
        is_same = [digest for _, digest in known.parts] == found.parts
    else:
        is_same = known.sha256 in (None, found.sha256)
    if not is_same:
        raise ArchiveError(
            f"{printable(file.at.path)}: is not what was written: its SHA-256 is another one; run "
            "flows/verify.py to see what is damaged"
        )


def _volume(path: str, file: SourceFile, found: Tally) -> Volume:
    known = file.digests
    parts: tuple[VolumePart, ...] = ()
    if known is not None:
        parts = tuple(VolumePart(size=size, sha256=digest) for size, digest in known.parts)
    return Volume(
        uri=path if is_remote(path) else Path(path).as_uri(), size=file.at.known.size,
        sha256=None if parts else found.sha256, parts=parts,
    )  # fmt: skip


def _raw(file: SourceFile) -> bytes:
    return os.fsencode(file.at.path)
