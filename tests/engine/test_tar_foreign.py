"""Tar archives of other programs, and single compressed files: read by going through."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import tars
import zstandard
from tar_reading import (
    COMPRESSORS,
    NOISE,
    SUFFIXES,
    Counted,
    contents,
    flipped,
    listing_of,
    opened,
)
from waiting import within

from pybak.entries import FILE, FOLDER, HARD_LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats import tar_scan
from pybak.formats.archive import Limits, TooLargeError
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile
from pybak.problems import DAMAGED, UNSUPPORTED


def gnu_tar(out: Path, tree: Path, *how: str) -> None:
    subprocess.run(["tar", *how, "-cf", out, "-C", tree, "."], check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "noise").write_bytes(NOISE)
    (tree / "text").write_bytes(b"hello " * 9999)
    (tree / "empty").write_bytes(b"")
    (tree / ("n" * 200)).write_bytes(b"long")
    (tree / "ümlaut").write_bytes(b"u")
    (tree / "link").symlink_to("text")
    os.link(tree / "text", tree / "again")
    return tree


MAKERS = {
    "gnu": "tar --format=gnu -cf {out} .",
    "posix": "tar --format=posix -cf {out} .",
    "ustar": "tar --format=ustar --exclude='nnn*' -cf {out} .",
    "bsdtar": "bsdtar -cf {out} .",
    "bsdtar from a pipe": "bsdtar -cf - . | cat > {out}",
    "7zz": "7zz a -bso0 -bsp0 -ttar -snl -snh {out}.tar . && mv {out}.tar {out}",
    "gzip": "tar -cf - . | gzip > {out}",
    "pigz": "tar -cf - . | pigz -b 128 -i > {out}",
    "two gzip members": "tar -cf x . && (head -c 70000 x | gzip; tail -c +70001 x | gzip) > {out}",
    "bzip2": "tar -cf - . | bzip2 > {out}",
    "pbzip2": "tar -cf {out}.t . && pbzip2 -b1 {out}.t && mv {out}.t.bz2 {out}",
    "lbzip2": "tar -cf - . | lbzip2 > {out}",
    "zstd": "tar -cf - . | zstd -q > {out}",
    "pzstd": "tar -cf {out}.t . && pzstd -q {out}.t -o {out}",
    "zstd --long": "tar -cf - . | zstd -q --long=27 --ultra -20 > {out}",
    "zstd -T2": "tar -cf - . | zstd -q -T2 -B65536 --check > {out}",
}


class TestArchivesOfOthers:
    """Read through once, and then at random as far as the format allows."""

    @pytest.mark.parametrize("maker", MAKERS)
    def test_what_other_programs_write_is_read(
        self, tmp_path: Path, tree: Path, maker: str
    ) -> None:
        """(case 68)"""
        out = tmp_path / "out"
        command = MAKERS[maker].format(out=out)
        done = subprocess.run(
            command, shell=True, cwd=tree, env=os.environ | {"LC_ALL": "C.UTF-8"}, check=False,
            capture_output=True,
        )  # fmt: skip
        if b"not found" in done.stderr:
            pytest.skip(done.stderr.decode())
        assert done.returncode == 0, done.stderr
        with opened(out) as archive:
            listing = archive.listing(Limits())
            assert (listing.problems, listing.has_manifest) == ([], False)
            by_name = {os.path.normpath(one.name): one for one in listing.members}
            long = b"n" * 200
            assert set(by_name) - {b".", b"x", long} == {
                b"sub", b"sub/noise", b"text", b"empty", "ümlaut".encode(), b"link", b"again",
            }  # fmt: skip
            members = list(by_name.values())
            random.Random(1).shuffle(members)
            found = {os.path.normpath(k): v for k, v in contents(archive, members).items()}
        assert found[b"sub/noise"] == NOISE
        assert b"hello " * 9999 in (found[b"text"], found[b"again"])
        assert by_name[b"link"].link == b"text"
        assert by_name[b"sub"].kind == FOLDER
        assert sorted((by_name[b"text"].kind, by_name[b"again"].kind)) in (
            [FILE, HARD_LINK], [FILE, FILE],
        )  # fmt: skip

    def test_gzip_members_are_where_reading_starts(self, tmp_path: Path) -> None:
        rng = random.Random(9)
        items = [tars.file(b"%d" % number, rng.randbytes(300_000)) for number in range(20)]
        plain = tars.tar(items)
        path = tmp_path / "x.tar.gz"
        path.write_bytes(
            b"".join(
                gzip.compress(plain[at : at + 500_000], 1) for at in range(0, len(plain), 500_000)
            )
        )
        source = Counted(path)
        with TarFile(source, "gz", name=b"x.tar.gz") as archive:
            members = archive.listing(Limits()).members
            assert archive.index is not None
            assert archive.index.entry_points == -(-len(plain) // 500_000)
            source.taken = 0
            assert archive.read(members[15].locator, 0) == items[15].data
            assert source.taken < 1_600_000

    def test_plain_tars_are_listed_without_reading_contents(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tars.tar([tars.file(b"%d" % n, bytes(3 << 20)) for n in range(8)]))
        source = Counted(path)
        with TarFile(source, "tar", name=b"x.tar") as archive:
            assert len(archive.listing(Limits()).members) == 8
            assert source.taken < 8 * (2 << 20)

    @pytest.mark.parametrize(
        "name",
        ["/abs/olute", "./dot", "a//b", "../up", "a/./b", "dir/", "/", "a\nb", "back\\slash"],
    )
    def test_unusual_names_are_listed_as_they_are(self, tmp_path: Path, name: str) -> None:
        """(case 67)"""
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo(name)
            info.size = 0 if name.endswith("/") else 4
            archive.addfile(info, io.BytesIO(b"data"))
            info.name = name if not name.endswith("/") else "f"
            info.size = 4
            archive.addfile(info, io.BytesIO(b"more"))
        with opened(path) as found:
            members = found.listing(Limits()).members
            assert members[0].name == name.encode().rstrip(b"/")
            assert found.read(members[1].locator, 0) == b"more"

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        ("end", "whole"),
        [
            (bytes(1024), True), (bytes(512), True), (bytes(10240), True), (bytes(100), True),
            (bytes(1024) + b"garbage" * 500, True), (b"", False),
        ],
    )  # fmt: skip
    def test_ends_of_all_sorts_are_taken(
        self, tmp_path: Path, suffix: str, end: bytes, whole: bool
    ) -> None:
        path = tmp_path / f"x.{suffix}"
        plain = tars.tar([tars.file(b"a", b"1" * 700), tars.file(b"b", b"2" * 700)])[:-1024]
        path.write_bytes(COMPRESSORS[suffix](plain + end))
        with opened(path) as archive:
            listing = archive.listing(Limits())
            assert contents(archive, listing.members) == {b"a": b"1" * 700, b"b": b"2" * 700}
        assert (not listing.problems) == whole

    def test_padding_that_is_cut_off_costs_nothing_but_a_word(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tars.tar([tars.file(b"a", b"1" * 700)])[: 1536 + 700])
        with opened(path) as archive:
            listing = archive.listing(Limits())
            assert contents(archive, listing.members) == {b"a": b"1" * 700}
        assert "may be cut short" in listing.problems[0].message

    def test_a_lone_zero_block_does_not_end_an_archive(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        one, two = (tars.tar([tars.file(name, name)])[:-1024] for name in (b"a", b"b"))
        path.write_bytes(one + bytes(512) + two + bytes(1024) + tars.tar([tars.file(b"hidden")]))
        with opened(path) as archive:
            assert [m.name for m in archive.listing(Limits()).members] == [b"a", b"b"]

    def test_members_of_one_name_are_all_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        path.write_bytes(tars.tar([tars.file(b"a", b"1"), tars.file(b"a", b"22")]))
        with opened(path) as archive:
            members = archive.listing(Limits()).members
            assert [archive.read(m.locator, 0) for m in members] == [b"1", b"22"]

    def test_an_unknown_type_is_a_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("odd")
            info.type = b"Q"
            archive.addfile(info)
            archive.addfile(tarfile.TarInfo("good"))
        odd, good = listing_of(path).members
        assert (odd.kind, odd.fault) == (UNKNOWN, (UNSUPPORTED, "is of an unknown type (0x51)"))
        assert good.fault is None

    def test_global_headers_are_known_to_a_reader_of_a_batch(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar"
        with tarfile.open(
            path, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "everyone", "uid": "77"}
        ) as archive:
            for _ in range(3):
                archive.addfile(tarfile.TarInfo("a"))
        with opened(path) as archive_:
            members = archive_.listing(Limits()).members
            assert [(m.name, m.uid) for m in members] == [(b"everyone", 77)] * 3
            assert archive_.index is not None
            index = PieceIndex.from_bytes(archive_.index.to_bytes())
        with opened(path, index) as again:
            assert [again.read(m.locator, 0) for m in members] == [b""] * 3

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_what_is_before_the_damage_is_read(self, tmp_path: Path, suffix: str) -> None:
        """(cases 59, 60)"""
        rng = random.Random(4)
        items = [tars.file(b"%d" % number, rng.randbytes(9000)) for number in range(80)]
        whole = COMPRESSORS[suffix](tars.tar(items))
        path = tmp_path / f"x.{suffix}"
        for data in (whole[: len(whole) // 2], flipped(whole, len(whole) // 2)):
            path.write_bytes(data)
            with opened(path) as archive:
                try:
                    listing = archive.listing(Limits())
                except ArchiveError:
                    # bzip2 holds so much in a block that nothing is left.
                    assert suffix == "tar.bz2"
                    continue
                good = contents(archive, listing.members)
            assert listing.problems or suffix == "tar"
            assert len(good) >= 14
            assert all(good[b"%d" % number] == items[number].data for number in range(14))

    def test_a_bomb_is_refused_by_what_it_unpacks_to(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(tars.tar([tars.file(b"z", bytes(30_000_000))])))
        with opened(path) as archive, pytest.raises(ArchiveError, match="like a bomb"):
            archive.listing(Limits(free_size=10**7))
        assert len(listing_of(path, Limits(free_size=10**7, ratio=2000)).members) == 1
        with opened(path) as archive:
            members = archive.listing(Limits()).members
            with pytest.raises(ArchiveError, match="like a bomb"):
                archive.check_limits(members, Limits(free_size=10**7))
        with opened(path) as archive, pytest.raises(ArchiveError, match="more than 0 members"):
            archive.listing(Limits(members=0))

    def test_names_that_would_fill_the_memory_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pybak.formats.tar_scan._MAX_LISTING", 100_000)
        path = tmp_path / "x.tar.gz"
        items = [tars.file(b"%05d" % number + b"n" * 30_000) for number in range(9)]
        path.write_bytes(gzip.compress(tars.tar(items)))
        with opened(path) as archive, pytest.raises(ArchiveError, match="of names and maps"):
            archive.listing(Limits())

    def test_many_tiny_gzip_members_do_not_take_long(self, tmp_path: Path) -> None:
        empty = gzip.compress(b"", mtime=0)
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(tars.tar([tars.file(b"a")])) + empty * 100_000)
        with within(20):
            assert len(listing_of(path).members) == 1

    def test_a_window_beyond_128_mib_is_refused(self, tmp_path: Path) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
        engine = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        path = tmp_path / "x.tar.zst"
        path.write_bytes(engine.compress(tars.tar([])) + engine.flush())
        with (
            opened(path) as archive,
            pytest.raises(ArchiveError, match=r"window of 268.*zstd first"),
        ):
            archive.listing(Limits())


class TestSingleFiles:
    """A compressed file that holds no tar is an archive of one member."""

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "zst"])
    @pytest.mark.parametrize("data", [b"", b"one line\n", NOISE * 20])
    def test_it_is_listed_under_its_own_name(
        self, tmp_path: Path, suffix: str, data: bytes
    ) -> None:
        path = tmp_path / f"report.csv.{suffix}"
        path.write_bytes(COMPRESSORS[f"tar.{suffix}"](data))
        with opened(path) as archive:
            (one,) = archive.listing(Limits()).members
            assert archive.format == suffix
            assert (one.name, one.kind, one.size) == (b"report.csv", FILE, len(data))
            assert b"".join(archive.chunks(one.locator, 0)) == data
            assert archive.index is not None
            packed = archive.index.to_bytes()
            assert archive.attributes(one.locator).xattrs == {}
        with opened(path, PieceIndex.from_bytes(packed)) as archive:
            assert archive.format == suffix
            assert b"".join(archive.chunks(one.locator, 0)) == data

    def test_the_time_is_gzip_s_or_the_file_s(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gz"
        path.write_bytes(gzip.compress(b"x", mtime=1234))
        assert listing_of(path).members[0].mtime_ns == 1234 * 10**9
        path.write_bytes(gzip.compress(b"x", mtime=0))
        os.utime(path, ns=(1, 5678))
        assert listing_of(path).members[0].mtime_ns == 5678

    def test_a_damaged_one_has_a_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "x.gz"
        path.write_bytes(gzip.compress(NOISE)[:-9])
        (one,) = listing_of(path).members
        assert one.fault is not None
        assert one.fault[0] == DAMAGED

    @pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz"])
    def test_a_tar_that_holds_no_tar_is_no_single_file(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.write_bytes(gzip.compress(b"not a tar " * 99))
        with opened(path) as archive, pytest.raises(ArchiveError, match="holds no tar"):
            archive.listing(Limits())


class TestMemberCounts:
    """How many members an archive may hold goes by its size."""

    def write(self, path: Path, names: Iterable[bytes]) -> None:
        head = bytearray(tars.tar([tars.file(b"x" * 90)])[-1536:-1024])
        out = []
        for name in names:
            head[:100] = name.ljust(100, b"\0")
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            out.append(bytes(head))
        path.write_bytes(gzip.compress(b"".join(out) + bytes(1024), 6))

    def test_many_empty_files_are_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.gz"
        self.write(path, (b"folder/file-%06d" % number for number in range(100_000)))
        assert len(listing_of(path).members) == 100_000

    def test_far_more_than_the_size_explains_are_a_bomb(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tar_scan, "_MANY", 1000)
        path = tmp_path / "x.tar.gz"
        self.write(path, [b"a"] * 20_000)
        with pytest.raises(TooLargeError, match=r"far more than its size explains.*--max-ratio"):
            listing_of(path)
        assert len(listing_of(path, Limits(ratio=5000)).members) == 20_000
