"""One file packed into one file that stock tools open: `.gz`, or a zip or tar of one member.

With a password the member of a zip is encrypted (AES-256, AE-2), and every other format lies in an
encrypted ZIP of its own, stored (`pybak.formats.wrapper`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from pybak import aes
from pybak.backup.read_source import read_pieces
from pybak.entries import FILE
from pybak.formats import zip_records as zr
from pybak.formats.deflate import WHOLE_LIMIT, crc32
from pybak.formats.streams import Piece, codec
from pybak.formats.tar_records import member_header, padding
from pybak.formats.wrapper import wrap, wrapper_end, wrapper_head
from pybak.gzip_file import deflate_blocks, gzip_blocks
from pybak.writing import write_all, write_all_at

GZ: Final = "gz"
ZIP: Final = "zip"
WRAPPER: Final = ".zip"
"""What the names of encrypted files end with, for formats that have no encryption."""
_TAR_END = bytes(1024)
_NS = 1_000_000_000

Seen = Callable[[int], object]
"""Called with the bytes that were read since the last call; raises once the run is to stop."""


class Recipe(msgspec.Struct, frozen=True):
    """How files are packed. `workers` threads do it for one file."""

    format: str = GZ
    level: int = 2
    workers: int = 1


class Read(NamedTuple):
    """What was read of a file: bytes, and their SHA-256 (hex)."""

    size: int
    sha256: str


class _Tally:
    """Sees what is read."""

    def __init__(self, seen: Seen) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._seen = seen

    def see(self, data: bytes) -> None:
        self._seen(len(data))
        self._digest.update(data)
        self.size += len(data)

    @property
    def read(self) -> Read:
        return Read(self.size, self._digest.hexdigest())


def is_wrapped(file_format: str, *, encrypted: bool) -> bool:
    """Whether the file lies in an encrypted ZIP of its own."""
    return encrypted and file_format != ZIP


def encode(
    out: int,
    fd: int,
    status: os.stat_result,
    *,
    name: bytes,
    inner: bytes,
    recipe: Recipe,
    password: bytes | None = None,
    seen: Seen = lambda _size: None,
) -> Read:
    """Pack the open file `fd` into the empty file `out`; give what was read.

    `name` is the file's, `inner` what the packed one is called in its wrapper. Raises SourceError
    (io_error), OSError where `out` can't be written, and what `seen` raises.
    """
    tally = _Tally(seen)
    if recipe.format == ZIP:
        _write_zip(out, fd, status, name, recipe, password, tally)
    elif is_wrapped(recipe.format, encrypted=password is not None):
        assert password is not None
        packed = _packed(fd, status, name, recipe, tally)
        _write_wrapped(out, packed, status, inner, recipe, password)
    else:
        _write(out, _packed(fd, status, name, recipe, tally))
    return tally.read


def _packed(
    fd: int, status: os.stat_result, name: bytes, recipe: Recipe, tally: _Tally
) -> Iterator[bytes]:
    if recipe.format == GZ:
        return gzip_blocks(
            fd, status, name=name, level=recipe.level, seen=tally.see, workers=recipe.workers
        )
    return _tar_blocks(fd, status, name, recipe, tally)


def _write(out: int, blocks: Iterable[bytes]) -> int:
    """Write all blocks where `out` stands; give how many bytes."""
    return sum(write_all(out, block) for block in blocks)


def _write_wrapped(
    out: int, packed: Iterator[bytes], status: os.stat_result, inner: bytes, recipe: Recipe,
    password: bytes,
) -> None:  # fmt: skip
    mtime_ns = status.st_mtime_ns
    if status.st_size <= WHOLE_LIMIT:
        data = b"".join(packed)
        _write(out, wrap(inner, len(data), [data], password, mtime_ns=mtime_ns))
        return
    # The size is known at the end: until then there is room for the header.
    head = wrapper_head(inner, 0, mtime_ns=mtime_ns, force_zip64=True)
    _write(out, [bytes(len(head))])
    size = _write(out, aes.encrypt_stream(packed, password, threads=recipe.workers)) - aes.OVERHEAD
    _write(out, [wrapper_end(inner, size, mtime_ns=mtime_ns, force_zip64=True)])
    write_all_at(out, wrapper_head(inner, size, mtime_ns=mtime_ns, force_zip64=True), 0)


def _write_zip(
    out: int, fd: int, status: os.stat_result, name: bytes, recipe: Recipe, password: bytes | None,
    tally: _Tally,
) -> None:  # fmt: skip
    encrypted = password is not None
    ends = _Returned(
        deflate_blocks(
            fd, status.st_size, level=recipe.level, seen=tally.see, workers=recipe.workers
        )
    )
    common = {
        "method": zr.DEFLATED if status.st_size else zr.STORED,
        "dos": zr.dos_time(status.st_mtime_ns // _NS),
        "extra": zr.time_extras(status.st_mtime_ns) + zr.owner_extra(status.st_uid, status.st_gid),
        "flags": zr.name_flags(name), "encrypted": encrypted,
    }  # fmt: skip
    is_large = status.st_size > WHOLE_LIMIT
    room = zr.local_header(
        name, crc=0, stored_size=0, size=0, force_zip64=is_large, **common  # type: ignore[arg-type]
    )  # fmt: skip
    _write(out, [bytes(len(room))])
    blocks: Iterable[bytes] = ends if status.st_size else ()
    if password is not None:
        blocks = aes.encrypt_stream(blocks, password, threads=recipe.workers if is_large else 1)
    stored_size = _write(out, blocks)
    size, crc = ends.value if status.st_size else (0, 0)
    sizes = {"crc": crc, "stored_size": stored_size, "size": size}
    central = zr.central_record(
        name, offset=0, mode=status.st_mode, **sizes, **common  # type: ignore[arg-type]
    )  # fmt: skip
    head = zr.local_header(name, force_zip64=is_large, **sizes, **common)  # type: ignore[arg-type]
    _write(out, [central, zr.end_records(1, len(central), len(head) + stored_size)])
    write_all_at(out, head, 0)


class _Returned:
    """Iterates over a generator and keeps what it returns."""

    def __init__(self, blocks: Generator[bytes, None, tuple[int, int]]) -> None:
        self._blocks = blocks
        self.value = (0, 0)

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.closing(self._blocks):
            self.value = yield from self._blocks


def _tar_blocks(
    fd: int, status: os.stat_result, name: bytes, recipe: Recipe, tally: _Tally
) -> Iterator[bytes]:
    """Yield a tar of one member, compressed piece by piece."""
    from concurrent.futures import Future, ThreadPoolExecutor

    how = codec(recipe.format, recipe.level)
    pieces: list[Piece] = []

    def pack(data: bytes) -> tuple[bytes, Piece]:
        packed = how.pack(data)
        return packed, Piece(len(packed), len(data), crc32(data))

    yield how.start
    stream = _gathered(_tar_stream(fd, status, name, tally, how.piece_bytes), how.piece_bytes)
    if recipe.workers <= 1 or status.st_size <= how.piece_bytes:
        for data in stream:
            packed, piece = pack(data)
            pieces.append(piece)
            yield packed
    else:
        waiting: list[Future[tuple[bytes, Piece]]] = []
        with ThreadPoolExecutor(recipe.workers) as pool:
            try:
                for data in stream:
                    waiting.append(pool.submit(pack, data))
                    if len(waiting) > 2 * recipe.workers:
                        packed, piece = waiting.pop(0).result()
                        pieces.append(piece)
                        yield packed
                while waiting:
                    packed, piece = waiting.pop(0).result()
                    pieces.append(piece)
                    yield packed
            finally:
                for unfinished in waiting:
                    unfinished.cancel()
    yield how.end(pieces)


def _tar_stream(
    fd: int, status: os.stat_result, name: bytes, tally: _Tally, piece_bytes: int
) -> Iterator[bytes]:
    yield member_header(
        name, FILE, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid,
        mtime_ns=status.st_mtime_ns, size=status.st_size,
    )  # fmt: skip
    for data in read_pieces(fd, 0, status.st_size, piece_bytes):
        tally.see(data)
        yield data
    yield padding(status.st_size) + _TAR_END


def _gathered(blocks: Iterable[bytes], piece_bytes: int) -> Iterator[bytes]:
    """Lay blocks end to end and cut them into pieces of the same size."""
    room = bytearray()
    for block in blocks:
        room += block
        while len(room) >= piece_bytes:
            yield bytes(room[:piece_bytes])
            del room[:piece_bytes]
    if room:
        yield bytes(room)
