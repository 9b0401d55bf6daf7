"""What a ZIP file has besides its members' segments: large members' headers, manifest, directory.

The parts of a large file are joined into one deflate stream; its local header gets a reserved
place and is written when the last part is in. With a password that stream is encrypted while it
is joined, for the cipher counts its bytes; the manifest, the last member, is encrypted too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from pybak import aes, entries
from pybak.backup.book import MemberLines
from pybak.backup.output import Output
from pybak.backup.pack_zip import HOLES
from pybak.backup.segments import LaidDown, Meta, PartResult, Segment, SegmentIndex
from pybak.entries import Entry
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.deflate import END, crc32, crc32_combine

# A header made before the sizes are known needs its ZIP64 field if they may reach 4 GiB;
# deflate grows incompressible data by 5 bytes in 65 535.
_MAY_NEED_ZIP64: Final = zr.MAX32 - (1 << 20)
_READ_BYTES: Final = 1 << 20


class ZipBook:
    """Keeps the central directory and the manifest's lines of a ZIP file."""

    def __init__(
        self, password: bytes | None, *, threads: int = 1, lines: MemberLines | None = None
    ) -> None:
        """Take the password that members are encrypted with; large ones are by `threads`."""
        self._password = password
        self._threads = threads
        self._central: list[bytes] = []
        self._manifest = lines or MemberLines()
        self._members = 0

    def start(self, output: Output) -> None:
        """Write nothing: a ZIP file begins with its first member."""

    def take(self, index: SegmentIndex, at: int) -> None:
        """Enter a segment of whole members."""
        central = zr.shift_central_records(index.central, at)
        self.enter(central, index.manifest, index.members)

    def enter(self, central: bytes, lines: bytes, members: int) -> None:
        """Enter members that were laid down: their directory records, and the manifest's lines."""
        self._central.append(central)
        self._manifest.add(lines)
        self._members += members

    def lay_large(
        self,
        name: bytes,
        entry: Entry,
        segments: Iterator[tuple[SegmentIndex, Segment]],
        output: Output,
    ) -> LaidDown:
        """Lay the parts of one large file down behind room for its header."""
        first = next(segments)
        assert first[0].part is not None, "a file has one part or more"
        header = _LargeHeader(
            name, entry.size, first[0].part.meta, encrypted=self._password is not None
        )
        place = output.size
        room = output.reserve(header.length)
        results: list[PartResult] = []
        holes = bool(first[0].lost.get(HOLES))
        if self._password is None:
            for index, one in _chain(first, segments, results):
                one.lay(index, output)
            output.append(END)
        else:
            stream = _contents(_chain(first, segments, results))
            output.append_stream(aes.encrypt_stream(stream, self._password, threads=self._threads))
        return LaidDown(results, _Ticket(header, place, room, holes))

    def enter_large(self, large: LaidDown, output: Output, *, changed: bool) -> None:
        """Write the header of the member that the parts make, and enter it."""
        ticket = large.ticket
        assert isinstance(ticket, _Ticket)
        local, central = ticket.header.records(large.results, ticket.place)
        output.fill(ticket.room, local)
        meta = large.results[0].meta
        line = manifest.record_line(
            ticket.header.name, entries.FILE, sum(part.size for part in large.results),
            meta.mtime_ns, meta.ctime_ns, meta.inode, meta.mode, meta.uid, meta.gid,
            changed=changed, holes=ticket.holes,
            parts=[
                manifest.Part(part.size, part.stored_size, part.sha256) for part in large.results
            ],
        )  # fmt: skip
        self.enter(central, manifest.pack_lines(line), 1)

    def end(self, lines: manifest.Ends, output: Output) -> bytes:
        """Write manifest, central directory and end records; give the manifest."""
        text = lines.around(self._manifest.all)
        local, central, body = _manifest_member(text, output.size, int(time.time()), self._password)
        output.append(local + body)
        directory = b"".join((*self._central, central))
        place = output.size
        output.append(directory + zr.end_records(self._members + 1, len(directory), place))
        return text


def _chain(
    first: tuple[SegmentIndex, Segment],
    others: Iterator[tuple[SegmentIndex, Segment]],
    results: list[PartResult],
) -> Iterator[tuple[SegmentIndex, Segment]]:
    """Yield all segments, and put what they say into `results`."""
    segment: tuple[SegmentIndex, Segment] | None = first
    while segment is not None:
        assert segment[0].part is not None
        results.append(segment[0].part)
        yield segment
        segment = next(others, None)


def _contents(segments: Iterator[tuple[SegmentIndex, Segment]]) -> Iterator[bytes]:
    """Yield the deflate stream that segments make, and delete them."""
    for index, segment in segments:
        size = 0
        with segment.path.open("rb") as content:
            while block := content.read(_READ_BYTES):
                size += len(block)
                yield block
        if size != index.size:
            raise OSError(f"a segment of {index.size} bytes holds {size}")
        segment.path.unlink()
    yield END


class _LargeHeader:
    """The headers of a member that several batches made."""

    def __init__(self, name: bytes, planned_size: int, meta: Meta, *, encrypted: bool) -> None:
        self.name = name
        self._meta = meta
        self._encrypted = encrypted
        self._zip64 = planned_size >= _MAY_NEED_ZIP64
        self._dos = zr.dos_time(meta.mtime_ns // 1_000_000_000)
        self._times = zr.time_extras(meta.mtime_ns)
        self._flags = zr.name_flags(name)
        self.length = len(self._local(0, 0, 0))

    def _local(self, crc: int, stored_size: int, size: int) -> bytes:
        return zr.local_header(
            self.name, method=zr.DEFLATED, crc=crc, stored_size=stored_size, size=size,
            dos=self._dos, extra=self._times + zr.owner_extra(self._meta.uid, self._meta.gid),
            flags=self._flags, force_zip64=self._zip64, encrypted=self._encrypted,
        )  # fmt: skip

    def records(self, parts: list[PartResult], offset: int) -> tuple[bytes, bytes]:
        """Give local header and central record of the joined member."""
        size = sum(part.size for part in parts)
        stored_size = sum(part.stored_size for part in parts) + len(END)
        if self._encrypted:
            stored_size += aes.OVERHEAD
        crc = 0
        for part in parts:
            crc = crc32_combine(crc, part.crc, part.size)
        central = zr.central_record(
            self.name, method=zr.DEFLATED, crc=crc, stored_size=stored_size, size=size,
            offset=offset, dos=self._dos, extra=self._times, flags=self._flags,
            mode=self._meta.full_mode, encrypted=self._encrypted,
        )  # fmt: skip
        return self._local(crc, stored_size, size), central


class _Ticket(NamedTuple):
    """A large member that waits for its header: its place, and the room that is kept for it."""

    header: _LargeHeader
    place: int
    room: int
    holes: bool


def _manifest_member(
    body: bytes, offset: int, now: int, password: bytes | None
) -> tuple[bytes, bytes, bytes]:
    """Give local header, central record and data of the manifest: stored, for it is compressed."""
    dos, crc, size = zr.dos_time(now), crc32(body), len(body)
    times = zr.time_extras(now * 1_000_000_000)
    encrypted = password is not None
    if password is not None:
        body = aes.encrypt(password, body)
    local = zr.local_header(
        manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(body), size=size,
        dos=dos, extra=times, flags=zr.FLAG_UTF8, encrypted=encrypted,
    )  # fmt: skip
    central = zr.central_record(
        manifest.MEMBER_NAME, method=zr.STORED, crc=crc, stored_size=len(body), size=size,
        offset=offset, dos=dos, extra=times, flags=zr.FLAG_UTF8, mode=0o100644,
        encrypted=encrypted,
    )  # fmt: skip
    return local, central, body
