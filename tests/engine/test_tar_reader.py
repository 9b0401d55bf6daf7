"""Tar archives read back: our own by their manifest, others' by reading through, and damage."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import tars
import zstandard

from pybak.entries import FILE, FOLDER, HARD_LINK, UNKNOWN
from pybak.errors import ArchiveError
from pybak.formats import tar_listing
from pybak.formats.archive import Limits, TooLargeError
from pybak.formats.listing import Listed, Listing, Locator, Spot
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.opening import open_archive
from pybak.formats.source import FileSource, Identity, JoinedSource
from pybak.formats.tar_footer import BLOCK, Footer
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile
from pybak.problems import DAMAGED, UNSUPPORTED

NOISE = random.Random(7).randbytes(60_000)
ITEMS = [
    tars.folder(b"d"),
    tars.file(b"d/big", NOISE),
    tars.file(b"d/empty"),
    tars.link(b"d/link", b"../elsewhere"),
    tars.hard_link(b"d/again", b"d/big"),
    tars.file(b"d/sparse", NOISE[:1536], data_map=((512, 1024), (1 << 20, 512)), real_size=2 << 20),
    tars.file(b"\xff" * 200, b"raw name"),
    tars.file(b"attributed", b"x", attributes={b"user.a": b"1", b"security.selinux": b"no"}),
    *(tars.file(b"small/%d" % number, b"%d" % number * 99) for number in range(60)),
    tars.Item(b"fifo", kind="p"),
    tars.Item(b"tty", kind="c", device=(4, 65)),
]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.decompress,
    "tar.bz2": bz2.decompress,
    "tar.zst": lambda data: (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    ),
}
SUFFIXES = list(COMPRESSORS)


class Counted:
    """A source that counts the bytes that are read from it."""

    def __init__(self, path: Path) -> None:
        self._inner = FileSource(os.fsencode(path))
        self.label, self.size = self._inner.label, self._inner.size
        self.taken = 0

    @property
    def identity(self) -> tuple[Identity, ...]:
        return self._inner.identity

    def pread(self, length: int, offset: int) -> bytes:
        data = self._inner.pread(length, offset)
        self.taken += len(data)
        return data

    def place(self, offset: int, length: int) -> str:
        return self._inner.place(offset, length)

    def close(self) -> None:
        self._inner.close()


def opened(path: Path, index: PieceIndex | None = None) -> TarFile:
    archive = open_archive([os.fsencode(path)], index=index)
    assert isinstance(archive, TarFile)
    return archive


def spot(listed: Listed) -> Spot:
    assert isinstance(listed.locator, Spot)
    return listed.locator


def listing_of(path: Path, limits: Limits | None = None) -> Listing:
    with opened(path) as archive:
        return archive.listing(limits or Limits())


def contents(archive: TarFile, members: list[Listed]) -> dict[bytes, bytes]:
    return {one.name: archive.read(one.locator, one.limit) for one in members if not one.fault}


def ours(tmp_path: Path, suffix: str, **how: object) -> Path:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(tars.build(ITEMS, suffix, **how))  # type: ignore[arg-type]
    return path


class TestOurArchives:
    """Listed by the manifest, read by pieces."""

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("piece_bytes", [300, 4096, 1 << 20])
    def test_everything_comes_back(self, tmp_path: Path, suffix: str, piece_bytes: int) -> None:
        with opened(ours(tmp_path, suffix, piece_bytes=piece_bytes)) as archive:
            listing = archive.listing(Limits())
            assert archive.format == suffix
            assert (listing.problems, listing.missing, listing.has_manifest) == ([], [], True)
            assert listing.head is not None
            assert listing.head.format == suffix
            assert [(one.name, one.kind, one.size) for one in listing.members] == [
                (item.name, item.kind, item.size if item.kind == FILE else 0) for item in ITEMS
            ]
            for one, item in zip(listing.members, ITEMS, strict=True):
                assert archive.read(one.locator, one.limit) == item.data
                if one.kind == FILE:
                    assert one.sha256 == hashlib.sha256(item.data).hexdigest()
            assert archive.finish() == []
            by_name = {one.name: one for one in listing.members}
            assert archive.attributes(by_name[b"attributed"].locator).xattrs == {b"user.a": b"1"}
        assert by_name[b"d/sparse"].data_map == [(512, 1024), (1 << 20, 512)]
        assert by_name[b"d/sparse"].stored_size == 1536
        assert by_name[b"tty"].device == (4, 65)
        assert by_name[b"d/link"].link == b"../elsewhere"
        assert by_name[b"d/again"].link == b"d/big"
        one = by_name[b"d/big"]
        assert (one.mode, one.uid, one.user, one.gid, one.group) == (0o644, 1000, "me", 100, "us")
        assert (one.mtime_ns, one.precision) == (tars.NOON, 1)

    @pytest.mark.needs_tool("tar")
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_the_archives_that_these_tests_make_are_what_gnu_tar_reads(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = ours(tmp_path, suffix)
        done = subprocess.run(
            ["tar", "-xOf", path, "d/big"], check=True, capture_output=True, env={"LC_ALL": "C"}
        )
        assert (done.stdout, done.stderr) == (NOISE, b"")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_reading_in_any_order_gives_the_same(self, tmp_path: Path, suffix: str) -> None:
        with opened(ours(tmp_path, suffix)) as archive:
            members = archive.listing(Limits()).members
            right = contents(archive, members)
            shuffled = members * 2
            random.Random(3).shuffle(shuffled)
            for one in shuffled:
                assert archive.read(one.locator, one.limit) == right[one.name]

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_one_member_costs_the_manifest_and_its_pieces(
        self, tmp_path: Path, suffix: str
    ) -> None:
        noise = random.Random(5)
        items = [tars.file(b"%d" % number, noise.randbytes(100_000)) for number in range(30)]
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(tars.build(items, suffix, piece_bytes=1 << 17))
        source = Counted(path)
        assert source.size > 2_900_000
        with TarFile(source, suffix.removeprefix("tar.") or "tar", name=b"x") as archive:
            members = archive.listing(Limits()).members
            assert source.taken < 40_000, "the list is read from the end alone"
            source.taken = 0
            assert archive.read(members[15].locator, 0) == items[15].data
            assert source.taken < 900_000, "a few pieces and what is read ahead"

    @pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.zst"])
    def test_reading_forward_unpacks_every_piece_once(self, tmp_path: Path, suffix: str) -> None:
        path = ours(tmp_path, suffix)
        source = Counted(path)
        with TarFile(source, suffix.removeprefix("tar."), name=b"x") as archive:
            members = archive.listing(Limits()).members
            source.taken = 0
            for one in members:
                archive.attributes(one.locator)
                archive.read(one.locator, 0)
                archive.attributes(one.locator)
            assert source.taken <= path.stat().st_size

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_the_index_spares_the_worker_the_manifest(self, tmp_path: Path, suffix: str) -> None:
        path = ours(tmp_path, suffix)
        with opened(path) as archive:
            members = archive.listing(Limits()).members
            assert archive.index is not None
            packed = archive.index.to_bytes()
        locators = msgspec.msgpack.encode([one.locator for one in members])
        index = PieceIndex.from_bytes(packed)
        with opened(path, index) as archive:
            for locator, item in zip(
                msgspec.msgpack.decode(locators, type=list[Locator]), ITEMS, strict=True
            ):
                assert archive.read(locator, 0) == item.data
        with opened(path) as archive, pytest.raises(ValueError, match="not listed"):
            archive.read(members[0].locator, 0)

    @pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.zst"])
    def test_a_tar_that_was_unpacked_keeps_its_manifest(self, tmp_path: Path, suffix: str) -> None:
        plain = tmp_path / "x.tar"
        packed = tars.build(ITEMS, suffix)
        plain.write_bytes(UNPACK[suffix](packed))
        with opened(plain) as archive:
            listing = archive.listing(Limits())
            assert (listing.problems, listing.has_manifest) == ([], True)
            assert archive.index is not None
            assert archive.index.is_own
            assert contents(archive, listing.members)[b"d/big"] == NOISE

    @pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.zst"])
    def test_a_tar_that_was_compressed_again_is_still_checked_by_its_manifest(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(COMPRESSORS[suffix](tars.build(ITEMS, "tar")))
        listing = listing_of(path)
        assert (listing.problems, listing.missing, listing.has_manifest) == ([], [], True)
        assert listing.members[1].sha256 == hashlib.sha256(NOISE).hexdigest()
        assert len(listing.members) == len(ITEMS)

    def test_an_empty_archive_lists_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.zst"
        path.write_bytes(tars.build([], "tar.zst"))
        listing = listing_of(path)
        assert (listing.members, listing.problems) == ([], [])


class TestDamage:
    """What is damaged is told, and the rest is read."""

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_no_flipped_byte_passes(self, tmp_path: Path, suffix: str) -> None:
        """The listing, the members or the pieces tell of every single byte (case 59)."""
        items = [*ITEMS[:1], tars.file(b"f", NOISE[:700]), *ITEMS[2:4], tars.file(b"g", b"g" * 900)]
        whole = tars.build(items, suffix, piece_bytes=1500)
        path = tmp_path / f"x.{suffix}"
        right = {item.name: item.data for item in items}
        silent = []
        for at in range(0, len(whole), 1 + len(whole) // 700):
            data = bytearray(whole)
            data[at] ^= 0x55
            path.write_bytes(data)
            try:
                with opened(path) as archive:
                    listing = archive.listing(Limits())
                    told = bool(listing.problems or listing.missing)
                    for one in listing.members:
                        try:
                            content = archive.read(one.locator, one.limit)
                        except ArchiveError:
                            told = True
                            continue
                        told = told or bool(one.fault or one.remark)
                        if content != right.get(one.name):
                            digest = hashlib.sha256(content).hexdigest()
                            assert told or digest != one.sha256
                            told = True
                    told = bool(archive.finish()) or told
            except ArchiveError:
                continue
            if not told:
                silent.append(at)
        # Some bits mean nothing to any program; and nothing is around the manifest of a plain tar.
        floor = whole.index(MEMBER_NAME) if suffix == "tar" else len(whole)
        plain = UNPACK[suffix](whole)
        for at in silent:
            assert at >= floor or UNPACK[suffix](_flipped(whole, at, 0x55)) == plain, at

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_damage_in_one_piece_costs_its_members_only(self, tmp_path: Path, suffix: str) -> None:
        """(case 59)"""
        path = ours(tmp_path, suffix)
        with opened(path) as archive:
            listing = archive.listing(Limits())
            assert archive.index is not None
            number = archive.index.find(spot(listing.members[30]).data)
            piece = archive.index[number]
        data = bytearray(path.read_bytes())
        data[(piece.stored_at + piece.stored_end) // 2] ^= 0x10
        path.write_bytes(data)
        bad = set()
        with opened(path) as archive:
            listing = archive.listing(Limits())
            assert listing.problems == []
            for one, item in zip(listing.members, ITEMS, strict=True):
                try:
                    content = archive.read(one.locator, one.limit)
                except ArchiveError as error:
                    assert "x.tar" in str(error)  # noqa: PT017
                    bad.add(one.name)
                else:
                    if content != item.data:
                        bad.add(one.name)
            noted = archive.finish()
        inside = {
            one.name
            for one in listing.members
            if spot(one).head < piece.plain_end
            and spot(one).data + one.stored_size > piece.plain_at
        }
        assert bad <= inside
        assert bad or noted

    def test_a_wrong_crc_of_a_piece_is_told_when_it_was_read_to_its_end(
        self, tmp_path: Path
    ) -> None:
        path = ours(tmp_path, "tar", piece_bytes=1 << 20)
        with opened(path) as archive:
            listing = archive.listing(Limits())
        one = listing.members[7]
        data = bytearray(path.read_bytes())
        data[spot(listing.members[6]).data + 100] ^= 1  # padding
        path.write_bytes(data)
        with opened(path) as archive:
            archive.listing(Limits())
            assert archive.read(one.locator, 0) == b"x"
            (text,) = archive.finish()
            assert "CRC-32 of a piece" in text
            assert archive.finish() == []

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_truncated_archive_never_passes_for_a_whole_one(
        self, tmp_path: Path, suffix: str
    ) -> None:
        """What is before the cut is listed and right, and the cut is told (case 60)."""
        items = [tars.file(b"%d" % number, NOISE[number * 100 :][:900]) for number in range(8)]
        whole = tars.build(items, suffix, piece_bytes=2000)
        path = tmp_path / f"x.{suffix}"
        listed = set()
        for length in range(0, len(whole), 131):
            path.write_bytes(whole[:length])
            try:
                with opened(path) as archive:
                    listing = archive.listing(Limits())
                    assert listing.problems
                    for one, item in zip(listing.members, items, strict=False):
                        if not one.fault:
                            assert archive.read(one.locator, 0) == item.data
                    listed.add(len(listing.members))
            except ArchiveError:
                pass
        assert {3, 6, 8} <= listed

    def test_a_damaged_manifest_is_told_and_the_archive_read_through(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tar.gz"
        data = tars.build(ITEMS, "tar.gz", change_lines=lambda lines: lines.replace('"at"', '"b"'))
        path.write_bytes(data)
        with opened(path) as archive:
            listing = archive.listing(Limits())
            (problem,) = listing.problems
            assert "the archive is read through instead" in problem.message
            assert [one.name for one in listing.members] == [item.name for item in ITEMS]
            assert contents(archive, listing.members)[b"d/big"] == NOISE

    @pytest.mark.parametrize(
        "change",
        [
            lambda footer: footer._replace(stored_at=footer.stored_at + 1),
            lambda footer: footer._replace(stored_size=1 << 60),
            lambda footer: footer._replace(head=0),
            lambda footer: footer._replace(content_size=BLOCK),
            lambda footer: footer._replace(content_size=1 << 62),
        ],
    )
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_footer_that_lies_is_told(
        self, tmp_path: Path, suffix: str, change: Callable[[Footer], Footer]
    ) -> None:
        path = ours(tmp_path, suffix, change_footer=change)
        try:
            listing = listing_of(path)
        except ArchiveError:
            return
        assert [one.name for one in listing.members] == [item.name for item in ITEMS]
        is_unneeded = suffix == "tar" and "stored" in "".join(
            name for name in Footer._fields
            if getattr(change(Footer(1, 1, 1, 1)), name) != 1
        )  # fmt: skip
        assert bool(listing.problems) != is_unneeded

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('"d/big"', '"d/bag"', "contradicts"), ('"size":60000', '"size":59999', "contradicts"),
            ('"type":"l"', '"type":"h"', "contradicts"),
        ],
    )  # fmt: skip
    def test_a_manifest_that_contradicts_the_headers_is_told_by_the_member(
        self, tmp_path: Path, old: str, new: str, told: str
    ) -> None:
        path = ours(tmp_path, "tar.zst", change_lines=lambda lines: lines.replace(old, new))
        failed = 0
        with opened(path) as archive:
            for one in archive.listing(Limits()).members:
                try:
                    archive.read(one.locator, 0)
                except ArchiveError as error:
                    assert told in str(error)  # noqa: PT017
                    failed += 1
        assert failed == 1

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"at":[0,', '"at":[99999999,'), ('"at":[0,', '"at":[5,'),
            ('"pieces":[[', '"pieces":[[0,1,0],['), ('"pieces":[[', '"pieces":[[1,1,0],['),
            ('"sparse":[[512,1024]', '"sparse":[[5120000,1024]'),
            ('"size":60000', '"size":6000000'), ('"type":"l"', '"type":"s"'),
        ],
    )  # fmt: skip
    def test_places_outside_of_the_archive_are_not_believed(
        self, tmp_path: Path, old: str, new: str
    ) -> None:
        path = ours(tmp_path, "tar.gz", change_lines=lambda lines: lines.replace(old, new, 1))
        with opened(path) as archive:
            listing = archive.listing(Limits())
            if not listing.problems:
                with pytest.raises(ArchiveError):
                    contents(archive, listing.members)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("hidden", [b"a", b"b", b"c"])
    def test_members_that_the_manifest_leaves_out_are_noticed(
        self, tmp_path: Path, suffix: str, hidden: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The archive is read through instead, as other programs read it (case 59)."""
        trailer = tars.manifest.Trailer
        monkeypatch.setattr(tars.manifest, "Trailer", lambda **k: trailer(members=2))
        items = [tars.file(name, name * 700) for name in (b"a", b"b", b"c")]
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(
            tars.build(
                items, suffix, change_lines=lambda lines: "".join(
                    line for line in lines.splitlines(True)
                    if f'"path":"{hidden.decode()}"' not in line
                ),
            )
        )  # fmt: skip
        listing = listing_of(path)
        assert "leaves something out" in listing.problems[0].message
        assert [one.name for one in listing.members] == [b"a", b"b", b"c"]

    def test_times_of_the_manifest_are_what_any_system_can_count(self, tmp_path: Path) -> None:
        def change(lines: str) -> str:
            return lines.replace(f'"mtime_ns":{tars.NOON}', '"mtime_ns":1' + "0" * 40)

        path = ours(tmp_path, "tar", change_lines=change)
        assert {one.mtime_ns for one in listing_of(path).members} == {(1 << 60) * 10**9}

    def test_a_footer_that_claims_a_bomb_is_not_believed(self, tmp_path: Path) -> None:
        path = ours(tmp_path, "tar.gz", change_footer=lambda old: old._replace(head=1 << 50))
        listing = listing_of(path)
        assert "like a bomb" in listing.problems[0].message
        assert [one.name for one in listing.members] == [item.name for item in ITEMS]

    def test_a_piece_that_unpacks_to_more_than_it_says_is_cut_off(self, tmp_path: Path) -> None:
        items = [tars.file(b"bomb", bytes(5_000_000))]

        def lie(lines: str) -> str:
            return lines.replace("5001728", "4999680").replace('"size":5000000', '"size":4999000')

        path = tmp_path / "x.tar.gz"
        path.write_bytes(tars.build(items, "tar.gz", piece_bytes=8 << 20, change_lines=lie))
        listing = listing_of(path)
        assert listing.problems, "the pieces end elsewhere than the footer says"


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
        for data in (whole[: len(whole) // 2], _flipped(whole, len(whole) // 2)):
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
        monkeypatch.setattr("pybak.formats.tar_listing._MAX_LISTING", 100_000)
        path = tmp_path / "x.tar.gz"
        items = [tars.file(b"%05d" % number + b"n" * 30_000) for number in range(9)]
        path.write_bytes(gzip.compress(tars.tar(items)))
        with opened(path) as archive, pytest.raises(ArchiveError, match="of names and maps"):
            archive.listing(Limits())

    def test_many_tiny_gzip_members_do_not_take_long(self, tmp_path: Path) -> None:
        empty = gzip.compress(b"", mtime=0)
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(tars.tar([tars.file(b"a")])) + empty * 100_000)
        began = time.monotonic()
        assert len(listing_of(path).members) == 1
        assert time.monotonic() - began < 20

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


def _flipped(data: bytes, at: int, bits: int = 0x5A) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


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


class TestVolumes:
    """A volume that does not belong is named."""

    @pytest.fixture
    def cut(self, tmp_path: Path) -> Callable[..., list[bytes]]:
        def cut(suffix: str, seed: int = 1, size: int = 40_000) -> list[bytes]:
            rng = random.Random(seed)
            items = [tars.file(b"%d" % number, rng.randbytes(9000)) for number in range(20)]
            data = tars.build(items, suffix)
            return [data[at : at + size] for at in range(0, len(data), size)]

        return cut

    def joined(self, tmp_path: Path, parts: list[bytes], suffix: str) -> TarFile:
        sources = []
        for number, part in enumerate(parts, 1):
            path = tmp_path / f"x.{suffix}.{number:03d}"
            path.write_bytes(part)
            sources.append(FileSource(os.fsencode(path)))
        source = JoinedSource(sources, label=f"x.{suffix}")
        return TarFile(source, suffix.removeprefix("tar.") or "tar", name=b"x")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_volumes_of_one_archive_are_fine(
        self, tmp_path: Path, suffix: str, cut: Callable[..., list[bytes]]
    ) -> None:
        with self.joined(tmp_path, cut(suffix), suffix) as archive:
            listing = archive.listing(Limits())
            assert listing.problems == []
            assert len(contents(archive, listing.members)) == 20

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_swapped_and_foreign_volumes_are_named(
        self, tmp_path: Path, suffix: str, cut: Callable[..., list[bytes]]
    ) -> None:
        """(case 61)"""
        parts = cut(suffix)
        parts[1], parts[2] = parts[2], parts[1]
        with self.joined(tmp_path, parts, suffix) as archive:
            told = [problem.message for problem in archive.listing(Limits()).problems]
        assert [text.split()[0].rpartition("/")[2] for text in told] == [
            f"x.{suffix}.002", f"x.{suffix}.003",
        ]  # fmt: skip
        parts = cut(suffix)
        parts[0] = cut(suffix, seed=2)[0]
        with self.joined(tmp_path, parts, suffix) as archive:
            listing = archive.listing(Limits())
            (problem,) = listing.problems
            assert f"x.{suffix}.001 does not belong here" in problem.message
            bad = good = 0
            for one in listing.members:
                try:
                    content = archive.read(one.locator, 0)
                except ArchiveError as error:
                    bad += 1
                    assert f"x.{suffix}.001" in str(error)  # noqa: PT017
                else:
                    good += hashlib.sha256(content).hexdigest() == one.sha256
            assert good >= 14
        parts = cut(suffix)
        parts[-1] = cut(suffix, seed=3)[-1]
        with self.joined(tmp_path, parts, suffix) as archive:
            assert archive.listing(Limits()).problems

    def test_a_missing_last_volume_is_told_by_what_is_missing(
        self, tmp_path: Path, cut: Callable[..., list[bytes]]
    ) -> None:
        """(cases 60, 61)"""
        for suffix in SUFFIXES:
            with self.joined(tmp_path, cut(suffix)[:-1], suffix) as archive:
                listing = archive.listing(Limits())
                assert "cut short" in listing.problems[0].message
                assert 15 <= len(listing.members) <= 20


def test_a_member_that_is_cut_short_names_the_volume_where_it_ends(tmp_path: Path) -> None:
    data = tars.build([tars.file(b"a", NOISE[:9000])], "tar")
    sources = []
    for number, start in enumerate((0, 4000), 1):
        (tmp_path / f"x.tar.{number:03d}").write_bytes(data[start : start + 4000])
        sources.append(FileSource(os.fsencode(tmp_path / f"x.tar.{number:03d}")))
    with TarFile(JoinedSource(sources, label="x.tar"), "tar", name=b"x") as archive:
        (one,) = archive.listing(Limits()).members
        with pytest.raises(ArchiveError, match=r"member a \(in x.tar.002\) is cut short"):
            archive.read(one.locator, one.limit)


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
        monkeypatch.setattr(tar_listing, "_MANY", 1000)
        path = tmp_path / "x.tar.gz"
        self.write(path, [b"a"] * 20_000)
        with pytest.raises(TooLargeError, match=r"far more than its size explains.*--max-ratio"):
            listing_of(path)
        assert len(listing_of(path, Limits(ratio=5000)).members) == 20_000


def test_reading_again_behind_damage_does_not_unpack_the_piece_again(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    items = [tars.file(b"%d" % number, b"x" * 100) for number in range(3000)]
    path.write_bytes(tars.build(items, "tar.gz", batch=3000, piece_bytes=4 << 20))
    with opened(path) as archive:
        members = archive.listing(Limits()).members
    data = bytearray(path.read_bytes())
    data[200:300] = b"\xff" * 100
    path.write_bytes(data)
    failed = 0
    source = Counted(path)
    with TarFile(source, "gz", name=b"x") as archive:
        archive.listing(Limits())
        source.taken = 0
        for one in members:
            try:
                archive.read(one.locator, 0)
            except ArchiveError:
                failed += 1
    assert failed > 2000
    assert source.taken < 5 * len(data)


def test_chunks_go_on_although_something_else_was_read_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.zst"
    data = NOISE * 80
    path.write_bytes(tars.build([tars.file(b"a", data), tars.file(b"b", b"bb")], "tar.zst"))
    with opened(path) as archive:
        one, two = archive.listing(Limits()).members
        pieces = []
        for chunk in archive.chunks(one.locator, 0):
            pieces.append(chunk)
            if len(pieces) < 5:
                assert archive.read(two.locator, 0) == b"bb"
        assert b"".join(pieces) == data
