"""What a file is, its first bytes tell: archives of every format, wrapped or in volumes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import zipfile
from pathlib import Path

import archives
import pytest
import tars
import zstandard

from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.formats import wrapper
from pybak.formats.archive import Limits
from pybak.formats.opening import base_name, open_archive, open_source
from pybak.problems import DAMAGED
from pybak.volumes.find import find_volumes

DATA = b"content " * 500
PLAIN = tars.tar([tars.file(b"a", DATA)])
ZIPPED = archives.build([archives.file(b"a", DATA)])


def read_one(*paths: Path) -> tuple[str, bytes, bytes]:
    with open_archive([os.fsencode(path) for path in paths]) as archive:
        (one,) = archive.listing(Limits()).members
        return archive.format, one.name, archive.read(one.locator, one.limit)


@pytest.mark.parametrize("name", ["x.zip", "misleading.tar.gz", "none"])
@pytest.mark.parametrize(
    ("archive_format", "data"),
    [
        ("zip", ZIPPED), ("tar", PLAIN), ("tar.gz", gzip.compress(PLAIN)),
        ("tar.bz2", bz2.compress(PLAIN)), ("tar.zst", zstandard.compress(PLAIN)),
        ("tar.zst", b"\x52\x2a\x4d\x18\x05\0\0\0hello" + zstandard.compress(PLAIN)),
        ("zip", b"#!/bin/sh\n" + ZIPPED),
    ],
)  # fmt: skip
def test_the_content_tells_the_format_and_not_the_name(
    tmp_path: Path, name: str, archive_format: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_one(tmp_path / name) == (archive_format, b"a", DATA)


def test_a_v7_tar_has_no_magic(tmp_path: Path) -> None:
    head = bytearray(PLAIN[1024:1536])
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "x").write_bytes(bytes(head) + PLAIN[1536:])
    assert read_one(tmp_path / "x") == ("tar", b"a", DATA)


@pytest.mark.parametrize("data", [ZIPPED, gzip.compress(PLAIN), PLAIN])
def test_volumes_are_one_archive(tmp_path: Path, data: bytes) -> None:
    size = len(data) // 3 + 1
    for number in range(3):
        (tmp_path / f"x.{number + 1:03d}").write_bytes(data[number * size :][:size])
    paths = [Path(os.fsdecode(path)) for path in find_volumes(os.fsencode(tmp_path)).paths]
    assert read_one(*paths)[1:] == (b"a", DATA)
    with open_archive([os.fsencode(path) for path in paths]) as archive:
        assert archive.label == str(tmp_path / "x")
        assert len(archive.identity) == 3


def wrapped_volumes(folder: Path, inner: list[bytes], data: list[bytes]) -> list[bytes]:
    paths = []
    for number, (name, part) in enumerate(zip(inner, data, strict=True), 1):
        path = folder / f"x.tar.{number:03d}.zip"
        chunks = wrapper.wrap(name, len(part), [part], b"pw", mtime_ns=archives.NOON)
        path.write_bytes(b"".join(chunks))
        paths.append(os.fsencode(path))
    return paths


THIRDS = [PLAIN[:2000], PLAIN[2000:4000], PLAIN[4000:]]


@pytest.mark.parametrize("base", [b"x.tar", b"before-it-was-renamed.tar"])
def test_wrapped_volumes_are_in_the_order_that_their_wrappers_tell(
    tmp_path: Path, base: bytes
) -> None:
    inner = [b"%b.%03d" % (base, number) for number in (1, 2, 3)]
    paths = wrapped_volumes(tmp_path, inner, THIRDS)
    with contextlib.closing(open_source(paths, password=b"pw")) as source:
        assert source.pread(len(PLAIN), 0) == PLAIN


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ([b"x.tar.001", b"x.tar.003", b"x.tar.002"], r"x.tar.002.zip: holds x.tar.003: .*swapped"),
        ([b"x.tar.001", b"x.tar.002", b"x.tar.002"], r"x.tar.003.zip: holds x.tar.002: .*swapped"),
        ([b"x.tar.001", b"y.tar.002", b"x.tar.003"], r"x.tar.002.zip: holds y.tar.002: .*archives"),
        ([b"x.tar.001", b"x.tar", b"x.tar.003"], r"x.tar.002.zip: holds x.tar: volumes"),
    ],
)
def test_swapped_wrappers_are_refused_before_anything_is_read(
    tmp_path: Path, inner: list[bytes], told: str
) -> None:
    """(case 61)"""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ArchiveError, match=told):
        open_source(wrapped_volumes(tmp_path, inner, THIRDS), password=b"pw")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_volume_without_a_wrapper_among_wrapped_ones_is_refused(tmp_path: Path) -> None:
    """(case 61)"""
    paths = wrapped_volumes(tmp_path, [b"x.tar.001", b"x.tar.002", b"x.tar.003"], THIRDS)
    (tmp_path / "x.tar.002.zip").write_bytes(THIRDS[1])
    with pytest.raises(ArchiveError, match=r"x.tar.002.zip: is not encrypted as the others are"):
        open_source(paths, password=b"pw")


def test_a_single_wrapped_volume_that_is_not_the_first_is_told(tmp_path: Path) -> None:
    paths = wrapped_volumes(tmp_path, [b"x.tar.002"], [THIRDS[1]])
    with pytest.raises(ArchiveError, match=r"holds x.tar.002, not the first volume"):
        open_source(paths, password=b"pw")


def test_a_single_file_in_volumes_has_the_archive_s_name(tmp_path: Path) -> None:
    data = gzip.compress(DATA)
    (tmp_path / "a.csv.gz.001").write_bytes(data[:20])
    (tmp_path / "a.csv.gz.002").write_bytes(data[20:])
    paths = [tmp_path / "a.csv.gz.001", tmp_path / "a.csv.gz.002"]
    assert read_one(*paths) == ("gz", b"a.csv", DATA)


def test_base_names_are_without_numbers_and_wrappers() -> None:
    assert base_name([b"/d/x.zip"]) == b"x.zip"
    assert base_name([b"/d/x.zip.001"]) == b"x.zip"
    assert base_name([b"x.tar.zst.001.zip", b"x.tar.zst.002.zip"]) == b"x.tar.zst"
    assert base_name([b"report.2024"]) == b"report.2024"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lzma.compress(PLAIN), r"is xz-compressed, which PyBak doesn't read; unpack it with xz"),
        (lzma.compress(PLAIN, lzma.FORMAT_ALONE), "is lzma-compressed, which PyBak doesn't read"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "is a 7z archive, .*unpack it with 7z"),
        (b"Rar!\x1a\x07\x01\0" + bytes(600), "is a RAR archive"),
        (b"\x1f\x9d\x90" + bytes(600), "is compressed with compress, .*gzip -d first"),
        (b"LZIP\1" + bytes(600), "is lzip-compressed"),
        (b"\x04\x22\x4d\x18" + bytes(600), "is lz4-compressed"),
        (b"just text " * 200, "is no archive that PyBak reads"),
        (b"BZh is how this text starts" + bytes(600), "is no archive that PyBak reads"),
        (b"short", "is no archive that PyBak reads"),
        (b"", "is empty"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_in_one_line(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=told) as caught:
        open_archive([os.fsencode(path)])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.needs_tool("bsdtar")
def test_archives_in_other_containers_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    for how in ("cpio", "newc", "ar", "7zip"):
        out = tmp_path / how
        subprocess.run(["bsdtar", "--format", how, "-cf", out, "a"], cwd=tmp_path, check=True)
        with pytest.raises(ArchiveError, match="which PyBak doesn't read"):
            open_archive([os.fsencode(out)])


def test_what_can_t_be_opened_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(PLAIN)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFoundError, match="no such archive"):
        open_archive([os.fsencode(tmp_path / "x"), os.fsencode(tmp_path / "missing")])
    with pytest.raises(PlanError, match="is no file"):
        open_archive([os.fsencode(tmp_path)])
    with pytest.raises(PlanError, match="no archive was named"):
        open_source([])
    (tmp_path / "y").write_bytes(b"nothing")
    with pytest.raises(ArchiveError):
        open_archive([os.fsencode(tmp_path / "y")])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_zip_made_by_python_opens_with_its_kinds(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("d/", b"")
        archive.writestr("d/f", b"x")
    (tmp_path / "x").write_bytes(out.getvalue())
    with open_archive([os.fsencode(tmp_path / "x")]) as found:
        listing = found.listing(Limits())
        assert [(one.name, one.kind) for one in listing.members] == [(b"d", "d"), (b"d/f", "f")]
        assert not listing.has_manifest
        assert found.index is None
        assert found.finish() == []


class TestZipListings:
    """The directory and the manifest compared."""

    def listing(self, path: Path, members: list[archives.Forged], **how: object) -> object:
        name = archives.write(path / "x.zip", members, **how)
        with open_archive([name]) as archive:
            return archive.listing(Limits())

    def test_the_manifest_adds_what_the_directory_lacks(self, tmp_path: Path) -> None:
        members = [archives.file(b"a", b"x", uid=5, gid=6), archives.link(b"l", b"a")]
        listing = self.listing(tmp_path, members, with_manifest=True)
        file, link = listing.members  # type: ignore[attr-defined]
        assert (file.uid, file.gid, file.mtime_ns, file.precision) == (5, 6, archives.NOON, 1)
        assert len(file.sha256) == 64
        assert link.link == b"a"
        assert listing.problems == []  # type: ignore[attr-defined]

    def test_what_they_tell_differently_is_told(self, tmp_path: Path) -> None:
        honest = [archives.file(b"a", b"x"), archives.file(b"b", b"y"), archives.file(b"c", b"z")]
        manifest = archives.manifest_bytes(honest)
        member = archives.file(archives.manifest.MEMBER_NAME, manifest)
        changed = [
            archives.file(b"a", b"xx"), archives.folder(b"b"), archives.file(b"new", b"n"), member,
        ]  # fmt: skip
        listing = self.listing(tmp_path, changed)
        first, second, third = listing.members  # type: ignore[attr-defined]
        assert first.remark == "has 2 bytes where the manifest says 1"
        assert second.fault[1] == "is a folder where the manifest says file"
        assert third.remark == "the archive holds it, the manifest does not list it"
        assert listing.missing == [(b"c", "f")]  # type: ignore[attr-defined]

    def test_a_name_that_comes_twice_is_a_fault_of_every_occurrence(self, tmp_path: Path) -> None:
        """The manifest can't tell which of them it means."""
        honest = [archives.file(b"a", b"good"), archives.file(b"b", b"b"), archives.folder(b"d")]
        member = archives.file(archives.manifest.MEMBER_NAME, archives.manifest_bytes(honest))
        forged = [*honest, archives.file(b"a", b"evil"), archives.file(b"d", b"evil"), member]
        listing = self.listing(tmp_path, forged)
        faults = [one.fault for one in listing.members]  # type: ignore[attr-defined]
        twice = (DAMAGED, "the archive holds it more than once")
        assert faults == [twice, None, twice, twice, twice]
        listing = self.listing(tmp_path, forged[:-1])
        assert {one.fault for one in listing.members} == {None}  # type: ignore[attr-defined]

    def test_times_are_what_any_system_can_count(self, tmp_path: Path) -> None:
        honest = [
            archives.file(b"a", b"x", mtime_ns=10**40),
            archives.file(b"b", mtime_ns=-(10**40)),
        ]
        listed = [archives.file(b"a", b"x"), archives.file(b"b")]
        data = archives.manifest_bytes(honest)
        member = archives.file(archives.manifest.MEMBER_NAME, data)
        listing = self.listing(tmp_path, [*listed, member])
        for one in listing.members:  # type: ignore[attr-defined]
            assert abs(one.mtime_ns) // 10**9 < 1 << 63
            assert one.sha256

    def test_a_small_archive_with_a_huge_manifest_is_listed_without_it(
        self, tmp_path: Path
    ) -> None:
        lines = gzip.compress(b'{"pieces":[[1,1,1]]}\n' * 500_000)
        data = archives.manifest_bytes([]) + lines
        member = archives.file(archives.manifest.MEMBER_NAME, data)
        listing = self.listing(tmp_path, [archives.file(b"a", b"x"), member])
        (problem,) = listing.problems  # type: ignore[attr-defined]
        assert "contents are checked by CRC-32 only" in problem.message
        assert [one.name for one in listing.members] == [b"a"]  # type: ignore[attr-defined]

    def test_a_damaged_manifest_is_a_problem_and_no_more(self, tmp_path: Path) -> None:
        member = archives.file(archives.manifest.MEMBER_NAME, b"garbage")
        listing = self.listing(tmp_path, [archives.file(b"a", b"x"), member])
        (problem,) = listing.problems  # type: ignore[attr-defined]
        assert "contents are checked by CRC-32 only" in problem.message
        assert listing.has_manifest  # type: ignore[attr-defined]
        assert [one.fault for one in listing.members] == [None]  # type: ignore[attr-defined]

    def test_swapped_and_foreign_volumes_are_named(self, tmp_path: Path) -> None:
        """(case 61)"""

        def cut(letter: bytes) -> list[bytes]:
            members = [archives.file(b"%b%d" % (letter, n), letter * 3000) for n in range(20)]
            data = archives.build(members, with_manifest=True)
            return [data[at : at + 17_000] for at in range(0, len(data), 17_000)]

        def told(parts: list[bytes]) -> list[str]:
            for number, part in enumerate(parts, 1):
                (tmp_path / f"x.zip.{number:03d}").write_bytes(part)
            with open_archive(find_volumes(os.fsencode(tmp_path)).paths) as archive:
                problems = archive.listing(Limits()).problems
            return [problem.message for problem in problems]

        one, two, three, four = cut(b"a")
        assert told([one, two, three, four]) == []
        first, second = told([one, three, two, four])
        assert "x.zip.002 does not belong here" in first
        assert "x.zip.003 does not belong here" in second
        (foreign,) = told([cut(b"b")[0], two, three, four])
        assert "x.zip.001 does not belong here" in foreign
        (last,) = told([*cut(b"b")[:3], four])
        assert "x.zip.004 does not belong to the others" in last
        (tmp_path / "x.zip.004").unlink()
        with pytest.raises(ArchiveError, match=r"\(3 were found\) are there and belong together"):
            told([one, two, three])
