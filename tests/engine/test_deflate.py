"""Deflate at nine levels: zlib inflates all of it, whole files and joined pieces."""

from __future__ import annotations

import zlib
from itertools import pairwise

import pytest
from backing_up import noise, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak.formats.deflate import (
    END,
    PIECE,
    crc32,
    crc32_combine,
    deflater,
    engine_name,
    looks_incompressible,
    packed_share,
    stored_blocks,
)

LEVELS = range(1, 10)
CONTENT = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda text, times: text * times, st.binary(max_size=30), st.integers(0, 5000)),
    st.builds(noise, st.integers(0, 70_000), st.integers(0, 3)),
)


def inflate(stream: bytes) -> bytes:
    """Inflate one raw stream that must end exactly where the bytes do."""
    engine = zlib.decompressobj(-15)
    data = engine.decompress(stream) + engine.flush()
    assert engine.eof
    assert engine.unused_data == b""
    return data


@settings(max_examples=60, deadline=None)
@given(level=st.sampled_from(LEVELS), contents=st.lists(CONTENT, max_size=5))
def test_pieces_laid_end_to_end_are_one_stream(level: int, contents: list[bytes]) -> None:
    pieces = [deflater(level).piece(content) for content in contents]
    assert inflate(b"".join(pieces) + END) == b"".join(contents)


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.tuples(st.sampled_from([*LEVELS, 0]), CONTENT), min_size=1, max_size=6))
def test_pieces_of_all_engines_and_stored_blocks_join(contents: list[tuple[int, bytes]]) -> None:
    pieces = [
        deflater(level).piece(content) if level else stored_blocks(content)
        for level, content in contents
    ]
    assert inflate(b"".join(pieces) + END) == b"".join(content for _, content in contents)


@pytest.mark.parametrize("level", LEVELS)
def test_a_piece_inflates_without_those_before_it(level: int) -> None:
    first, second = prose(PIECE, 1), prose(50_000, 2)
    piece = deflater(level).piece
    joined = piece(first) + piece(second) + END
    assert inflate(joined[len(piece(first)) :]) == second


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [0, 1, 2, 65_534, 65_535, 65_536, PIECE - 1, PIECE, PIECE + 1])
def test_sizes_around_the_borders_come_back(level: int, size: int) -> None:
    engine = deflater(level)
    data = prose(size)
    assert inflate(engine.whole(data)) == data
    assert inflate(engine.piece(data) + engine.piece(b"") + END) == data


@pytest.mark.parametrize("size", [0, 1, 65_534, 65_535, 65_536, 131_070, 131_071])
def test_stored_blocks_cost_five_bytes_in_65535(size: int) -> None:
    data = noise(size)
    blocks = stored_blocks(data)
    assert inflate(blocks + END) == data
    assert len(blocks) == size + 5 * -(-size // 65_535)


@given(first=st.binary(max_size=200), second=st.binary(max_size=200))
def test_checksums_combine(first: bytes, second: bytes) -> None:
    combined = crc32_combine(crc32(first), crc32(second), len(second))
    assert combined == zlib.crc32(first + second)


def test_checksums_combine_over_more_than_4_gib() -> None:
    zeros = zlib.crc32(bytes(1 << 20))
    crc, length = zeros, 1 << 20
    while length < 8 << 30:
        crc, length = crc32_combine(crc, crc, length), 2 * length
    # The same by squaring in another order: 8 GiB are 8192 times 1 MiB.
    slow = 0
    for _ in range(8192):
        slow = crc32_combine(slow, zeros, 1 << 20)
    assert crc == slow


def test_a_sample_tells_noise_from_text() -> None:
    assert looks_incompressible(noise(200_000))
    assert not looks_incompressible(prose(200_000))


@pytest.mark.parametrize("length", [0, 1, 3, 8191, 8192, 8193, 20_000, 100_000, 4 << 20])
def test_data_of_any_length_can_be_judged(length: int) -> None:
    assert looks_incompressible(noise(length))
    assert looks_incompressible(bytes(length)) == (length < 4)


def test_what_compressing_leaves_is_estimated() -> None:
    assert packed_share(noise(800_000)) > 0.98
    assert packed_share(bytes(800_000)) < 0.02
    assert 0.3 < packed_share(noise(400_000) + bytes(400_000)) < 0.7
    assert packed_share(b"") < 3


def test_noise_among_text_is_not_given_up() -> None:
    text = prose(150_000)
    assert not looks_incompressible(text + noise(800_000))
    assert not looks_incompressible(noise(400_000) + text + noise(400_000))


def test_higher_levels_make_smaller_files() -> None:
    data = prose(300_000)
    sizes = [len(deflater(level).whole(data)) for level in LEVELS]
    assert sizes[8] <= sizes[5] < sizes[1] < len(data) / 2
    assert all(later <= earlier * 1.02 for earlier, later in pairwise(sizes))


def test_every_level_names_its_engines() -> None:
    assert all(engine_name(level) for level in LEVELS)
