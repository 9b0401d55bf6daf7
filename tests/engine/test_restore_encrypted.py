"""Encrypted archives: the password first, then what is genuine, and nothing else."""

from __future__ import annotations

import io
import os
from pathlib import Path

import encrypted
import pytest
import tars
from encrypted import PASSWORD, Secret, flip
from restoring import foretell, restore, shares, tree

from pybak.errors import ArchiveError, PlanError, WrongPasswordError
from pybak.formats import wrapper
from pybak.problems import DAMAGED, UNREADABLE
from pybak.restore.select import Selector
from pybak.restore.stream import restore_to_stream

BIG = os.urandom(1_200_000)
MEMBERS = [Secret(b"d/a", os.urandom(500), deflate=True), Secret(b"big", BIG), Secret(b"c", b"")]
WITH_EMPTY = [*MEMBERS[:2], Secret(b"c", b"", password=None)]


def wrapped(folder: Path, name: str, data: bytes, size: int | None = None) -> list[bytes]:
    """Write volumes of `size` bytes, each in a wrapper."""
    pieces = [data]
    if size is not None:
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
    paths = []
    for number, piece in enumerate(pieces, 1):
        inner = name if size is None else f"{name}.{number:03d}"
        path = folder / f"{inner}.zip"
        chunks = wrapper.wrap(
            os.fsencode(inner), len(piece), [piece], PASSWORD, mtime_ns=encrypted.NOON
        )
        path.write_bytes(b"".join(chunks))
        paths.append(os.fsencode(path))
    return paths


class TestMembers:
    """ZIP members in AES-256."""

    def test_they_come_back(self, zip_path: Path, target: Path) -> None:
        zip_path.write_bytes(encrypted.build(MEMBERS))
        result = restore(os.fsencode(zip_path), target, password=PASSWORD)
        assert result.counts == (3, 0, 0)
        files = {name: row[2] for name, row in tree(target).items() if row[2] is not None}
        assert files == {member.name: member.data for member in MEMBERS}

    @pytest.mark.parametrize("password", [None, b"wrong", b"correct horse "])
    def test_a_wrong_password_writes_nothing(
        self, zip_path: Path, target: Path, password: bytes | None
    ) -> None:
        """Not even the target folder (case 63)."""
        zip_path.write_bytes(encrypted.build(MEMBERS))
        for attempt in (restore, foretell):
            with pytest.raises(WrongPasswordError):
                attempt(os.fsencode(zip_path), target, password=password)
        assert not target.exists()

    def test_an_empty_file_that_anyone_can_read_is_not_enough(
        self, zip_path: Path, target: Path
    ) -> None:
        """Without a password nothing at all is made (case 63)."""
        zip_path.write_bytes(encrypted.build(WITH_EMPTY))
        for attempt in (restore, foretell):
            with pytest.raises(WrongPasswordError):
                attempt(os.fsencode(zip_path), target)
        assert not target.exists()
        assert restore(os.fsencode(zip_path), target, password=PASSWORD).counts == (3, 0, 0)

    @pytest.mark.parametrize("which", [0, 1])
    def test_what_was_tampered_with_gets_no_name(
        self, zip_path: Path, target: Path, which: int
    ) -> None:
        """AES in counter mode lets bits be turned at will; the code tells (case 65)."""
        data = encrypted.build(MEMBERS)
        at = data.index(MEMBERS[which].name) + 200
        zip_path.write_bytes(flip(data, at))
        result = restore(os.fsencode(zip_path), target, password=PASSWORD)
        assert result.codes == {os.fsdecode(MEMBERS[which].name): DAMAGED}
        assert result.restored == 2
        assert not (target / os.fsdecode(MEMBERS[which].name)).exists()

    def test_without_a_password_what_is_open_comes_back(self, zip_path: Path, target: Path) -> None:
        zip_path.write_bytes(encrypted.build([*MEMBERS, Secret(b"open", b"x", password=None)]))
        result = restore(os.fsencode(zip_path), target)
        assert result.counts == (1, 0, 3)
        assert set(result.codes.values()) == {UNREADABLE}


class TestWrappers:
    """Volumes in encrypted wrappers."""

    ITEMS = (tars.folder(b"d"), tars.file(b"d/f", BIG), tars.file(b"g", b"x"))

    @pytest.mark.parametrize("archive_format", tars.FORMATS)
    @pytest.mark.parametrize("size", [None, 300_000])
    def test_they_come_back(
        self, tmp_path: Path, target: Path, archive_format: str, size: int | None
    ) -> None:
        data = tars.build(self.ITEMS, archive_format)
        paths = wrapped(tmp_path, f"a.{archive_format}", data, size)
        assert restore(paths, target, password=PASSWORD).counts == (2, 0, 0)
        assert (target / "d/f").read_bytes() == BIG

    @pytest.mark.parametrize("password", [None, b"wrong"])
    def test_a_wrong_password_writes_nothing(
        self, tmp_path: Path, target: Path, password: bytes | None
    ) -> None:
        """(case 63)"""
        paths = wrapped(tmp_path, "a.tar.zst", tars.build(self.ITEMS, "tar.zst"))
        with pytest.raises(WrongPasswordError):
            restore(paths, target, password=password)
        assert not target.exists()

    @pytest.mark.parametrize("include", [[], ["/g"]])
    @pytest.mark.parametrize("volume", [0, 2, -1])
    def test_nothing_of_a_volume_that_was_tampered_with_is_handed_out(
        self, tmp_path: Path, target: Path, volume: int, include: list[str]
    ) -> None:
        """Whatever volume it is, and whatever is asked for (case 65)."""
        paths = wrapped(tmp_path, "a.tar", tars.build(self.ITEMS, "tar"), 300_000)
        path = Path(os.fsdecode(paths[volume]))
        data = path.read_bytes()
        path.write_bytes(flip(data, len(data) // 2))
        with pytest.raises(ArchiveError, match=path.name):
            restore(paths, target, password=PASSWORD, include=include)
        assert not target.exists()

    @pytest.mark.parametrize("deletes", [False, True])
    def test_folders_alone_are_checked_too(
        self, tmp_path: Path, target: Path, deletes: bool
    ) -> None:
        """Nothing is made, or deleted, for the sake of what anyone may have written (case 65)."""
        plain = tars.tar([tars.folder(b"d"), tars.folder(b"d/e")])
        paths = wrapped(tmp_path, "a.tar", plain)
        path = Path(os.fsdecode(paths[0]))
        data = path.read_bytes()
        path.write_bytes(flip(data, len(data) // 2))
        (target / "d").mkdir(parents=True)
        (target / "d/mine").write_bytes(b"mine")
        with pytest.raises(ArchiveError, match=path.name):
            restore(paths, target, password=PASSWORD, deletes=deletes)
        assert tree(target).keys() == {b"d", b"d/mine"}

    def test_sound_folders_alone_come_back(self, tmp_path: Path, target: Path) -> None:
        plain = tars.tar([tars.folder(b"d"), tars.folder(b"d/e")])
        restore(wrapped(tmp_path, "a.tar", plain), target, password=PASSWORD)
        assert tree(target).keys() == {b"d", b"d/e"}


class TestStreams:
    """One file to stdout."""

    @pytest.mark.parametrize("include", ["*", "c"])
    def test_an_empty_file_that_anyone_can_read_is_not_enough(
        self, zip_path: Path, include: str
    ) -> None:
        """(case 63)"""
        zip_path.write_bytes(encrypted.build(WITH_EMPTY))
        with pytest.raises(WrongPasswordError):
            self.to_stream(os.fsencode(zip_path), include, password=None)
        assert self.to_stream(os.fsencode(zip_path), "c") == (b"", 0)

    def to_stream(
        self, archive: bytes | list[bytes], *include: str, password: bytes | None = PASSWORD
    ) -> tuple[bytes, int]:
        out = io.BytesIO()
        paths = archive if isinstance(archive, list) else [archive]
        report = restore_to_stream(shares(paths), Selector(include), out, password)
        return out.getvalue(), report.exit_code

    @pytest.mark.parametrize("archive_format", tars.FORMATS)
    def test_it_is_the_files_content(self, tmp_path: Path, archive_format: str) -> None:
        items = [*TestWrappers.ITEMS, tars.hard_link(b"h", b"d/f")]
        archive = tars.write(tmp_path / "a", tars.build(items, archive_format))
        assert self.to_stream(archive, "/d/f") == (BIG, 0)
        assert self.to_stream(archive, "h") == (BIG, 0)

    def test_exactly_one_file_must_be_meant(self, tmp_path: Path) -> None:
        archive = tars.write(tmp_path / "a", tars.build(TestWrappers.ITEMS, "tar"))
        for include, message in ((["*"], "2 files are meant"), (["none"], "no file is meant")):
            with pytest.raises(PlanError, match=message):
                self.to_stream(archive, *include)

    @pytest.mark.parametrize("name", ["big", "a"])
    def test_of_what_was_tampered_with_not_a_byte_comes(self, zip_path: Path, name: str) -> None:
        """(case 65)"""
        data = encrypted.build(MEMBERS)
        zip_path.write_bytes(flip(data, data.index(name.encode()) + 200))
        out = io.BytesIO()
        with pytest.raises(ArchiveError):
            restore_to_stream(shares(os.fsencode(zip_path)), Selector([name]), out, PASSWORD)
        assert out.getvalue() == b""

    def test_of_a_tampered_volume_not_a_byte_comes(self, tmp_path: Path) -> None:
        paths = wrapped(tmp_path, "a.tar", tars.build(TestWrappers.ITEMS, "tar"), 300_000)
        path = Path(os.fsdecode(paths[-1]))
        path.write_bytes(flip(path.read_bytes(), 1000))
        out = io.BytesIO()
        with pytest.raises(ArchiveError):
            restore_to_stream(shares(paths), Selector(["f"]), out, PASSWORD)
        assert out.getvalue() == b""

    def test_damage_without_encryption_is_a_failure(self, tmp_path: Path) -> None:
        data = bytearray(tars.build(TestWrappers.ITEMS, "tar"))
        data[len(data) // 2] ^= 1
        content, code = self.to_stream(tars.write(tmp_path / "a", bytes(data)), "f")
        assert (len(content), code) == (len(BIG), 1)
