"""Small tar archives of ours and others, opened and looked at; for the tests of the reader."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import tars
import zstandard

from pybak.formats.archive import Limits
from pybak.formats.listing import Listed, Listing, Spot
from pybak.formats.opening import open_archive
from pybak.formats.source import FileSource, Identity
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile

NOISE = random.Random(7).randbytes(60_000)
ITEMS = [
    tars.folder(b"d"),
    tars.file(b"d/big", NOISE),
    tars.file(b"d/empty"),
    tars.link(b"d/link", b"../elsewhere"),
    tars.hard_link(b"d/again", b"d/big"),
    tars.file(b"d/sparse", NOISE[:1536], data_map=((512, 1024), (1 << 20, 512)), real_size=2 << 20),
    tars.file(b"\xff" * 200, b"raw name"),
    tars.file(b"attributed", b"x", attributes={b"user.a": b"1", b"security.selinux": b"no"}),
    *(tars.file(b"small/%d" % number, b"%d" % number * 99) for number in range(60)),
    tars.Item(b"fifo", kind="p"),
    tars.Item(b"tty", kind="c", device=(4, 65)),
]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.decompress,
    "tar.bz2": bz2.decompress,
    "tar.zst": lambda data: (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    ),
}
SUFFIXES = list(COMPRESSORS)


class Counted:
    """A source that counts the bytes that are read from it."""

    def __init__(self, path: Path) -> None:
        self._inner = FileSource(os.fsencode(path))
        self.label, self.size = self._inner.label, self._inner.size
        self.taken = 0

    @property
    def identity(self) -> tuple[Identity, ...]:
        return self._inner.identity

    def pread(self, length: int, offset: int) -> bytes:
        data = self._inner.pread(length, offset)
        self.taken += len(data)
        return data

    def place(self, offset: int, length: int) -> str:
        return self._inner.place(offset, length)

    def expect(self, length: int, offset: int) -> None:
        self._inner.expect(length, offset)

    def forget(self) -> bool:
        return self._inner.forget()

    def close(self) -> None:
        self._inner.close()


def opened(path: Path, index: PieceIndex | None = None) -> TarFile:
    archive = open_archive([os.fsencode(path)], index=index)
    assert isinstance(archive, TarFile)
    return archive


def spot(listed: Listed) -> Spot:
    assert isinstance(listed.locator, Spot)
    return listed.locator


def listing_of(path: Path, limits: Limits | None = None) -> Listing:
    with opened(path) as archive:
        return archive.listing(limits or Limits())


def contents(archive: TarFile, members: list[Listed]) -> dict[bytes, bytes]:
    return {one.name: archive.read(one.locator, one.limit) for one in members if not one.fault}


def ours(tmp_path: Path, suffix: str, **how: object) -> Path:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(tars.build(ITEMS, suffix, **how))  # type: ignore[arg-type]
    return path


def flipped(data: bytes, at: int, bits: int = 0x5A) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]
