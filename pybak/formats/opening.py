"""Open an archive of any format: what it is, its first bytes tell, not its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from pybak.display import printable
from pybak.errors import ArchiveError, PlanError
from pybak.formats import zip_records as zr
from pybak.formats.archive import Archive
from pybak.formats.decoders import FORMATS, find_compression
from pybak.formats.source import FileSource, Identity, JoinedSource, Source
from pybak.formats.suffixes import format_of_name
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile
from pybak.formats.wrapper import WrappedSource, unwrap
from pybak.formats.zip_reader import ZipFile
from pybak.resources import allow_open_files
from pybak.storage.opening import is_remote

_NUMBERED = re.compile(rb"(.+)\.(\d{3,})(\.zip)?", re.DOTALL)
_OTHERS = (
    (b"\xfd7zXZ\x00", "xz-compressed", "unpack it with xz first"),
    (b"LZIP", "lzip-compressed", "unpack it with lzip first"),
    (b"\x5d\x00\x00", "lzma-compressed", "unpack it with xz first"),
    (b"\x1f\x9d", "compressed with compress", "unpack it with gzip -d first"),
    (b"\x04\x22\x4d\x18", "lz4-compressed", "unpack it with lz4 first"),
    (b"\x89LZO\x00\r\n\x1a\n", "lzop-compressed", "unpack it with lzop first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it with unrar or 7z"),
    (b"070701", "a cpio archive", "unpack it with cpio"),
    (b"070707", "a cpio archive", "unpack it with cpio"),
    (b"!<arch>\n", "an ar archive", "unpack it with ar"),
    (b"MSCF", "a CAB archive", "unpack it with 7z"),
)
_HEAD = 512
_Made = TypeVar("_Made")
_ZIP_TAIL = 66_000
_FEW = 8  # volumes
_SIDE_BY_SIDE = 8  # volumes in a storage that are opened at the same time
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02", b"PK00PK\x03\x04", b"PK\x07\x08")


def open_archive(
    paths: Sequence[bytes],
    *,
    password: bytes | None = None,
    index: PieceIndex | None = None,
    known: Sequence[Identity] = (),
) -> Archive:
    """Open the archive that `paths` hold: one file, or all volumes in order, wrapped or not.

    Addresses of files in storages are opened as paths are. `index` is what `Archive.index` gave
    for the same archive, and `known` its identity. Raises NotFoundError for a missing
    file, PlanError for what is no file, StorageError if it can't be read, WrongPasswordError if it
    is wrapped and the password does not fit, ArchiveError for what is no archive.
    """
    source = open_source(paths, password=password, known=known)
    try:
        name = base_name(paths)
        return _twice(source, lambda: _open(source, name, password, index))
    except BaseException:
        source.close()
        raise


def open_source(
    paths: Sequence[bytes], *, password: bytes | None = None, known: Sequence[Identity] = ()
) -> Source:
    """Open the bytes of an archive: wrappers taken off, volumes laid end to end.

    What is `known` of files in a storage is not asked again; that they are still the same, each
    read makes sure of. Raises as `open_archive` does, and ArchiveError for wrapped volumes in a
    wrong order.
    """
    if not paths:
        raise PlanError("no archive was named; name one")
    sources = _opened(paths, password, known if len(known) == len(paths) else ())
    try:
        _check_order(sources)
    except BaseException:
        for source in sources:
            source.close()
        raise
    base = base_name(paths)
    if len(sources) == 1 and base == os.path.basename(paths[0]):
        return sources[0]
    return JoinedSource(sources, label=printable(os.path.join(os.path.dirname(paths[0]), base)))


def _opened(
    paths: Sequence[bytes], password: bytes | None, known: Sequence[Identity]
) -> list[Source]:
    """Open each file, and what is wrapped in it; closes all if one can't be opened."""
    if any(map(is_remote, paths)):
        from pybak.storage.sources import Opener

        opener = Opener(paths, known)
        files: Callable[[bytes], Source] = opener.open
        threads = min(len(paths), _SIDE_BY_SIDE)
    else:
        files, threads = FileSource, 1
        if len(paths) > _FEW:  # which each of several workers in a process has open
            allow_open_files()

    def open_one(path: bytes) -> Source:
        return _unwrapped(files(path), password)

    sources: list[Source] = []
    try:
        if threads == 1:
            for path in paths:
                sources.append(open_one(path))  # noqa: PERF401 - what is open must be known
        else:
            sources += _side_by_side(open_one, paths, threads)
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def _side_by_side(
    open_one: Callable[[bytes], Source], paths: Sequence[bytes], threads: int
) -> list[Source]:
    """Open many files, each of which may be seconds away; all or, if one fails, none."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        opening = [pool.submit(open_one, path) for path in paths]
    failed = [error for future in opening if (error := future.exception()) is not None]
    if failed:
        for future in opening:
            if future.exception() is None:
                future.result().close()
        raise failed[0]
    return [future.result() for future in opening]


def _twice(source: Source, make: Callable[[], _Made]) -> _Made:
    """Give what `make` gives; where bytes may have been damaged on their way, fetch them again."""
    try:
        return make()
    except ArchiveError:
        if not source.forget():
            raise
        return make()


def _unwrapped(source: Source, password: bytes | None) -> Source:
    """Give what is inside if `source` is a wrapper; else itself. Closes it if that fails."""
    try:
        return _twice(source, lambda: unwrap(source, password)) or source
    except BaseException:
        source.close()
        raise


def _check_order(sources: Sequence[Source]) -> None:
    """Raise ArchiveError unless what is in wrappers says that it belongs together, in this order.

    How the wrappers' files are called does not matter.
    """
    if not any(isinstance(source, WrappedSource) for source in sources):
        return
    base = b""
    for number, source in enumerate(sources, 1):
        if not isinstance(source, WrappedSource):
            what = "is not encrypted as the others are: it does not belong to them"
            raise ArchiveError(f"{source.label}: {what}; use another copy of it")
        found = _NUMBERED.fullmatch(source.inner_name)
        if found is None and len(sources) == 1:
            return
        base = base or (found[1] if found else b"")
        if found is None or int(found[2]) != number or found[1] != base:
            what = f"holds {printable(source.inner_name)}"
            if len(sources) == 1:
                what += ", not the first volume"
                raise ArchiveError(f"{source.label}: {what}; put all volumes into one folder")
            raise ArchiveError(
                f"{source.label}: {what}: volumes are swapped or of different archives; "
                "put each one back to where it belongs"
            )


def _open(source: Source, name: bytes, password: bytes | None, index: PieceIndex | None) -> Archive:
    head = source.pread(_HEAD, 0)
    if head.startswith(_ZIP_STARTS):
        return ZipFile(source, password=password)
    compression = find_compression(head)
    if compression is not None and any(head):
        return TarFile(source, compression, name=name, index=index)
    for magic, what, advice in _OTHERS:
        if head.startswith(magic):
            raise ArchiveError(f"{source.label}: is {what}, which PyBak doesn't read; {advice}")
    from pybak.formats.tar_tail import find_tail

    # Of ours the end tells what it is when the start is lost.
    found = next((one for one in FORMATS if find_tail(source, one)), None)
    if found is None:
        if zr.END_SIGNATURE in source.pread(_ZIP_TAIL, max(source.size - _ZIP_TAIL, 0)):
            return ZipFile(source, password=password)  # with other bytes before it, or zeros there
        if compression and (format_of_name(os.fsdecode(name)) or "tar") == "tar":
            found = compression
    if found is not None:
        return TarFile(source, found, name=name, index=index)
    if not source.size:
        raise ArchiveError(f"{source.label}: is empty; use another copy of it")
    if compression is not None:
        lost = "begins with zeros, so its start is lost"
        raise ArchiveError(f"{source.label}: {lost}; use another copy of it")
    raise ArchiveError(
        f"{source.label}: is no archive that PyBak reads (zip, tar, tar.gz, tar.bz2, tar.zst)"
    )


def base_name(paths: Sequence[bytes]) -> bytes:
    """Give the archive's own name, without folder, the volume's number and the wrapper's suffix."""
    name = os.path.basename(paths[0])
    found = _NUMBERED.fullmatch(name)
    if found and (len(paths) > 1 or int(found[2]) == 1):
        return found[1]
    return name
