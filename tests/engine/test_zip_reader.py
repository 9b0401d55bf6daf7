"""ZIP archives read back: our own, other tools', and those that no honest program writes."""

from __future__ import annotations

import calendar
import io
import os
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import archives as forge
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybak.entries import FILE, FOLDER, LINK
from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.formats import zip_records as zr
from pybak.formats.archive import CHUNK, ONE_SHOT, Limits
from pybak.formats.zip_directory import Directory, Member
from pybak.formats.zip_reader import ZipFile

NOISE = bytes((i * 7919 >> 3) & 0xFF for i in range(100_003))


def contents(path: bytes) -> dict[bytes, bytes]:
    """Read every member of an archive both ways and give what they hold."""
    with ZipFile.from_path(path) as archive:
        directory = archive.directory()
        found = {}
        for member, limit in zip(directory.members, directory.limits, strict=True):
            found[member.name] = archive.read(member, limit)
            assert b"".join(archive.chunks(member, limit)) == found[member.name]
        return found


def directory_of(path: bytes) -> Directory:
    with ZipFile.from_path(path) as archive:
        return archive.directory()


def test_members_of_every_kind_are_read(tmp_path: Path) -> None:
    members = [
        forge.folder(b"d", 0o750),
        forge.file(b"d/empty"),
        forge.file(b"d/stored", NOISE, 0o4755),
        forge.file(b"d/deflated", b"abc" * 10_000, deflate=True, gap_before=b"\0" * 100),
        forge.link(b"d/link", b"../elsewhere"),
    ]
    path = forge.write(tmp_path / "a.zip", members, with_manifest=True)
    found = directory_of(path)
    assert [member.kind for member in found.members] == [FOLDER, FILE, FILE, FILE, LINK, FILE]
    assert stat.S_IMODE(found.members[2].mode) == 0o4755
    assert contents(path)[b"d/deflated"] == b"abc" * 10_000
    assert contents(path)[b"d/link"] == b"../elsewhere"
    assert not found.clashes


@pytest.mark.parametrize("size", [ONE_SHOT - 1, ONE_SHOT, ONE_SHOT + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_large_member_comes_in_bounded_pieces(tmp_path: Path, size: int, deflate: bool) -> None:
    data = (NOISE * (size // len(NOISE) + 1))[:size]
    path = forge.write(tmp_path / "a.zip", [forge.file(b"big", data, deflate=deflate)])
    with ZipFile.from_path(path) as archive:
        found = archive.directory()
        pieces = list(archive.chunks(found.members[0], found.limits[0]))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= CHUNK


def test_an_open_descriptor_is_read_and_stays_open(tmp_path: Path) -> None:
    forge.write(tmp_path / "a.zip", [forge.file(b"x", b"hello")])
    with (tmp_path / "a.zip").open("rb") as opened:
        with ZipFile.from_path(opened.fileno(), label="a.zip") as archive:
            assert [member.name for member in archive.directory().members] == [b"x"]
        assert opened.read(2) == b"PK"


def test_times_come_from_the_most_exact_field(tmp_path: Path) -> None:
    """Times before 1970, after 2038 and after 2107 are not lost (case 20)."""
    seconds = [-5_000_000_000, -1, 0, 1, 2**31 - 1, 2**31, 4_400_000_000, 9_000_000_000]
    members = [forge.file(b"%d" % i, mtime_ns=s * 10**9) for i, s in enumerate(seconds)]
    path = forge.write(tmp_path / "a.zip", members)
    assert [member.mtime()[0] // 10**9 for member in directory_of(path).members] == seconds
    dos_only = forge.write(tmp_path / "b.zip", [forge.file(b"a", extra=b"")])
    mtime_ns, precision = directory_of(dos_only).members[0].mtime()
    assert abs(mtime_ns - forge.NOON) < precision == 2 * 10**9


@pytest.mark.parametrize("field", [b"UT\5\0\1%b", b"UX\x08\0\0\0\0\0%b"])
@pytest.mark.parametrize(
    ("stored", "dos_year", "seconds"),
    [
        (2**31, 2038, 2**31), (2_540_000_000, 2050, 2_540_000_000), (2**32 - 1, 2106, 2**32 - 1),
        (2**31 - 1, 2038, 2**31 - 1), (2**32 - 1, 1980, -1), (2**31, 1980, -(2**31)),
        (2**32 - 86_400, 2037, -86_400),
    ],
)  # fmt: skip
def test_seconds_of_32_bits_are_of_the_century_of_the_dos_date(
    tmp_path: Path, field: bytes, stored: int, dos_year: int, seconds: int
) -> None:
    """Info-ZIP goes on past January 2038, and means times before 1970 otherwise (case 20)."""
    at = calendar.timegm((dos_year, 2, 1, 12, 0, 0)) * 10**9
    extra = field % struct.pack("<I", stored)
    path = forge.write(tmp_path / "a.zip", [forge.file(b"a", mtime_ns=at, extra=extra)])
    assert directory_of(path).members[0].mtime() == (seconds * 10**9, 10**9)


@pytest.mark.parametrize(
    "name",
    [
        b"blank and (paren) [*?].txt", b"dots...", b"blank ", b"new\nline", b"\xff\xfe raw",
        "日本語/Ünï".encode(), b"n" * 255, b"back\\slash", b"c:colon",
    ],
)  # fmt: skip
def test_names_come_back_as_bytes(tmp_path: Path, name: bytes) -> None:
    """Whatever POSIX allows in a name survives (cases 1, 2, 3, 5, 8)."""
    path = forge.write(tmp_path / "a.zip", [forge.file(name, b"x")])
    assert contents(path) == {name: b"x"}


COMMANDS = {
    "zip": ["zip", "-q", "-r", "{out}", "."],
    "zip from a pipe": ["sh", "-c", "zip -q -r - . | cat > {out}"],
    "zip stored": ["zip", "-q", "-0", "-r", "{out}", "."],
    "7zz": ["7zz", "a", "-bso0", "-tzip", "{out}", "."],
    "bsdtar": ["bsdtar", "--format", "zip", "-cf", "{out}", "."],
    "zipfile": [sys.executable, "-m", "zipfile", "-c", "{out}", "."],
}


class TestArchivesOfOthers:
    """What other programs write is read as they mean it."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        tree = tmp_path / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub/noise").write_bytes(NOISE)
        (tree / "text").write_bytes(b"hello " * 999)
        (tree / "empty").write_bytes(b"")
        (tree / "ümlaut").write_bytes(b"u")
        return tree

    @pytest.mark.parametrize("tool", COMMANDS)
    def test_archives_of_other_programs_are_read(self, tool: str, tree: Path) -> None:
        out = tree.parent / "out.zip"
        command = [part.replace("{out}", str(out)) for part in COMMANDS[tool]]
        try:
            subprocess.run(command, cwd=tree, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        found = contents(os.fsencode(out))
        files = {
            name.removeprefix(b"./"): data for name, data in found.items() if name[-1:] != b"/"
        }
        assert files == {
            b"sub/noise": NOISE, b"text": b"hello " * 999, b"empty": b"", "ümlaut".encode(): b"u",
        }  # fmt: skip

    def test_data_descriptors_are_understood(self, tmp_path: Path) -> None:
        class Unseekable(io.RawIOBase):
            def __init__(self) -> None:
                self.data = bytearray()

            def writable(self) -> bool:
                return True

            def write(self, data: object) -> int:
                self.data += data  # type: ignore[arg-type]
                return len(data)  # type: ignore[arg-type]

        pipe = Unseekable()
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as out:  # type: ignore[call-overload]
            out.writestr("a", NOISE)
            with out.open("b", "w", force_zip64=True) as member:
                member.write(b"bbb")
        (tmp_path / "a.zip").write_bytes(pipe.data)
        assert contents(os.fsencode(tmp_path / "a.zip")) == {b"a": NOISE, b"b": b"bbb"}

    @pytest.mark.parametrize("prefix", [b"#!/bin/sh\nexit\n", NOISE, b"PK\x05\x06"])
    def test_bytes_before_the_archive_do_not_matter(self, tmp_path: Path, prefix: bytes) -> None:
        path = forge.write(tmp_path / "a.exe", [forge.file(b"a", b"x" * 50)], prefix=prefix)
        assert contents(path) == {b"a": b"x" * 50}

    @pytest.mark.parametrize(
        "comment", [b"hi", b"x" * 65535, zr.end_records(0, 0, 0), zr.END_SIGNATURE * 9]
    )
    def test_a_comment_does_not_hide_the_end(self, tmp_path: Path, comment: bytes) -> None:
        path = forge.write(tmp_path / "a.zip", [forge.file(b"a", b"x")], comment=comment)
        if comment[:4] == zr.END_SIGNATURE and len(comment) == zr.END.size:
            # A whole end record in the comment: nobody can tell which one is meant.
            with pytest.raises(ArchiveError):
                contents(path)
            return
        assert contents(path) == {b"a": b"x"}
        assert directory_of(path).comment == comment

    def test_names_of_dos_are_cp437_with_backslashes(self, tmp_path: Path) -> None:
        members = [forge.file(b"C:dir\\\x81.txt", b"x", flags=0)]
        path = forge.write(tmp_path / "a.zip", members, made_by=0)
        assert contents(path) == {"dir/ü.txt".encode(): b"x"}

    def test_the_unicode_path_field_counts_if_its_crc_fits(self, tmp_path: Path) -> None:
        def field(crc: int) -> bytes:
            return struct.pack("<HHBI", 0x7075, 5 + 2, 1, crc) + "ü".encode()

        good = forge.file(b"#U00fc", b"x", flags=0, extra=field(zlib.crc32(b"#U00fc")))
        stale = forge.file(b"other", b"y", flags=0, extra=field(1))
        path = forge.write(tmp_path / "a.zip", [good, stale])
        assert contents(path) == {"ü".encode(): b"x", b"other": b"y"}

    def test_more_members_than_16_bits_count(self, tmp_path: Path) -> None:
        """ZIP64 end records are found (case 37)."""
        members = [forge.file(b"%d" % i) for i in range(65_540)]
        path = forge.write(tmp_path / "a.zip", members)
        assert len(directory_of(path).members) == 65_540
        with zipfile.ZipFile(os.fsdecode(path)) as judge:
            assert len(judge.infolist()) == 65_540

    def test_zip64_fields_of_a_small_member_are_followed(self, tmp_path: Path) -> None:
        with (
            zipfile.ZipFile(tmp_path / "a.zip", "w") as out,
            out.open(zipfile.ZipInfo("a"), "w", force_zip64=True) as member,
        ):
            member.write(b"abc")
        assert contents(os.fsencode(tmp_path / "a.zip")) == {b"a": b"abc"}

    @pytest.mark.needs_tool("zip")
    def test_an_encrypted_member_is_named_as_such(self, tree: Path) -> None:
        out = tree.parent / "e.zip"
        subprocess.run(["zip", "-q", "-P", "pw", out, "text"], cwd=tree, check=True)
        with pytest.raises(ArchiveError, match="member text is encrypted with ZipCrypto"):
            contents(os.fsencode(out))

    def test_an_unknown_method_is_named(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as out:
            out.writestr("a", NOISE)
        with pytest.raises(ArchiveError, match="member a is compressed with bzip2"):
            contents(os.fsencode(tmp_path / "a.zip"))


def deny(tmp_path: Path, members: list[forge.Forged], **how: object) -> str:
    path = forge.write(tmp_path / "bad.zip", members, **how)
    with pytest.raises(ArchiveError) as caught:
        contents(path)
    message = str(caught.value)
    assert "bad.zip" in message
    return message


class TestHostileArchives:
    """What is wrong is named, and nothing is made of it."""

    @pytest.mark.parametrize("deflate", [False, True])
    @pytest.mark.parametrize("size", [500, ONE_SHOT + 7])
    def test_a_wrong_crc_is_told(self, tmp_path: Path, size: int, deflate: bool) -> None:
        data = (NOISE * 11)[:size]
        bad = forge.file(b"bad", data, deflate=deflate, crc=zlib.crc32(data) ^ 1)
        assert "member bad is damaged: its CRC-32" in deny(tmp_path, [bad])

    @pytest.mark.parametrize("real", [1000, ONE_SHOT * 2])
    def test_no_more_than_declared_is_ever_yielded(self, tmp_path: Path, real: int) -> None:
        data = b"a" * real
        stored = forge.raw_deflate(data)
        bad = forge.file(b"bad", data, stored=stored, method=8, size=600)
        path = forge.write(tmp_path / "a.zip", [bad])
        got = 0
        with ZipFile.from_path(path) as archive:
            found = archive.directory()
            pieces = archive.chunks(found.members[0], found.limits[0])
            try:
                for piece in pieces:
                    got += len(piece)
            except ArchiveError as error:
                assert "unpacks to more than the 600 bytes" in str(error)  # noqa: PT017
        assert got <= 600
        assert "more than" in deny(tmp_path, [bad])

    def test_an_impossible_ratio_is_refused_unread(self, tmp_path: Path) -> None:
        bad = forge.file(b"bad", b"x", deflate=True, size=1 << 31)
        assert "more than deflate can hold" in deny(tmp_path, [bad])

    def test_a_stream_that_ends_early_is_told(self, tmp_path: Path) -> None:
        data = NOISE[:5000]
        bad = forge.file(b"bad", data, stored=forge.raw_deflate(data)[:-50], method=8)
        assert "cut short" in deny(tmp_path, [bad])

    @pytest.mark.parametrize("size", [5000, ONE_SHOT + 5000])
    def test_bytes_behind_the_stream_are_told(self, tmp_path: Path, size: int) -> None:
        data = (NOISE * 11)[:size]
        bad = forge.file(b"bad", data, stored=forge.raw_deflate(data) + b"more", method=8)
        assert "bytes after the end of its deflate stream" in deny(tmp_path, [bad])

    def test_a_local_header_with_another_name_is_told(self, tmp_path: Path) -> None:
        bad = forge.file(b"good-name", b"x", local_name=b"evil-name")
        assert "contradicts the directory" in deny(tmp_path, [bad])

    def test_overlapping_members_clash(self, tmp_path: Path) -> None:
        shared = forge.file(b"one", b"x" * 100)
        bomb = [shared, forge.file(b"two", b"x" * 100, offset=0, with_local=False)]
        path = forge.write(tmp_path / "a.zip", bomb)
        assert directory_of(path).clashes == {0, 1}

    def test_a_quoting_bomb_is_refused_member_by_member(self, tmp_path: Path) -> None:
        """A member that swallows the next one's header in its own extra field or data."""
        inner = forge.file(b"inner", b"x" * 100)
        image = forge.build([inner])[: 30 + 5 + 9 + 15 + 100]
        outer = forge.file(b"outer", b"y" * len(image), stored=image, crc=zlib.crc32(image))
        member = forge.file(b"inner", b"x" * 100, offset=30 + 5 + 9 + 15, with_local=False)
        path = forge.write(tmp_path / "a.zip", [outer, member])
        found = directory_of(path)
        assert found.clashes == {0, 1}
        with ZipFile.from_path(path) as archive, pytest.raises(ArchiveError):
            archive.read(found.members[0], found.limits[0])

    def test_a_member_beyond_the_directory_clashes(self, tmp_path: Path) -> None:
        far = forge.file(b"far", b"x", offset=1 << 30, with_local=False)
        farther = forge.file(b"farther", b"x", offset=1 << 62, with_local=False)
        path = forge.write(tmp_path / "a.zip", [forge.file(b"ok", b"y"), far, farther])
        assert directory_of(path).clashes == {1, 2}

    def test_contradicting_end_records_are_told(self, tmp_path: Path) -> None:
        def wrong(end: bytes) -> bytes:
            return end[:-12] + struct.pack("<I", 77) + end[-8:]

        many = [forge.file(b"%d" % i) for i in range(65_536)]
        assert "contradict" in deny(tmp_path, many, change_end=wrong)

    @pytest.mark.parametrize("count", [0, 2, 60_000])
    def test_a_wrong_member_count_is_told(self, tmp_path: Path, count: int) -> None:
        deny(tmp_path, [forge.file(b"a", b"x")], count=count)

    def test_a_volume_of_a_split_archive_is_told(self, tmp_path: Path) -> None:
        def volume(end: bytes) -> bytes:
            return end[:4] + struct.pack("<H", 3) + end[6:]

        assert "split archive" in deny(tmp_path, [forge.file(b"a")], change_end=volume)

    def test_a_bomb_by_ratio_needs_a_word(self, tmp_path: Path) -> None:
        path = forge.write(tmp_path / "a.zip", [forge.file(b"z", bytes(10**6), deflate=True)])
        with ZipFile.from_path(path) as archive:
            members = archive.listing(Limits()).members
            archive.check_limits(members, Limits())
            with pytest.raises(ArchiveError, match="like a bomb"):
                archive.check_limits(members, Limits(free_size=10**5))
            archive.check_limits(members, Limits(free_size=10**5, ratio=2000))
            with pytest.raises(ArchiveError, match="1 member, more than is allowed"):
                archive.directory(max_members=0)


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"just text " * 50)
    (tmp_path / "nothing").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for name in ("text", "nothing"):
        with pytest.raises(ArchiveError, match="is no ZIP archive"):
            directory_of(os.fsencode(tmp_path / name))
    for name in ("fifo", "."):
        with pytest.raises(PlanError, match="is no file"):
            directory_of(os.fsencode(tmp_path / name))
    with pytest.raises(NotFoundError, match="no such archive"):
        directory_of(os.fsencode(tmp_path / "missing"))


SAMPLE = [
    forge.folder(b"d"),
    forge.file(b"d/stored", NOISE[:300]),
    forge.file(b"d/deflated", b"abc" * 300 + NOISE[:100], deflate=True),
    forge.link(b"d/link", b"stored"),
    forge.file(b"\xff raw", b"y" * 40, mtime_ns=-(10**18)),
]
WHOLE = forge.build(SAMPLE, with_manifest=True, comment=b"a comment")


def test_a_truncated_archive_says_so_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.zip"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(ArchiveError):
            contents(os.fsencode(path))


def read_all(data: bytes, path: Path) -> Iterator[tuple[Member, bytes]]:
    path.write_bytes(data)
    with ZipFile.from_path(os.fsencode(path)) as archive:
        found = archive.directory()
        for member, limit in zip(found.members, found.limits, strict=True):
            try:
                yield member, archive.read(member, limit)
            except ArchiveError:
                continue


positions = st.integers(0, len(WHOLE) - 1)


@settings(
    max_examples=400, deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    flips=st.lists(st.tuples(positions, st.integers(1, 255)), max_size=4),
    splices=st.lists(st.tuples(positions, positions, positions), max_size=2),
)
def test_damaged_bytes_give_archive_errors_and_nothing_else(
    tmp_path: Path, flips: list[tuple[int, int]], splices: list[tuple[int, int, int]]
) -> None:
    data = bytearray(WHOLE)
    for start, stop, at in splices:
        data[at:at] = data[start:stop]
        if start < stop:
            del data[start : start + (stop - start) // 2]
    for at, bits in flips:
        if at < len(data):
            data[at] ^= bits
    try:
        for member, content in read_all(bytes(data), tmp_path / "f.zip"):
            assert len(content) == member.size
            assert zlib.crc32(content) == member.crc
    except ArchiveError:
        pass


def test_no_flipped_byte_passes_for_the_right_content(tmp_path: Path) -> None:
    """Every single-byte error is seen, or harmless to name and content (case 59)."""
    right = {member.name: member.data for member in SAMPLE}
    for at in range(len(WHOLE)):
        data = bytearray(WHOLE)
        data[at] ^= 0x55
        try:
            got = dict(read_all(bytes(data), tmp_path / "f.zip"))
        except ArchiveError:
            continue
        for member, content in got.items():
            if member.name in right:
                assert content == right[member.name]
