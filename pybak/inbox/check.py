"""Read back what was packed: unpacked it must be what was read, byte for byte."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from typing import cast

from pybak.errors import ArchiveError
from pybak.formats.decoders import GZIP, decode, find_compression
from pybak.formats.source import FileSource, Source
from pybak.formats.wrapper import WrappedSource
from pybak.formats.zip_directory import read_directory
from pybak.formats.zip_members import MemberReader
from pybak.inbox.encode import GZ, ZIP, Read, is_wrapped

_READ_BYTES = 1 << 20
_HEAD_BYTES = 512


def unpacked(source: Source, file_format: str, password: bytes | None = None) -> Read:
    """Give size and digest of the file inside; `source` is closed.

    Raises ArchiveError for damage, WrongPasswordError, StorageError if it can't be read.
    """
    try:
        if is_wrapped(file_format, encrypted=password is not None):
            directory = read_directory(source)
            if len(directory.members) != 1:
                raise ArchiveError(f"{source.label}: is no encrypted file of PyBak's")
            sealed = MemberReader(source, password).open(directory.members[0], directory.limits[0])
            wrapped = WrappedSource(source, sealed, directory.members[0].name)
            wrapped.authenticate()
            source = wrapped
        return _tallied(_content(source, file_format, password))
    finally:
        source.close()


def digest_of(path: bytes) -> Read:
    """Give size and digest of a file itself. Raises OSError."""

    def blocks() -> Iterator[bytes]:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                yield block

    return _tallied(blocks())


def _tallied(blocks: Iterator[bytes]) -> Read:
    digest = hashlib.sha256()
    size = 0
    for block in blocks:
        digest.update(block)
        size += len(block)
    return Read(size, digest.hexdigest())


def _content(source: Source, file_format: str, password: bytes | None) -> Iterator[bytes]:
    if file_format == GZ:
        return decode(source, GZIP, 0, source.size)
    if file_format == ZIP:
        directory = read_directory(source)
        if len(directory.members) != 1:
            raise ArchiveError(f"{source.label}: holds more than one member")
        return MemberReader(source, password).chunks(directory.members[0], directory.limits[0])
    return _in_tar(source)


def _in_tar(source: Source) -> Iterator[bytes]:
    compression = find_compression(source.pread(_HEAD_BYTES, 0))
    if compression is None:
        raise ArchiveError(f"{source.label}: is no archive")
    raw = cast(io.RawIOBase, _Stream(decode(source, compression, 0, source.size)))
    stream = io.BufferedReader(raw, _READ_BYTES)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            member = tar.next()
            content = tar.extractfile(member) if member is not None else None
            if content is None:
                raise ArchiveError(f"{source.label}: holds no file")
            while block := content.read(_READ_BYTES):
                yield block
            if tar.next() is not None:
                raise ArchiveError(f"{source.label}: holds more than one member")
        while stream.read(_READ_BYTES):
            pass  # so that the stream's own checks are made
    except tarfile.TarError as error:
        raise ArchiveError(f"{source.label}: is damaged: {error}") from error


class _Stream(io.RawIOBase):
    """Blocks as a file that is read once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._left:
            try:
                self._left = memoryview(next(self._blocks))
            except StopIteration:
                return 0
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def check_packed(path: bytes, file_format: str, password: bytes | None, expected: Read) -> Read:
    """Compare a packed file with what went in; give the packed one's own size and digest.

    Raises ArchiveError if it holds anything else, OSError and StorageError if it can't be read.
    """
    found = unpacked(FileSource(path, label="what was written"), file_format, password)
    if found != expected:
        raise ArchiveError("what was written does not hold what was read; check disk and memory")
    return digest_of(path)
