"""Encrypted ZIP archives, put together from the engine's own records."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pybak import aes
from pybak.formats import zip_records as zr
from pybak.formats.source import FileSource
from pybak.formats.zip_reader import ZipFile

PASSWORD = b"correct horse"
NOON = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Secret:
    """A member to write, encrypted unless `password` is None."""

    name: bytes
    data: bytes
    deflate: bool = False
    password: bytes | None = PASSWORD
    salt: bytes | None = None
    payload: bytes | None = None
    size: int | None = None

    @property
    def packed(self) -> bytes:
        """What lies behind the local header."""
        if self.payload is not None:
            return self.payload
        data = self.data
        if self.deflate:
            engine = zlib.compressobj(6, zlib.DEFLATED, -15)
            data = engine.compress(data) + engine.flush()
        return data if self.password is None else aes.encrypt(self.password, data, salt=self.salt)


def build(members: Iterable[Secret]) -> bytes:
    """Give the bytes of an archive that holds `members` in order."""
    out, directory, count = bytearray(), bytearray(), 0
    for member in members:
        packed = member.packed
        header, record = zr.small_member(
            member.name, zr.DEFLATED if member.deflate else zr.STORED, zlib.crc32(member.data),
            len(packed), len(member.data) if member.size is None else member.size, len(out), NOON,
            os.getuid(), os.getgid(), stat.S_IFREG | 0o640, encrypted=member.password is not None,
        )  # fmt: skip
        out += header + packed
        directory += record
        count += 1
    return bytes(out + directory + zr.end_records(count, len(directory), len(out)))


def opened(path: Path, password: bytes | None = PASSWORD) -> ZipFile:
    """Open an archive as the engine does."""
    return ZipFile(FileSource(os.fsencode(path)), password=password)


def contents(path: Path, password: bytes | None = PASSWORD) -> dict[bytes, bytes]:
    """Read all members, in one piece and in chunks, which must be the same."""
    found = {}
    with opened(path, password) as archive:
        directory = archive.directory()
        for member, limit in zip(directory.members, directory.limits, strict=True):
            data = archive.read(member, limit)
            assert b"".join(archive.chunks(member, limit)) == data
            found[member.name] = data
    return found


def flip(data: bytes, at: int) -> bytes:
    """Give the bytes with one bit of the byte at `at` turned."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)
