"""Tar archives of ours read back by their manifest, and what damage costs."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import tars
from tar_reading import (
    COMPRESSORS,
    ITEMS,
    NOISE,
    SUFFIXES,
    UNPACK,
    Counted,
    contents,
    flipped,
    listing_of,
    opened,
    ours,
    spot,
)

from pybak.entries import FILE
from pybak.errors import ArchiveError
from pybak.formats.archive import Limits
from pybak.formats.listing import Locator
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.tar_footer import BLOCK, Footer
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_reader import TarFile


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
            assert at >= floor or UNPACK[suffix](flipped(whole, at, 0x55)) == plain, at

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
