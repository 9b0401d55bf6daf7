"""Header blocks of tar archives, judged by Python's tarfile, which shares no code with them."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybak import attributes
from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    LINK,
    SOCKET,
)
from pybak.formats.tar_records import (
    BLOCK,
    END_BLOCKS,
    KIND_OF_TYPE,
    MAX_EXTENDED,
    attributes_that_fit,
    member_header,
    padding,
    sparse_map_block,
    xattr_name,
)

NS = 1_000_000_000
NOON = 1_700_000_000 * NS + 123_456_789
PLAIN: dict[str, Any] = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": NOON}
KINDS = [FILE, FOLDER, LINK, HARD_LINK, FIFO, CHAR_DEVICE, BLOCK_DEVICE]
LENGTHS = [1, 99, 100, 101, 154, 155, 156, 157, 255, 256, 257, 1000, 4095]

COMPONENTS = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"a", b"b" * 98, b"c" * 99, b"d" * 100, b"e" * 101, b"f" * 155, b"g" * 255]),
).map(lambda part: part.replace(b"/", b"_").replace(b"\0", b"_"))
NAMES = st.lists(COMPONENTS, min_size=1, max_size=8).map(b"/".join)


def open_tar(blocks: bytes) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=io.BytesIO(blocks), encoding="utf-8", errors="surrogateescape", mode="r:"
    )


def read(header: bytes, content: bytes = b"") -> tarfile.TarInfo:
    """Give the one member of an archive that is made of a header."""
    assert len(header) % BLOCK == 0
    with open_tar(header + content + padding(len(content)) + END_BLOCKS) as archive:
        [member] = archive.getmembers()
    assert member.offset == 0
    return member


def name_of(member: tarfile.TarInfo) -> bytes:
    return os.fsencode(member.name)


@given(NAMES, st.sampled_from([FILE, FOLDER, LINK]), st.sampled_from([0, NOON]))
@example("e\N{COMBINING ACUTE ACCENT}".encode() * 60, FILE, NOON)
@example(b"\xed\xa0\x80" * 60, FILE, NOON)
@example(b"a\nb=c " * 40, FOLDER, NOON)
@example(b"x" * 90 + b"/" + b"y" * 9, FOLDER, 0)
def test_a_name_reads_back_byte_for_byte(name: bytes, kind: str, mtime_ns: int) -> None:
    """(cases 1-5, 8)"""
    member = read(member_header(name, kind, **PLAIN | {"mtime_ns": mtime_ns}))
    assert name_of(member) == name
    assert KIND_OF_TYPE[member.type] == kind


@pytest.mark.parametrize("letter", [b"x", b"\xff", "\N{SNOWMAN}".encode()])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slash_at", [None, 1, 99, 100, 154, 155, 156, 200])
def test_names_and_targets_of_critical_lengths_read_back(
    letter: bytes, kind: str, slash_at: int | None
) -> None:
    """(cases 4, 8)"""
    for length in LENGTHS:
        name = (letter * length)[:length]
        if slash_at is not None and slash_at < length - 1:
            name = name[:slash_at] + b"/" + name[slash_at + 1 :]
        target = name[::-1] if kind in (LINK, HARD_LINK) else b""
        member = read(member_header(name, kind, link=target, **PLAIN))
        assert (name_of(member), os.fsencode(member.linkname)) == (name, target)


def test_a_name_that_fits_makes_no_extra_blocks() -> None:
    plain = PLAIN | {"mtime_ns": 1_700_000_000 * NS}
    for name in (b"a" * 100, b"p" * 155 + b"/" + b"n" * 100, b"\xff" * 100, b"a/" + b"b" * 100):
        assert len(member_header(name, FILE, **plain)) == BLOCK
    assert len(member_header(b"a" * 99, FOLDER, **plain)) == BLOCK
    assert len(member_header(b"a" * 100, FOLDER, **plain)) > BLOCK


def test_the_folder_at_the_top_has_a_name() -> None:
    """(case 11)"""
    member = read(member_header(b"", FOLDER, **PLAIN))
    assert member.isdir()
    assert name_of(member) == b"."


def test_the_name_of_a_long_file_is_not_cut_after_a_slash() -> None:
    """Readers that know no extended headers would take it for a folder."""
    header = member_header(b"\xff" * 99 + b"/" + b"y" * 101, FILE, **PLAIN)
    assert header[-BLOCK:][:100].rstrip(b"\0") == b"\xff" * 99


TIMES = st.one_of(
    st.integers(-(2**40), 2**40).map(lambda seconds: seconds * NS),
    st.integers(-(2**40) * NS, 2**40 * NS),
    st.sampled_from(
        [
            *(0, 1, -1, NS - 1, -NS, -NS - 1, NS // 2, -NS // 2, 315_532_800 * NS),
            *(8**11 * NS - 1, 8**11 * NS, 8**11 * NS + 1),
            *(10**9 * NS - 1, 10**9 * NS, 10**10 * NS - 1, 10**10 * NS, 10**10 * NS + 1),
        ]
    ),
)


@given(TIMES)
def test_a_time_reads_back_to_the_nanosecond(mtime_ns: int) -> None:
    """Before 1970, before 1980, after 2242: all of them (cases 19, 20)."""
    header = member_header(b"f", FILE, **PLAIN | {"mtime_ns": mtime_ns})
    member = read(header)
    told = member.pax_headers.get("mtime")
    if told is None:
        assert member.mtime * NS == mtime_ns
        return
    sign = -1 if told.startswith("-") else 1
    seconds, _, fraction = told.lstrip("-").partition(".")
    assert sign * (int(seconds) * NS + int(fraction.ljust(9, "0"))) == mtime_ns
    assert abs(member.mtime - mtime_ns / NS) <= abs(mtime_ns) / NS * 1e-15


@pytest.mark.parametrize("mtime_ns", [2**63 * NS, -(2**63) * NS, 10**40, -(10**40)])
def test_a_time_beyond_all_is_the_last_one_there_is(mtime_ns: int) -> None:
    """(case 20)"""
    member = read(member_header(b"f", FILE, **PLAIN | {"mtime_ns": mtime_ns}))
    assert abs(member.mtime) == 2**62


@given(st.integers(0, 2**63 - 1))
@example(8**11 - 1)
@example(8**11)
@example(0)
def test_a_size_of_any_length_is_in_the_header_itself(size: int) -> None:
    """Extended headers with a size make busybox lose the rest of the archive (case 36)."""
    header = member_header(b"f", FILE, size=size, **PLAIN)
    assert b"size=" not in header
    member = tarfile.TarInfo.frombuf(header[-BLOCK:], "utf-8", "surrogateescape")
    assert member.size == size


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
@example(-1, 0xFFFFFFFF)
@example(2**21 - 1, 2**21)
def test_owner_numbers_of_any_size_are_taken(uid: int, gid: int) -> None:
    """(case 21)"""
    member = read(member_header(b"f", FILE, **PLAIN | {"uid": uid, "gid": gid}))
    assert (member.uid, member.gid) == (uid % 2**32, gid % 2**32)
    assert "uid" not in member.pax_headers


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 200])
@pytest.mark.parametrize("letter", ["u", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"])
def test_owner_names_read_back(length: int, letter: str) -> None:
    """(cases 21, 24)"""
    user, group = letter * length, letter.upper() * length
    member = read(member_header(b"f", FILE, user=user.encode(), group=group.encode(), **PLAIN))
    assert (member.uname, member.gname) == (user, group)


def test_an_owner_name_that_can_not_be_told_is_left_out_and_not_cut() -> None:
    member = read(member_header(b"f", FILE, user=b"\xff" * 40, group=b"\xff" * 31, **PLAIN))
    assert (member.uname, os.fsencode(member.gname)) == ("", b"\xff" * 31)


@pytest.mark.parametrize("mode", [0, 0o644, 0o7777, 0o104755, 0o1777])
def test_a_mode_has_the_permission_bits_only(mode: int) -> None:
    """(case 16)"""
    assert read(member_header(b"f", FILE, **PLAIN | {"mode": mode})).mode == mode & 0o7777


@pytest.mark.parametrize("kind", [CHAR_DEVICE, BLOCK_DEVICE])
@pytest.mark.parametrize("device", [(0, 0), (8, 1), (4095, 2**20 - 1), (2**32 - 1, 2**32 - 1)])
def test_device_numbers_read_back(kind: str, device: tuple[int, int]) -> None:
    """(case 33)"""
    member = read(member_header(b"d", kind, device=device, **PLAIN))
    assert (member.devmajor, member.devminor) == device


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {FILE}))
def test_only_files_have_content(kind: str) -> None:
    assert read(member_header(b"x", kind, size=12345, **PLAIN)).size == 0


def test_a_socket_has_no_place() -> None:
    """(case 33)"""
    with pytest.raises(KeyError):
        member_header(b"s", SOCKET, **PLAIN)


XATTR_NAMES = st.one_of(
    st.sampled_from(
        [b"user.a", b"user.a=b", b"user.100%", b"user.%3D", b"user.\xff", b"user.a\nb"]
    ),
    st.binary(min_size=1, max_size=50).map(lambda name: b"user." + name.replace(b"\0", b"")),
)


@given(st.dictionaries(XATTR_NAMES, st.binary(max_size=2000), max_size=5), NAMES)
def test_attributes_read_back(values: dict[bytes, bytes], name: bytes) -> None:
    """(case 23)"""
    member = read(member_header(name, FILE, attributes=values, **PLAIN))
    assert name_of(member) == name
    found = {
        xattr_name(os.fsencode(keyword)): os.fsencode(value)
        for keyword, value in member.pax_headers.items()
        if keyword.startswith("SCHILY.xattr.")
    }
    assert found == values


def test_acls_are_told_as_text() -> None:
    """(case 24)"""
    acl = attributes.acl_from_text(b"u::rwx,u:1000:r-x,g::r-x,m::rwx,o::r--")
    both = {attributes.ACL_ACCESS: acl, attributes.ACL_DEFAULT: acl}
    told = read(member_header(b"d", FOLDER, attributes=both, **PLAIN)).pax_headers
    text = "user::rwx,user:1000:r-x,group::r-x,mask::rwx,other::r--"
    assert told.pop("mtime")
    assert told == {"SCHILY.acl.access": text, "SCHILY.acl.default": text}


def test_an_acl_of_an_unknown_form_is_told_as_it_is() -> None:
    strange = {attributes.ACL_ACCESS: b"\3\0\0\0"}
    told = read(member_header(b"d", FOLDER, attributes=strange, **PLAIN)).pax_headers
    assert told["SCHILY.xattr.system.posix_acl_access"] == "\3\0\0\0"


def test_attributes_of_more_than_a_header_can_hold_are_named() -> None:
    """(case 23)"""
    values = {b"user.%d" % number: bytes(65_000) for number in range(20)}
    values[b"user.small"] = b"1"
    kept, left_out = attributes_that_fit(values)
    assert b"user.small" in kept
    assert len(kept) + len(left_out) == 21
    assert 13 <= len(kept) <= 16
    header = member_header(b"x" * 4000, FILE, attributes=kept, **PLAIN)
    assert len(header) <= MAX_EXTENDED
    assert attributes_that_fit({b"user.a": b"1"}) == ({b"user.a": b"1"}, [])


RUNS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8), st.integers(1, BLOCK)), max_size=8)


@given(RUNS, st.booleans(), st.one_of(NAMES, st.sampled_from([b"s", b"d/s"])))
@example([], False, b"s")
def test_a_sparse_file_reads_back(
    runs: list[tuple[int, int, int]], ends_with_data: bool, name: bytes
) -> None:
    """Holes at the start, in the middle, at the end, everywhere (case 35)."""
    data_map: list[tuple[int, int]] = []
    at = 0
    for number, (hole, blocks, last) in enumerate(runs):
        at += hole * BLOCK
        ends_here = ends_with_data and number == len(runs) - 1
        length = blocks * BLOCK if not ends_here else (blocks - 1) * BLOCK + last
        data_map.append((at, length))
        at += length
    size = at if ends_with_data and runs else at + 3000
    content = sparse_map_block(data_map, size)
    plain = bytearray(size)
    for number, (offset, length) in enumerate(data_map):
        run = bytes([number % 255 + 1]) * length
        content += run
        plain[offset : offset + length] = run
    blocks = member_header(name, FILE, size=size, data_map=data_map, **PLAIN)
    blocks += content + padding(len(content))
    blocks += member_header(b"after", FILE, size=3, **PLAIN) + b"xyz" + padding(3) + END_BLOCKS
    with open_tar(blocks) as archive:
        sparse, after = archive.getmembers()
        assert (name_of(sparse), sparse.size, sparse.issparse()) == (name, size, True)
        file = archive.extractfile(sparse)
        assert file is not None
        assert file.read() == plain
        assert sparse.mtime == pytest.approx(NOON / NS)
        assert name_of(after) == b"after"


@pytest.mark.parametrize(
    ("data_map", "size"),
    [
        ([(1, 512)], 4096),
        ([(512, 100)], 4096),
        ([(512, 512), (0, 512)], 4096),
        ([(0, 1024), (512, 512)], 4096),
        ([(0, 0)], 4096),
        ([(512, 4096)], 4096),
        ([(0, 700), (1024, 512)], 1536),
    ],
)
def test_a_map_that_others_would_misread_is_refused(
    data_map: list[tuple[int, int]], size: int
) -> None:
    with pytest.raises(ValueError, match="has no place in the map"):
        sparse_map_block(data_map, size)


@pytest.mark.parametrize(("size", "zeros"), [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)])
def test_content_is_padded_to_a_block(size: int, zeros: int) -> None:
    assert padding(size) == bytes(zeros)


def test_names_are_told_in_extended_headers_only_where_libarchive_keeps_them() -> None:
    """It composes what it finds there (case 5)."""
    composed = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 60
    apart = unicodedata.normalize("NFD", composed)
    for text, is_pax in ((composed, True), (apart, False)):
        header = member_header(text.encode(), FILE, **PLAIN)
        assert (b" path=" in header) is is_pax
        assert (b"././@LongLink" in header) is not is_pax
