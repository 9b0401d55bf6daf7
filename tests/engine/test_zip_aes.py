"""Encrypted members read back: wrong passwords, damage, tampering, and the claims of headers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from encrypted import NOON, PASSWORD, Secret, build, contents, flip, opened
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak import aes
from pybak.entries import FILE
from pybak.errors import ArchiveError, ExitCode, StorageError, WrongPasswordError
from pybak.formats import zip_records as zr
from pybak.formats.archive import Limits
from pybak.formats.listing import Listing
from pybak.formats.manifest import (
    MEMBER_NAME,
    Header,
    Trailer,
    pack_line,
    pack_lines,
    record_line,
)
from pybak.formats.source import FileSource
from pybak.formats.zip_aes import check_password
from pybak.formats.zip_directory import read_directory
from pybak.formats.zip_members import MemberReader
from pybak.problems import DAMAGED

BIG = os.urandom(1 << 20) * 3 + b"tail"
SMALL = b"some text, some text, some text, some text"


SALT = bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


def read_first(path: Path, password: bytes | None = PASSWORD) -> bytes:
    with opened(path, password) as archive:
        directory = archive.directory()
        return archive.read(directory.members[0], directory.limits[0])


def chunks_of_first(path: Path, password: bytes | None = PASSWORD) -> list[bytes]:
    with opened(path, password) as archive:
        directory = archive.directory()
        return list(archive.chunks(directory.members[0], directory.limits[0]))


@settings(max_examples=30, deadline=None)
@given(
    size=st.one_of(st.integers(0, 70), st.sampled_from([(1 << 20) - 28, 1 << 20, (1 << 20) + 1])),
    deflate=st.booleans(),
)
def test_members_of_any_size_read_back(
    size: int, deflate: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(build([Secret(b"f", BIG[:size], deflate), Secret(b"next", b"x")]))
    assert contents(path) == {b"f": BIG[:size], b"next": b"x"}


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "large"])
@pytest.mark.parametrize("deflate", [False, True])
class TestOneMember:
    def test_a_wrong_password_is_told_before_any_data(
        self, path: Path, data: bytes, deflate: bool
    ) -> None:
        """(case 63)"""
        path.write_bytes(build([Secret(b"f", data, deflate)]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(WrongPasswordError, match=r"a.zip.*f does not open"):
                read(path, b"another")

    def test_no_password_is_told_with_what_to_do(
        self, path: Path, data: bytes, deflate: bool
    ) -> None:
        path.write_bytes(build([Secret(b"f", data, deflate)]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(WrongPasswordError, match=r"is encrypted; give.*-p.*PYBAK_PASSWORD"):
                read(path, None)

    @pytest.mark.parametrize("at", [18, 30, -11, -10, -1])
    def test_one_turned_bit_is_found(self, path: Path, data: bytes, deflate: bool, at: int) -> None:
        """In the first and last bytes of the ciphertext and in its authentication code."""
        payload = Secret(b"f", data, deflate).packed
        path.write_bytes(build([Secret(b"f", data, deflate, payload=flip(payload, at))]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(ArchiveError) as caught:
                read(path)
            assert "tampered" in str(caught.value) or data is BIG
            assert not isinstance(caught.value, WrongPasswordError)

    def test_a_salt_of_another_member_does_not_do(
        self, path: Path, data: bytes, deflate: bool
    ) -> None:
        payload, other = (Secret(b"f", data, deflate).packed for _ in range(2))
        swapped = other[: aes.HEAD_SIZE] + payload[aes.HEAD_SIZE :]
        path.write_bytes(build([Secret(b"f", data, deflate, payload=swapped)]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(ArchiveError):
                read(path)


def test_small_members_are_authenticated_before_they_are_inflated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = Secret(b"f", SMALL, deflate=True).packed
    path.write_bytes(build([Secret(b"f", SMALL, deflate=True, payload=flip(payload, 20))]))
    monkeypatch.setattr(aes.Keys, "apply", lambda *_: pytest.fail("decrypted"))
    with pytest.raises(ArchiveError, match="authentication code"):
        read_first(path)


def test_large_members_can_be_authenticated_in_a_pass_of_their_own(path: Path) -> None:
    payload = Secret(b"f", BIG).packed
    for damaged in (False, True):
        path.write_bytes(
            build([Secret(b"f", BIG, payload=flip(payload, 20) if damaged else payload)])
        )
        with opened(path) as archive:
            directory = archive.directory()
            member, limit = directory.members[0], directory.limits[0]
            if damaged:
                with pytest.raises(ArchiveError, match="tampered"):
                    archive.authenticate(member, limit)
            else:
                archive.authenticate(member, limit)


def test_the_content_of_large_members_ends_in_an_error_when_it_is_not_genuine(path: Path) -> None:
    payload = Secret(b"f", BIG).packed
    path.write_bytes(build([Secret(b"f", BIG, payload=flip(payload, -1))]))
    with opened(path) as archive:
        directory = archive.directory()
        chunks = archive.chunks(directory.members[0], directory.limits[0])
        next(chunks)
        with pytest.raises(ArchiveError, match="tampered"):
            list(chunks)


class TestUnprotected:
    """What the password does not protect may be of anybody (case 65)."""

    def listing(
        self, path: Path, members: list[Secret], password: bytes | None = PASSWORD
    ) -> Listing:
        path.write_bytes(build(members))
        with opened(path, password) as archive:
            return archive.listing(Limits())

    def manifest(self, *members: Secret, password: bytes | None = PASSWORD) -> Secret:
        lines = "".join(
            record_line(
                member.name, FILE, len(member.data), NOON, NOON, 1, 0o640, os.getuid(),
                os.getgid(), sha256=hashlib.sha256(member.data).hexdigest(),
            )
            for member in members
        )  # fmt: skip
        header = Header(
            run_id="r", job="j", mode="full", format="zip", created="", sources=[], program="p"
        )
        data = pack_line(header) + pack_lines(lines) + pack_line(Trailer(members=len(members)))
        return Secret(MEMBER_NAME, data, password=password)

    def test_what_is_protected_has_no_fault(self, path: Path) -> None:
        good = [Secret(b"a", SMALL), Secret(b"empty", b"", password=None)]
        listing = self.listing(path, [*good, self.manifest(*good)])
        assert [one.fault for one in listing.members] == [None, None]
        assert all(one.sha256 for one in listing.members)
        assert not listing.problems

    @pytest.mark.parametrize("password", [PASSWORD, None])
    def test_members_that_are_not_encrypted_are_faults(
        self, path: Path, password: bytes | None
    ) -> None:
        good = [Secret(b"a", SMALL), Secret(b"b", SMALL)]
        forged = [good[0], Secret(b"b", b"evil", password=None), self.manifest(*good)]
        listing = self.listing(path, forged, password)
        fault = listing.members[1].fault
        assert fault is not None
        assert fault[0] == DAMAGED
        assert "is not protected by the password; " in fault[1]
        assert (listing.members[0].fault is None) == (password is not None)

    def test_members_that_the_manifest_does_not_list_are_faults(self, path: Path) -> None:
        good = Secret(b"a", SMALL)
        more = [Secret(b"of another archive", SMALL), Secret(b"empty", b"", password=None)]
        listing = self.listing(path, [good, *more, self.manifest(good)])
        assert listing.members[0].fault is None
        for one in listing.members[1:]:
            assert one.fault is not None
            assert "is not protected by the password: the manifest" in one.fault[1]

    def test_a_second_manifest_that_is_not_encrypted_is_not_believed(self, path: Path) -> None:
        good, evil = Secret(b"a", SMALL), Secret(b"b", b"evil", password=None)
        forged = self.manifest(good, evil, password=None)
        listing = self.listing(path, [good, evil, self.manifest(good), forged])
        assert [one.fault is None for one in listing.members] == [True, False, False]

    def test_a_manifest_that_is_not_encrypted_is_not_believed(self, path: Path) -> None:
        good, evil = Secret(b"a", SMALL), Secret(b"b", b"evil", password=None)
        listing = self.listing(path, [good, evil, self.manifest(good, evil, password=None)])
        assert [one.fault is None for one in listing.members] == [True, False]
        assert "the manifest is not protected" in listing.problems[0].message

    def test_archives_of_others_may_be_encrypted_in_part(self, path: Path) -> None:
        listing = self.listing(path, [Secret(b"a", SMALL), Secret(b"b", SMALL, password=None)])
        assert [one.fault for one in listing.members] == [None, None]


class TestClaims:
    def test_stored_data_has_just_the_overhead_more(self, path: Path) -> None:
        path.write_bytes(build([Secret(b"f", SMALL, size=len(SMALL) + 1)]))
        with pytest.raises(ArchiveError, match="two sizes"):
            read_first(path)

    @pytest.mark.parametrize("length", [0, 1, 27])
    def test_data_too_short_for_its_encryption_is_refused(self, path: Path, length: int) -> None:
        path.write_bytes(build([Secret(b"f", b"", payload=bytes(length))]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(ArchiveError, match="too short"):
                read(path)

    def test_a_declared_bomb_is_refused(self, path: Path) -> None:
        path.write_bytes(build([Secret(b"f", SMALL, deflate=True, size=1 << 31)]))
        with pytest.raises(ArchiveError, match="more than deflate can hold"):
            read_first(path)

    def test_more_content_than_declared_is_refused(self, path: Path) -> None:
        path.write_bytes(build([Secret(b"f", bytes(5000), deflate=True, size=100)]))
        for read in (read_first, chunks_of_first):
            with pytest.raises(ArchiveError, match="unpacks to more"):
                read(path)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (b"AE\x03\0\0", b"AE\x04\0\0", "in a way that is not WinZip's"),
            (b"AE\x03\0\0", b"BE\x03\0\0", "in a way that is not WinZip's"),
            (b"\x07\0\x02\0AE", b"\x07\0\x03\0AE", "in a way that is not WinZip's"),
            (b"\x01\x99\x07\0", b"\x02\x99\x07\0", "in a way that is not WinZip's"),
            (b"AE\x03\0\0", b"AE\x03\x5d\0", "is compressed with Zstandard"),
        ],
    )
    def test_a_field_of_another_kind_is_refused_by_name(
        self, path: Path, old: bytes, new: bytes, message: str
    ) -> None:
        data = build([Secret(b"f", SMALL)])
        assert data.count(old) == 2
        path.write_bytes(data.replace(old, new))
        with pytest.raises(ArchiveError, match=message) as caught:
            read_first(path)
        assert not isinstance(caught.value, WrongPasswordError)

    def test_strong_encryption_is_named(self, path: Path) -> None:
        data = bytearray(build([Secret(b"f", SMALL)]))
        for signature, at in ((zr.LOCAL_SIGNATURE, 6), (zr.CENTRAL_SIGNATURE, 8)):
            data[data.index(signature) + at] |= 1 << 6
        path.write_bytes(data)
        with pytest.raises(ArchiveError, match="strong encryption"):
            read_first(path)

    def test_a_crc_that_ae2_should_not_have_is_not_looked_at(self, path: Path) -> None:
        data = bytearray(build([Secret(b"f", SMALL)]))
        for signature, at in ((zr.LOCAL_SIGNATURE, 14), (zr.CENTRAL_SIGNATURE, 16)):
            data[data.index(signature) + at] = 77
        path.write_bytes(data)
        assert read_first(path) == SMALL

    def test_every_cut_of_an_archive_is_an_error(self, path: Path) -> None:
        data = build([Secret(b"f", SMALL)])
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with pytest.raises(ArchiveError):
                contents(path)

    @settings(max_examples=150, deadline=None)
    @given(at=st.integers(0, 400), bit=st.integers(0, 7))
    def test_no_turned_bit_gives_other_content(
        self, at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        data = bytearray(build([Secret(b"f", SMALL, deflate=True), Secret(b"g", SMALL)]))
        data[at % len(data)] ^= 1 << bit
        path = tmp_path_factory.mktemp("bits") / "a.zip"
        path.write_bytes(data)
        try:
            found = contents(path)
        except (ArchiveError, StorageError):
            return
        assert set(found.values()) == {SMALL}


def check(path: Path, password: bytes | None) -> None:
    source = FileSource(os.fsencode(path))
    try:
        check_password(MemberReader(source, password), read_directory(source), "a.zip")
    finally:
        source.close()


def members(*names: bytes, **more: object) -> list[Secret]:
    return [Secret(name, SMALL * 3, **more) for name in names]  # type: ignore[arg-type]


class TestCheckPassword:
    def test_the_right_one_passes(self, path: Path) -> None:
        path.write_bytes(build(members(b"a", b"b", MEMBER_NAME)))
        check(path, PASSWORD)

    def test_a_wrong_one_ends_with_its_own_exit_code(self, path: Path) -> None:
        path.write_bytes(build(members(b"a", b"b", MEMBER_NAME)))
        with pytest.raises(WrongPasswordError, match=r"a.zip: wrong password") as caught:
            check(path, b"another")
        assert caught.value.exit_code == ExitCode.WRONG_PASSWORD == 12

    def test_none_is_needed_where_nothing_is_encrypted(self, path: Path) -> None:
        path.write_bytes(build(members(b"a", MEMBER_NAME, password=None)))
        check(path, None)
        check(path, b"another")

    def test_none_where_one_is_needed_says_how_to_give_it(self, path: Path) -> None:
        path.write_bytes(build([*members(b"a", password=None), *members(b"b")]))
        with pytest.raises(WrongPasswordError, match="is encrypted; give"):
            check(path, None)

    def test_a_damaged_manifest_does_not_make_the_password_wrong(self, path: Path) -> None:
        for at in (0, 17, 20, -1):
            payload = flip(Secret(b"", SMALL).packed, at)
            path.write_bytes(
                build([*members(b"a", b"b"), Secret(MEMBER_NAME, SMALL, payload=payload)])
            )
            check(path, PASSWORD)
            with pytest.raises(WrongPasswordError):
                check(path, b"another")

    def test_the_right_one_with_nothing_genuine_left_is_not_called_wrong(self, path: Path) -> None:
        """What is damaged is named when it is read."""
        made = [
            Secret(name, SMALL, payload=flip(Secret(b"", SMALL).packed, 25))
            for name in (b"a", b"b", MEMBER_NAME)
        ]
        path.write_bytes(build(made))
        check(path, PASSWORD)
        with pytest.raises(ArchiveError, match="authentication code"):
            contents(path)

    def test_a_wrong_one_that_one_verifier_lets_pass_is_wrong(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One in 65,536 does; the other members' salts are others."""
        derive = aes.derive

        def lucky(password: bytes, salt: bytes) -> aes.Keys:
            keys = derive(password, salt)
            if salt == SALT and password != PASSWORD:
                keys.verifier = derive(PASSWORD, salt).verifier
            return keys

        monkeypatch.setattr(aes, "derive", lucky)
        path.write_bytes(build([*members(b"a", b"b"), Secret(MEMBER_NAME, SMALL, salt=SALT)]))
        check(path, PASSWORD)
        with pytest.raises(WrongPasswordError, match="wrong password"):
            check(path, b"another")

    def test_members_of_other_passwords_do_not_matter(self, path: Path) -> None:
        path.write_bytes(build([*members(b"a", password=b"their own"), *members(b"b")]))
        check(path, PASSWORD)
        check(path, b"their own")

    def test_it_reads_the_manifest_and_little_else(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.write_bytes(build([Secret(b"big", BIG), *members(MEMBER_NAME)]))
        read = 0
        pread = FileSource.pread

        def counting(self: FileSource, length: int, offset: int) -> bytes:
            nonlocal read
            data = pread(self, length, offset)
            read += len(data)
            return data

        monkeypatch.setattr(FileSource, "pread", counting)
        check(path, PASSWORD)
        assert read < 200_000
