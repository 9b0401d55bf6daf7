"""The buffer that pieces of a tar stream are filled in: nothing is lost, nothing is in it twice."""

from __future__ import annotations

import threading
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from backing_up import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak.backup.segments import SegmentWriter
from pybak.backup.tar_pieces import PieceWriter
from pybak.formats.streams import Codec, codec

PIECE = 1000
ROOM = 1700

# What is put down: as a block, read to its place, or read behind a header.
STEPS = st.lists(
    st.tuples(st.sampled_from(["block", "grow", "enclose"]), st.integers(0, 4 * PIECE)), max_size=25
)


def small_pieces() -> Codec:
    return replace(codec("tar", 2), piece_bytes=PIECE)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_all_that_is_put_down_comes_out_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """In order, each as long as asked for but the last, each with its checksum."""
    path = tmp_path_factory.mktemp("pieces") / "segment"
    expected = b""
    with SegmentWriter(path) as out:
        stream = PieceWriter(out, small_pieces(), ROOM)
        for number, (way, size) in enumerate(steps):
            data = noise(size, number)
            header = noise(512, number + 100)
            if way == "enclose" and stream.has_room(len(header) + size):
                stream.space(size, len(header))[:] = data
                stream.enclose(header, size)
                expected += header + data + bytes(-size % 512)
            elif way == "grow" and size <= ROOM:
                stream.space(size)[:] = data
                stream.grow(size)
                expected += data
            else:
                stream.add(data)
                expected += data
            assert stream.plain == len(expected)
        stream.end()
        out.sha256()  # writes what waits
        size = out.size
    stored = path.read_bytes()
    assert stored == expected
    assert size == len(stored)
    assert [piece.plain for piece in stream.pieces[:-1]] == [PIECE] * (len(stream.pieces) - 1)
    at = 0
    for piece in stream.pieces:
        assert zlib.crc32(expected[at : at + piece.plain]) == piece.crc
        at += piece.plain
    assert at == len(expected)


def test_there_is_room_for_what_was_promised(tmp_path: Path) -> None:
    """Whatever waits for its piece; and not for a byte more than there is."""
    with SegmentWriter(tmp_path / "segment") as out:
        stream = PieceWriter(out, small_pieces(), ROOM)
        stream.add(bytes(PIECE - 1))
        assert stream.has_room(ROOM)
        assert not stream.has_room(ROOM + 2)
        assert len(stream.space(ROOM)) == ROOM


def test_a_stream_goes_back_to_a_mark_as_often_as_asked(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "segment") as out:
        stream = PieceWriter(out, small_pieces(), ROOM)
        stream.add(b"kept")
        mark = stream.mark()
        for size in (1, 10_000, 300):
            stream.add(bytes(size))
            stream.go_back(mark)
        stream.add(b" too")
        stream.end()
        assert (stream.plain, len(stream.pieces)) == (8, 2)
        out.sha256()
    assert (tmp_path / "segment").read_bytes() == b"kept too"


def test_streams_at_the_same_time_do_not_share_a_buffer(tmp_path: Path) -> None:
    """In one thread as in several, also where an earlier one has left its buffer."""
    with SegmentWriter(tmp_path / "before") as out:
        PieceWriter(out, small_pieces(), ROOM).end()
    names = ["a", "b", "c"]
    outs = [SegmentWriter(tmp_path / name) for name in names]
    streams = [PieceWriter(out, small_pieces(), ROOM) for out in outs]

    def fill(stream: PieceWriter, name: str) -> None:
        for _ in range(50):
            stream.add(name.encode() * 99)

    threads = [
        threading.Thread(target=fill, args=pair) for pair in zip(streams, names, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in streams:
        stream.end()
    for out in outs:
        out.sha256()
        out.__exit__()
    for name in names:
        assert (tmp_path / name).read_bytes() == name.encode() * 99 * 50


@pytest.mark.parametrize("size", [600_000, 1_000_000, 1_048_576])
def test_a_member_of_some_size_has_little_before_it_in_its_piece(tmp_path: Path, size: int) -> None:
    """So that it can be read from far without much else."""
    heads: list[int] = []
    expected = b""
    with SegmentWriter(tmp_path / "segment") as out:
        stream = PieceWriter(out, replace(codec("tar", 2), piece_bytes=4 << 20), 2 << 20)
        for number, length in enumerate([20_000] * 90 + [size] * 9 + [20_000] * 60 + [size] * 2):
            data, header = noise(length, number), noise(512, number + 1000)
            stream.space(length, len(header))[:] = data
            heads.append(stream.plain)
            stream.enclose(header, length)
            expected += header + data + bytes(-length % 512)
        stream.end()
        out.sha256()
    assert (tmp_path / "segment").read_bytes() == expected
    starts = [0]
    for piece in stream.pieces:
        starts.append(starts[-1] + piece.plain)
    assert starts[-1] == len(expected)
    assert len(stream.pieces) < 14
    for head in [*heads[90:99], *heads[-2:]]:
        assert head - max(start for start in starts if start <= head) <= 1 << 20
    # Small ones share pieces as before.
    assert max(piece.plain for piece in stream.pieces) > 1_100_000


def test_what_packs_well_is_packed_in_long_pieces(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "segment") as out:
        stream = PieceWriter(out, codec("tar.zst", 2), 2 << 20)
        for _ in range(20):
            stream.space(1_000_000, 512)[:] = b"text" * 250_000
            stream.enclose(bytes(512), 1_000_000)
        stream.end()
        out.sha256()
    assert [piece.plain for piece in stream.pieces[:-1]] == [4 << 20] * 4
