"""Bytes that an archive is read from: one file, volumes laid end to end, a wrapper's content."""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import msgspec

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, StorageError

_MOST_AT_ONCE = 64 << 20  # pread alone stops at 2 GiB


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """What must stay the same about a file while it is being read by many.

    Files in storages have a `version` and no inode, files on disk the other way round.
    """

    size: int
    mtime_ns: int
    inode: int
    version: str = ""


class Source(Protocol):
    """A run of bytes that can be read at any place; threads may share one.

    `label` names it in messages.
    """

    label: str
    size: int

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What each file behind it looked like when it was opened."""

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`: fewer, or none, only at the end.

        Raises StorageError when the file can't be read.
        """

    def place(self, offset: int, length: int) -> str:
        """Name the volumes that hold these bytes, as ` (in backup.zip.002)`; empty for one file."""

    def expect(self, length: int, offset: int) -> None:
        """Say that these bytes will be read next, in order; what is far is fetched in one go."""

    def forget(self) -> bool:
        """Have further reads fetch anew what may have been damaged on its way here.

        False, and nothing is done, where bytes come from no further than a disk.
        """

    def close(self) -> None:
        """Let go of the files."""


class FileSource:
    """One file. `path` may be a file descriptor, which stays open when the source is closed.

    `label` names it in messages; by default the path does. Raises NotFoundError for a missing
    file, PlanError for what is no regular file, StorageError if it can't be opened.
    """

    def __init__(self, path: bytes | int, *, label: str | None = None) -> None:
        self.label = label or (printable(path) if isinstance(path, bytes) else "the archive")
        self._owns_fd = isinstance(path, bytes)
        try:
            if isinstance(path, bytes):
                # O_NONBLOCK: opening a FIFO by mistake must not wait for its other end.
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            else:
                self._fd = path
            status = os.fstat(self._fd)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.label}: no such archive; check the path") from error
        except OSError as error:
            raise StorageError(f"{self.label}: can't be opened ({error.strerror})") from error
        except ValueError as error:
            raise PlanError(f"{self.label}: is no path ({error})") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise PlanError(f"{self.label}: is no file; name an archive")
        self.size = status.st_size
        self.identity = (Identity(status.st_size, status.st_mtime_ns, status.st_ino),)

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`: fewer, or none, only at the end."""
        try:
            data = os.pread(self._fd, min(length, _MOST_AT_ONCE), offset)
            if len(data) == length or not data:
                return data
            pieces = [data]
            made = len(data)
            while made < length:
                piece = os.pread(self._fd, min(length - made, _MOST_AT_ONCE), offset + made)
                if not piece:
                    break
                pieces.append(piece)
                made += len(piece)
        except OSError as error:
            message = f"{self.label}: can't be read at byte {offset} ({error.strerror})"
            raise StorageError(message, retryable=True) from error
        return b"".join(pieces)

    def place(self, offset: int, length: int) -> str:  # noqa: ARG002 - a Source's signature
        """Give nothing: there is only one file."""
        return ""

    def expect(self, length: int, offset: int) -> None:
        """Do nothing: the system reads ahead."""

    def forget(self) -> bool:
        """Do nothing: a file is read from the disk."""
        return False

    def close(self) -> None:
        """Close the file if this opened it."""
        if self._owns_fd and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class JoinedSource:
    """Volumes laid end to end, as `cat` joins them. Closes them when it is closed.

    `label` is the archive's name without the volume's number. Raises ValueError without volumes.
    """

    def __init__(self, sources: Sequence[Source], *, label: str) -> None:
        if not sources:
            raise ValueError("no volumes")
        self.label = label
        self._sources = tuple(sources)
        self._stops = list(accumulate(source.size for source in sources))
        self.size = self._stops[-1]

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What each volume looked like when it was opened."""
        return tuple(one for source in self._sources for one in source.identity)

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources that are joined, in order."""
        return self._sources

    @property
    def volumes(self) -> tuple[tuple[str, int, int], ...]:
        """Label, start and end of each volume, in bytes of the whole."""
        return tuple(
            (source.label, stop - source.size, stop)
            for source, stop in zip(self._sources, self._stops, strict=True)
        )

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`: fewer, or none, only at the end."""
        index = bisect_right(self._stops, offset)
        pieces = []
        while length > 0 and index < len(self._sources):
            source, stop = self._sources[index], self._stops[index]
            wanted = min(length, stop - offset)
            piece = source.pread(wanted, offset - (stop - source.size))
            pieces.append(piece)
            if len(piece) < wanted:
                # The volume shrank while it was read; what follows must not move into the gap.
                break
            length -= len(piece)
            offset += len(piece)
            index += 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def place(self, offset: int, length: int) -> str:
        """Name the volumes that hold these bytes, as ` (in backup.zip.002)`."""
        first = min(bisect_right(self._stops, offset), len(self._sources) - 1)
        last = min(bisect_right(self._stops, offset + max(length, 1) - 1), len(self._sources) - 1)
        names = [os.path.basename(source.label) for source in self._sources[first : last + 1]]
        if len(names) > 2:
            return f" (in {names[0]} to {names[-1]})"
        return f" (in {' and '.join(names)})"

    def expect(self, length: int, offset: int) -> None:
        """Say to the volumes that hold these bytes that they will be read next."""
        for source, stop in zip(self._sources, self._stops, strict=True):
            start = stop - source.size
            first, last = max(offset, start), min(offset + length, stop)
            if first < last:
                source.expect(last - first, first - start)

    def forget(self) -> bool:
        """Have further reads fetch anew, where volumes are fetched at all."""
        forgotten = [source.forget() for source in self._sources]
        return any(forgotten)

    def close(self) -> None:
        """Let go of the files."""
        for source in self._sources:
            source.close()


def pread_all(source: Source, length: int, offset: int) -> bytes:
    """Read exactly `length` bytes at `offset`; raise ArchiveError if there are fewer."""
    data = source.pread(length, offset)
    if len(data) < length:
        raise damaged(source, "is cut short")
    return data


def damaged(source: Source, what: str) -> ArchiveError:
    """Make the error that says what is wrong with an archive as a whole."""
    count = len(source.volumes) if isinstance(source, JoinedSource) else 1
    advice = "use another copy of it"
    if count > 1:
        advice = f"see whether all its volumes ({count} were found) are there and belong together"
    return ArchiveError(f"{source.label}: {what}; {advice}")
