"""The block at the end of a tar archive's manifest."""

from __future__ import annotations

import gzip
import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.formats.tar_footer import BLOCK, Footer, footer_block, read_footer

NUMBERS = st.integers(0, 2**64 - 1)
FOOTERS = st.builds(Footer, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
SOME = Footer(10, 20_000, 3 << 40, 21_504)


@given(FOOTERS)
def test_what_is_written_reads_back(footer: Footer) -> None:
    block = footer_block(footer)
    assert len(block) == BLOCK
    assert read_footer(block) == footer
    assert gzip.decompress(block) == b""


def test_it_is_a_gzip_member_of_nothing_behind_another_one() -> None:
    manifest = gzip.compress(b"lines\n") + footer_block(SOME)
    assert gzip.decompress(manifest) == b"lines\n"
    stream = zlib.decompressobj(31)
    assert stream.decompress(footer_block(SOME)) == b""
    assert stream.eof
    assert stream.unused_data == b""


@pytest.mark.needs_tool("gzip", "pigz", "busybox")
@pytest.mark.parametrize("program", ["gzip", "pigz", "busybox gzip"])
def test_other_programs_unpack_a_manifest_that_ends_in_it(program: str) -> None:
    manifest = gzip.compress(b"lines\n") + gzip.compress(b"more\n") + footer_block(SOME)
    done = subprocess.run([*program.split(), "-dc"], input=manifest, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"lines\nmore\n", b"")


@given(st.binary(max_size=600))
def test_any_bytes_are_no_footer(block: bytes) -> None:
    assert read_footer(block) is None


@pytest.mark.parametrize("length", [0, 1, 15, 16, 56, 60, 511])
def test_a_truncated_block_is_none(length: int) -> None:
    assert read_footer(footer_block(SOME)[:length]) is None
    assert read_footer(footer_block(SOME) + b"\0") is None


def test_a_flipped_bit_is_seen_wherever_it_is() -> None:
    """(case 59)"""
    whole = footer_block(SOME)
    for at in range(BLOCK * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        assert read_footer(bytes(damaged)) is None, at


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_has_no_place_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="no place"):
        footer_block(SOME._replace(head=number))
