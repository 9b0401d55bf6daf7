"""The files of archives that are to go: are they what was written, can they go, and delete them.

Only local folders so far. A file is deleted only if it has the size that the catalog knows: what
has another one was put there by somebody else, or is evidence.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from pybak.catalog.history import ArchiveFacts
from pybak.display import printable
from pybak.errors import StorageError
from pybak.portable import from_portable

_LOCAL: Final = "file://"
_SUM_FILES: Final = (".sha256", ".md5")
_WRAPPED: Final = ".zip"
_MOST_SUM_BYTES: Final = 16 << 20
_ESCAPED = re.compile(rb"\\([\\nr])")
_PLAIN: Final = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


class Deleted(NamedTuple):
    """What deleting an archive came to: bytes that are free now, and the folders that had them."""

    size: int
    folders: frozenset[str]


class Obstacle(NamedTuple):
    """Why an archive can't be deleted; `of_place` if nothing there can, not only this one."""

    message: str
    of_place: bool


def fault(archive: ArchiveFacts, taken: Collection[str] = ()) -> str | None:
    """Say which file of an archive is missing or not its own; None if all are right.

    `taken` are places that later archives have by now.
    """
    for volume in archive.volumes:
        if volume.uri in taken:
            return f"{_name(volume.uri)}: is another archive by now"
        try:
            found = _size(_path(volume.uri))
        except StorageError as error:
            return str(error)
        if found is None:
            return f"{_name(volume.uri)}: is missing"
        if found != volume.size:
            return f"{_name(volume.uri)}: has {found} bytes, {volume.size} were written"
    return None


def folders(archive: ArchiveFacts) -> frozenset[str]:
    """Give the folders where its files lie. Raises StorageError for other places."""
    return frozenset(os.path.dirname(_path(volume.uri)) for volume in archive.volumes)


def is_there(archive: ArchiveFacts) -> bool:
    """Whether any of its files is there."""
    with contextlib.suppress(StorageError):
        return any(_size(_path(volume.uri)) is not None for volume in archive.volumes)
    return False


def obstacle(archive: ArchiveFacts, taken: Collection[str] = ()) -> Obstacle | None:
    """Say what keeps an archive from being deleted; None if nothing is known. Changes nothing.

    `taken` are places that later archives have by now, so nothing is deleted there.
    """
    for volume in archive.volumes:
        if volume.uri in taken:
            continue
        path = from_portable(volume.uri)
        try:
            _check_ours(_path(volume.uri), volume.size)
        except StorageError as error:
            return Obstacle(str(error), of_place=False)
        try:
            _try(path)
        except StorageError as error:
            return Obstacle(str(error), of_place=True)
    return None


def delete(archive: ArchiveFacts, taken: Collection[str] = ()) -> Deleted:
    """Delete the files of an archive, and its files of checksums; what is gone already is fine.

    The first volume goes first: a set without it is no archive. Raises StorageError, with the
    others left in place, at the first file that can't be deleted.
    """
    freed = 0
    places = set()
    for volume in archive.volumes:
        if volume.uri in taken:
            continue
        path = _path(volume.uri)
        places.add(os.path.dirname(path))
        if _check_ours(path, volume.size):
            _unlink(path)
            freed += volume.size
    if not any(volume.uri in taken for volume in archive.volumes):
        for path in _sum_files(archive):
            freed += _size(path) or 0
            _unlink(path)
    return Deleted(freed, frozenset(places))


def kinds_of_sums(archive: ArchiveFacts) -> list[str]:
    """Give the kinds of the files of checksums beside an archive, such as sha256."""
    return [os.path.splitext(path)[1][1:] for path in _sum_files(archive)]


def sync(places: Iterable[str]) -> None:
    """Bring the deletions in these folders to the disk, as far as it can be told to."""
    for place in places:
        with contextlib.suppress(OSError):
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _path(uri: str) -> str:
    if not uri.startswith(_LOCAL):
        raise StorageError(f"{uri}: only local folders can be pruned so far")
    return from_portable(uri)


def _name(uri: str) -> str:
    return printable(from_portable(uri))


def _size(path: str) -> int | None:
    """Give the size of a file, -1 for what is no ordinary file, None for nothing."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed(path, "can't be looked at", error) from error
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _check_ours(path: str, size: int) -> bool:
    """Whether a file is there. Raises StorageError if it can't be the one that was written."""
    found = _size(path)
    if found is None:
        return False
    if found != size:
        what = "is no ordinary file" if found < 0 else f"has {found} bytes, {size} were written"
        raise StorageError(
            f"{printable(path)}: {what}, so it is not deleted; delete it by hand if it may go"
        )
    return True


def _try(path: str) -> None:
    """Ask the kernel whether a file may be deleted, without doing it.

    `rmdir` of what is no folder fails with ENOTDIR, but only after everything that `unlink` would
    fail with as well: Linux, fs/namei.c, may_delete().
    """
    try:
        os.rmdir(path)
    except (NotADirectoryError, FileNotFoundError):
        return
    except OSError as error:
        raise _failed(path, "can't be deleted", error) from error


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, "can't be deleted", error) from error


def _failed(path: str, what: str, error: OSError) -> StorageError:
    why = (error.strerror or str(error)).lower()
    return StorageError(
        f"{printable(path)}: {what} ({why}); see that this user may delete files there"
    )


def _sum_files(archive: ArchiveFacts) -> list[str]:
    """Find the files of checksums beside an archive: those that list its files and no others."""
    if not archive.volumes:
        return []
    first = _path(archive.volumes[0].uri)
    ours = {os.fsencode(os.path.basename(_path(volume.uri))) for volume in archive.volumes}
    stem = os.path.join(os.path.dirname(first), os.path.basename(archive.name))
    stems = dict.fromkeys((stem, stem.removesuffix(_WRAPPED)))
    candidates = [stem + suffix for stem in stems for suffix in _SUM_FILES]
    return [path for path in candidates if _listed(path) == ours]


def _listed(path: str) -> set[bytes] | None:
    """Give the names in a file that `sha256sum` or `md5sum` reads; None if it is no such file."""
    try:
        if not 0 < (_size(path) or 0) <= _MOST_SUM_BYTES:
            return None
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except (OSError, StorageError):
        return None
    names = set()
    for line in lines:
        _, separator, name = line.partition(b"  ")
        if not separator:
            return None
        if line.startswith(b"\\"):
            name = _ESCAPED.sub(lambda found: _PLAIN[found[1]], name)
        names.add(name)
    return names
