"""Pieces laid end to end are a stream that stock tools read, and the ends are as they should be."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest
import zstandard
from backing_up import noise, prose, run_tool, unpacked
from commands import tool
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak.formats import streams
from pybak.formats.deflate import END, crc32
from pybak.formats.streams import (
    GZIP_HEADER,
    TAR_FORMATS,
    Codec,
    Piece,
    codec,
    engine_name,
    seek_table,
)

PACKED = [name for name in TAR_FORMATS if name != "tar"]


def lay(how: Codec, pieces: list[tuple[bytes, bool]]) -> tuple[bytes, list[Piece]]:
    """Make a stream of pieces; those marked are stored. Give it with the list of its pieces."""
    out, listed = [how.start], []
    for data, stored in pieces:
        packed = (how.store if stored else how.pack)(data)
        listed.append(Piece(len(packed), len(data), crc32(data)))
        out.append(packed)
    return b"".join(out) + how.end(listed), listed


PIECES = st.lists(
    st.tuples(
        st.one_of(
            st.binary(min_size=1, max_size=300),
            st.builds(prose, st.integers(1, 70_000), st.integers(0, 3)),
            st.builds(noise, st.sampled_from([1, 65_534, 65_535, 65_536, 131_071]), st.just(1)),
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, kind=st.sampled_from(TAR_FORMATS), level=st.integers(1, 9))
def test_pieces_join_and_the_list_of_them_is_true(
    pieces: list[tuple[bytes, bool]], kind: str, level: int
) -> None:
    how = codec(kind, level)
    stream, listed = lay(how, pieces)
    plain = b"".join(data for data, _ in pieces)
    assert unpacked(stream, kind) == plain
    assert sum(piece.plain for piece in listed) == len(plain)
    stored = sum(piece.stored for piece in listed)
    assert len(stream) == len(how.start) + stored + len(how.end(listed))
    at = len(how.start)
    for piece, (data, _) in zip(listed, pieces, strict=True):
        assert open_piece(kind, stream[at : at + piece.stored]) == data
        assert piece.crc == zlib.crc32(data)
        at += piece.stored


def open_piece(kind: str, packed: bytes) -> bytes:
    """Unpack one piece without those before it."""
    match kind:
        case "tar":
            return packed
        case "tar.gz":
            return zlib.decompressobj(-15).decompress(packed + END)
        case "tar.bz2":
            return bz2.decompress(packed)
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(packed)


@pytest.mark.needs_tool("gzip", "pigz", "busybox", "7zz")
@pytest.mark.parametrize("level", range(1, 10))
def test_gzip_is_one_member_for_every_tool(tmp_path: Path, level: int) -> None:
    data = [prose(300_000), noise(200_000), b"x", prose(10)]
    stream, _ = lay(codec("tar.gz", level), [(one, at == 3) for at, one in enumerate(data)])
    path = tmp_path / "f.gz"
    path.write_bytes(stream)
    assert stream.startswith(GZIP_HEADER)
    assert stream[-8:] == struct.pack("<II", zlib.crc32(b"".join(data)), sum(map(len, data)))
    for program in (["gzip", "-t"], ["pigz", "-t"], ["busybox", "gunzip", "-t"], ["7zz", "t"]):
        run_tool(*program, path)
    assert gzip.decompress(stream) == b"".join(data)
    unzipped = subprocess.run([tool("gzip"), "-dc", path], capture_output=True, check=True).stdout
    assert unzipped == b"".join(data)


@pytest.mark.needs_tool("bzip2", "lbzip2", "pbzip2", "busybox")
@pytest.mark.parametrize("level", [1, 2])
def test_bzip2_is_read_by_every_tool(tmp_path: Path, level: int) -> None:
    how = codec("tar.bz2", level)
    data = [prose(how.piece_bytes), noise(how.piece_bytes, 2)[:30_000], b"x"]
    stream, _ = lay(how, [(one, False) for one in data])
    path = tmp_path / "f.bz2"
    path.write_bytes(stream)
    for program in ("bzip2", "lbzip2", "pbzip2"):
        run_tool(program, "-t", path)
        done = subprocess.run([tool(program), "-dc", path], capture_output=True, check=True)
        assert done.stdout == b"".join(data), program
    done = subprocess.run([tool("busybox"), "bunzip2", "-c", path], capture_output=True, check=True)
    assert done.stdout == b"".join(data)


@pytest.mark.parametrize("level", [1, 9])
def test_a_bzip2_piece_is_one_block(level: int) -> None:
    """A second, nearly empty block would cost its share of every piece."""
    how = codec("tar.bz2", level)
    packed = how.pack(noise(how.piece_bytes))
    bits = bin(int.from_bytes(packed, "big"))
    assert bits.count(bin(0x314159265359)[2:]) == 1


@pytest.mark.needs_tool("zstd")
@pytest.mark.parametrize("level", range(1, 10))
def test_zstd_has_checked_frames_and_a_seek_table(tmp_path: Path, level: int) -> None:
    data = [prose(300_000), noise(200_000), b"x"]
    stream, listed = lay(codec("tar.zst", level), [(one, at == 2) for at, one in enumerate(data)])
    path = tmp_path / "f.zst"
    path.write_bytes(stream)
    run_tool("zstd", "-tq", path)
    done = subprocess.run([tool("zstd"), "-dcq", path], capture_output=True, check=True)
    assert done.stdout == b"".join(data)
    said = run_tool("zstd", "-lv", path)
    assert "Number of Frames: 3" in said or "# Zstandard Frames: 3" in said, said
    assert "XXH64" in said
    # The seekable format 0.1.0 as its specification has it, read from the end.
    count, flags, magic = struct.unpack("<IBI", stream[-9:])
    assert (count, flags, magic) == (3, 0, 0x8F92EAB1)
    table = stream[-9 - 8 * count :]
    assert [struct.unpack_from("<II", table, 8 * at) for at in range(count)] == [
        (piece.stored, piece.plain) for piece in listed
    ]
    head = stream[-9 - 8 * count - 8 : -9 - 8 * count]
    assert struct.unpack("<II", head) == (0x184D2A5E, 8 * count + 9)
    at = 0
    for piece, one in zip(listed, data, strict=True):
        frame = stream[at : at + piece.stored]
        assert zstandard.frame_content_size(frame) == len(one)
        assert zstandard.get_frame_parameters(frame).has_checksum
        at += piece.stored


def test_more_frames_than_a_seek_table_can_list_make_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_SEEK_FRAMES", 2)
    assert seek_table([Piece(1, 1, 0)] * 2)
    assert seek_table([Piece(1, 1, 0)] * 3) == b""


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_stored_hardly_grows(kind: str) -> None:
    how = codec(kind, 6)
    data = noise(min(how.piece_bytes, 500_000))
    assert len(how.store(data)) <= len(data) * (1.01 if kind == "tar.bz2" else 1.0002) + 50
    assert len(how.pack(data)) <= len(data) * (1.01 if kind == "tar.bz2" else 1.0002) + 50


@pytest.mark.parametrize("kind", PACKED)
def test_higher_levels_are_not_larger(kind: str) -> None:
    data = prose(2_000_000)
    sizes = []
    for level in range(1, 10):
        how = codec(kind, level)
        most = how.piece_bytes
        sizes.append(sum(len(how.pack(data[at : at + most])) for at in range(0, len(data), most)))
    assert sizes[8] < sizes[0]
    assert all(later <= 1.02 * earlier for earlier, later in itertools.pairwise(sizes))


@pytest.mark.parametrize("kind", TAR_FORMATS)
def test_every_level_has_a_name_for_people(kind: str) -> None:
    names = [engine_name(kind, level) for level in range(1, 10)]
    assert all(name and name.isprintable() for name in names)
    if kind == "tar.zst":
        assert len(set(names)) == 9


@pytest.mark.parametrize("kind", TAR_FORMATS)
def test_python_reads_such_a_stream_from_a_pipe(kind: str) -> None:
    """One gzip member: else its stream mode stops early. bzip2 and zstd it can't; said in docs."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(5):
            info = tarfile.TarInfo(str(number))
            info.size = 10_000
            archive.addfile(info, io.BytesIO(prose(10_000, number)))
    plain = tar.getvalue()
    cuts = [plain[at : at + 7_000] for at in range(0, len(plain), 7_000)]
    stream, _ = lay(codec(kind, 2), [(one, False) for one in cuts])
    if kind in ("tar", "tar.gz"):
        mode = "r|" if kind == "tar" else "r|gz"
        with tarfile.open(fileobj=io.BytesIO(stream), mode=mode) as archive:  # type: ignore[call-overload]
            names = [member.name for member in archive]
        assert names == list("01234")
    else:
        assert unpacked(stream, kind) == plain
