"""Tar archives made by hand for the tests of readers: as PyBak lays them out, and broken ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from isal import isal_zlib

from pybak.entries import FILE, FOLDER, HARD_LINK, LINK
from pybak.formats import manifest
from pybak.formats.streams import Codec, Piece, codec
from pybak.formats.tar_footer import BLOCK, Footer, footer_block
from pybak.formats.tar_records import (
    END_BLOCKS,
    member_header,
    padding,
    sparse_map_block,
)

NOON = 1_700_000_000_123_456_789
FORMATS = ("tar", "tar.gz", "tar.bz2", "tar.zst")
HEADER = manifest.Header(
    run_id="r", job="j", mode="full", format="tar", created="2026-01-01T00:00:00Z",
    sources=["/s"], program="test",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A member to write. `data` of a sparse one (`data_map`) is the data of its runs."""

    name: bytes
    data: bytes = b""
    kind: str = FILE
    mode: int = 0o644
    mtime_ns: int = NOON
    link: bytes = b""
    device: tuple[int, int] | None = None
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    data_map: tuple[tuple[int, int], ...] | None = None
    real_size: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.real_size is None else self.real_size

    def blocks(self) -> tuple[bytes, bytes]:
        """Give headers and content, the latter without padding."""
        head = member_header(
            self.name, self.kind, mode=self.mode, uid=1000, gid=100, mtime_ns=self.mtime_ns,
            size=self.size, user=b"me", group=b"us", link=self.link, device=self.device or (0, 0),
            attributes=self.attributes, data_map=self.data_map,
        )  # fmt: skip
        if self.data_map is None:
            return head, self.data
        return head, sparse_map_block(self.data_map, self.size) + self.data

    def line(self, at: tuple[int, int]) -> str:
        return manifest.record_line(
            self.name, self.kind, self.size if self.kind == FILE else 0, self.mtime_ns,
            self.mtime_ns, 1, self.mode, 1000, 100,
            sha256=hashlib.sha256(self.data).hexdigest() if self.kind == FILE else None,
            link=self.link if self.kind in (LINK, HARD_LINK) else None,
            device=self.device, at=at, sparse=self.data_map,
        )  # fmt: skip


def file(name: bytes, data: bytes = b"", **more: object) -> Item:
    return replace(Item(name, data), **more)  # type: ignore[arg-type]


def folder(name: bytes, **more: object) -> Item:
    return replace(Item(name, kind=FOLDER, mode=0o755), **more)  # type: ignore[arg-type]


def link(name: bytes, target: bytes) -> Item:
    return Item(name, kind=LINK, mode=0o777, link=target)


def hard_link(name: bytes, target: bytes) -> Item:
    return Item(name, kind=HARD_LINK, link=target)


def tar(items: Iterable[Item]) -> bytes:
    """Give a plain tar of `items` without a manifest."""
    out = bytearray()
    for item in items:
        head, content = item.blocks()
        out += head + content + padding(len(content))
    return bytes(out) + END_BLOCKS


@dataclass
class _Stream:
    """Compressed bytes that grow piece by piece."""

    how: Codec
    piece_bytes: int
    pieces: list[Piece] = field(default_factory=list)
    out: bytearray = field(default_factory=bytearray)

    def put(self, plain: bytes, store: bool = False) -> list[Piece]:
        made = []
        for at in range(0, len(plain), self.piece_bytes):
            block = plain[at : at + self.piece_bytes]
            packed = (self.how.store if store else self.how.pack)(block)
            made.append(Piece(len(packed), len(block), isal_zlib.crc32(block)))
            self.out += packed
        self.pieces += made
        return made


def build(
    items: Iterable[Item],
    archive_format: str,
    *,
    piece_bytes: int = 4096,
    batch: int = 3,
    level: int = 2,
    change_lines: Callable[[str], str] = lambda lines: lines,
    change_footer: Callable[[Footer], Footer] = lambda footer: footer,
) -> bytes:
    """Give an archive as PyBak writes it, in batches of `batch` members and in small pieces."""
    items = list(items)
    how = codec(archive_format, level)
    stream = _Stream(how, piece_bytes)
    stream.out += how.start
    texts = []
    plain_size = 0
    for number in range(0, len(items), batch):
        plain = bytearray()
        lines = []
        for item in items[number : number + batch]:
            head, content = item.blocks()
            lines.append(item.line((len(plain), len(plain) + len(head))))
            plain += head + content + padding(len(content))
        made = stream.put(bytes(plain))
        plain_size += len(plain)
        texts.append(manifest.pieces_line(made) + "".join(lines))
    header = msgspec.structs.replace(HEADER, format=archive_format)
    trailer = manifest.Trailer(members=len(items), users={"1000": "me"}, groups={"100": "us"})
    packed = manifest.pack_line(header)
    packed += b"".join(manifest.pack_lines(change_lines(text)) for text in texts)
    packed += manifest.pack_line(trailer)
    packed += empty_member(-len(packed) % BLOCK)
    content_size = len(packed) + BLOCK
    head = member_header(
        manifest.MEMBER_NAME, FILE, mode=0o600, uid=0, gid=0, mtime_ns=0, size=content_size
    )
    stored_at = len(stream.out)
    stream.put(head + packed)
    footer = Footer(stored_at, len(stream.out) - stored_at, plain_size, content_size)
    stream.piece_bytes = 3 * BLOCK
    stream.put(footer_block(change_footer(footer)) + END_BLOCKS, store=True)
    return bytes(stream.out) + how.end(stream.pieces)


def empty_member(size: int) -> bytes:
    """Give empty gzip members of `size` bytes in all, as padding; 0 < size < 32 can't be."""
    from pybak.formats import tar_footer

    if not size:
        return b""
    while size < 32:
        size += BLOCK
    room = size - 10 - 2 - 4 - 10
    return (
        tar_footer._GZIP_HEAD
        + (room + 4).to_bytes(2, "little") + b"PD" + room.to_bytes(2, "little") + bytes(room)
        + tar_footer._EMPTY_TAIL
    )  # fmt: skip


def write(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return os.fsencode(path)
