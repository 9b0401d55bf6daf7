"""What a tar archive has besides its members' segments: manifest, footer, and the stream's end.

The manifest is the last member, in pieces of its own. The last 512 bytes of its content are a
footer that tells where these pieces are; together with the zero blocks that end the archive it is
the last piece, which a reader finds from the file's end.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from pybak.backup.book import MemberLines
from pybak.backup.output import Output
from pybak.backup.segments import LaidDown, PartResult, Segment, SegmentIndex
from pybak.entries import FILE, Entry
from pybak.formats import manifest
from pybak.formats.deflate import crc32
from pybak.formats.streams import Piece, codec
from pybak.formats.tar_footer import Footer, footer_block
from pybak.formats.tar_records import BLOCK, END_BLOCKS, member_header
from pybak.resources import usable_cpus

_EMPTY_MEMBER: Final = 22  # bytes of an empty gzip member with an empty extra field
_SUBFIELD_HEAD: Final = 4


class TarBook:
    """Keeps the pieces and the manifest's lines of a tar archive."""

    def __init__(
        self, archive_format: str, level: int, *, lines: MemberLines | None = None
    ) -> None:
        self._codec = codec(archive_format, level)
        self._pieces: list[Piece] = []
        self._manifest = lines or MemberLines()

    def start(self, output: Output) -> None:
        """Write what the stream begins with."""
        output.append(self._codec.start)

    def take(self, index: SegmentIndex, at: int) -> None:  # noqa: ARG002 - pieces follow each other
        """Enter a segment of whole members."""
        self.enter(index.pieces, index.manifest)

    def enter(self, pieces: Sequence[Piece], lines: bytes) -> None:
        """Enter pieces that were laid down, with the manifest's lines of what they hold, packed."""
        self._pieces += pieces
        self._manifest.add(lines)

    def lay_large(
        self,
        name: bytes,
        entry: Entry,
        segments: Iterator[tuple[SegmentIndex, Segment]],
        output: Output,
    ) -> LaidDown:
        """Lay the parts of one large file down; the first one has its header."""
        pieces: list[Piece] = []
        results: list[PartResult] = []
        for index, segment in segments:
            assert index.part is not None
            segment.lay(index, output)
            pieces += index.pieces
            results.append(index.part)
        return LaidDown(results, _Ticket(name, entry.size, pieces))

    def enter_large(self, large: LaidDown, output: Output, *, changed: bool) -> None:  # noqa: ARG002
        """Enter the member that the parts make."""
        assert isinstance(large.ticket, _Ticket)
        name, size, pieces = large.ticket
        first = large.results[0]
        meta = first.meta
        line = manifest.record_line(
            name, FILE, size, meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode,
            meta.uid, meta.gid, changed=changed, at=(0, first.head_size), sparse=first.data_map,
            parts=[
                manifest.Part(part.size, part.stored_size, part.sha256) for part in large.results
            ],
        )  # fmt: skip
        self.enter(pieces, manifest.pack_lines(manifest.pieces_line(pieces) + line))

    def end(self, lines: manifest.Ends, output: Output) -> bytes:
        """Write the manifest, the zero blocks, and what ends the stream; give the manifest."""
        text = lines.around(self._manifest.all)
        text += _filler(-len(text) % BLOCK)
        size = len(text) + BLOCK
        head = sum(piece.plain for piece in self._pieces)
        stored_at = output.size
        self._lay_pieces(
            member_header(
                manifest.MEMBER_NAME, FILE, mode=0o600, uid=os.geteuid(), gid=os.getegid(),
                mtime_ns=int(time.time()) * 1_000_000_000, size=size,
            ) + text,
            output,
        )  # fmt: skip
        footer = footer_block(Footer(stored_at, output.size - stored_at, head, size))
        self._lay_pieces(footer + END_BLOCKS, output)
        output.append(self._codec.end(self._pieces))
        return text

    def _lay_pieces(self, data: bytes, output: Output) -> None:
        """Cut what is compressed already into pieces, side by side, and lay them down."""
        most = self._codec.piece_bytes
        pieces = [data[at : at + most] for at in range(0, len(data), most)]
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for plain, packed in zip(pieces, pool.map(self._codec.store, pieces), strict=True):
                output.append(packed)
                self._pieces.append(Piece(len(packed), len(plain), crc32(plain)))


class _Ticket(NamedTuple):
    """A large member that waits to be entered; `size` is the file's."""

    name: bytes
    size: int
    pieces: list[Piece]


def _filler(size: int) -> bytes:
    """Give an empty gzip member of `size` bytes, or a block more where there is none so small."""
    if not size:
        return b""
    if size < _EMPTY_MEMBER + _SUBFIELD_HEAD:
        size += BLOCK
    extra = size - _EMPTY_MEMBER
    return (
        b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
        + struct.pack("<H2sH", extra, b"PD", extra - _SUBFIELD_HEAD)
        + bytes(extra - _SUBFIELD_HEAD)
        + b"\x03\x00"
        + bytes(8)
    )
