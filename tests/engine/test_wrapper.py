"""Wrapped volumes: sizes told beforehand, reading at any place, and whose fault it is."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from encrypted import NOON, PASSWORD, Secret, build, flip
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak import aes
from pybak.errors import ArchiveError, PlanError, StorageError, WrongPasswordError
from pybak.formats import wrapper
from pybak.formats import zip_records as zr
from pybak.formats.source import FileSource, JoinedSource

SALT = bytes(range(16))
GIB = 1 << 30


def tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("f")
        info.size = 50_000
        archive.addfile(info, io.BytesIO(hashlib.shake_128(b"f").digest(50_000)))
    return out.getvalue()


VOLUME = tar_bytes()


def wrapped(name: bytes = b"b.tar", data: bytes = VOLUME, **more: object) -> bytes:
    pieces = wrapper.wrap(name, len(data), [data], PASSWORD, mtime_ns=NOON, **more)  # type: ignore[arg-type]
    return b"".join(pieces)


def source(folder: Path, data: bytes, name: str = "any name.zip") -> FileSource:
    path = folder / name
    path.write_bytes(data)
    return FileSource(os.fsencode(path))


def unwrap(
    folder: Path, data: bytes, password: bytes | None = PASSWORD
) -> wrapper.WrappedSource | None:
    return wrapper.unwrap(source(folder, data), password)


class TestWriting:
    @pytest.mark.parametrize("name", [b"b.tar", b"b.tar.zst.1000", b"\xff.zip", b"n" * 255])
    @pytest.mark.parametrize("size", [0, 1, 16, 50_000])
    def test_a_wrapper_is_as_large_as_told(self, name: bytes, size: int) -> None:
        made = wrapped(name, VOLUME[:size])
        assert len(made) == size + wrapper.wrapper_overhead(name, size, mtime_ns=NOON)

    @settings(max_examples=60)
    @given(
        size=st.one_of(
            st.integers(300, 5000),
            st.integers(zr.MAX32 - 400, zr.MAX32 + 400),
            st.integers(5 * GIB, 9 * GIB),
        ),
        name=st.binary(min_size=1, max_size=40),
        mtime_ns=st.sampled_from([NOON, -1, 2**33 * 10**9]),
    )
    def test_volumes_are_cut_to_fit_their_wrapper(
        self, size: int, name: bytes, mtime_ns: int
    ) -> None:
        inner = wrapper.largest_inner_size(name, size, mtime_ns=mtime_ns)
        whole = inner + wrapper.wrapper_overhead(name, inner, mtime_ns=mtime_ns)
        assert size - 150 < whole <= size
        if abs(size - zr.MAX32) > 1000:
            assert whole == size

    @pytest.mark.parametrize("size", [0, 100, 150])
    def test_a_size_that_holds_nothing_is_refused_with_one_that_does(self, size: int) -> None:
        with pytest.raises(PlanError, match="at least") as caught:
            wrapper.largest_inner_size(b"b.tar.001", size, mtime_ns=NOON)
        least = int(str(caught.value).split()[-1])
        assert wrapper.largest_inner_size(b"b.tar.001", least, mtime_ns=NOON) == 1
        with pytest.raises(PlanError):
            wrapper.largest_inner_size(b"b.tar.001", least - 1, mtime_ns=NOON)

    @pytest.mark.parametrize("announced", [len(VOLUME) - 1, len(VOLUME) + 1])
    def test_a_volume_of_another_size_than_announced_is_an_error(self, announced: int) -> None:
        with pytest.raises(ValueError, match="announced"):
            list(wrapper.wrap(b"b.tar", announced, [VOLUME], PASSWORD, mtime_ns=NOON))

    def test_threads_and_chunks_change_no_byte(self) -> None:
        data = VOLUME * 60
        pieces = [data[at : at + 70_001] for at in range(0, len(data), 70_001)]
        made = b"".join(
            wrapper.wrap(b"b.tar", len(data), pieces, PASSWORD, mtime_ns=NOON, threads=3, salt=SALT)
        )
        assert made == wrapped(data=data, salt=SALT)

    def test_it_is_written_where_the_file_stands(self, tmp_path: Path) -> None:
        with (tmp_path / "f").open("wb") as out:
            size = wrapper.write_wrapper(
                out.fileno(), b"b.tar", len(VOLUME), [VOLUME], PASSWORD, mtime_ns=NOON
            )
        assert (tmp_path / "f").stat().st_size == size
        assert unwrap(tmp_path, (tmp_path / "f").read_bytes()) is not None

    @pytest.mark.parametrize("size", [4 * GIB - 29, 4 * GIB - 28, 5 * GIB])
    def test_sizes_of_4_gib_and_more_are_in_zip64_fields(self, size: int, tmp_path: Path) -> None:
        """Header, a hole, and end: zipfile and our reader see the same member (case 36)."""
        path = tmp_path / "b.tar.zip"
        head = wrapper.wrapper_head(b"b.tar", size, mtime_ns=NOON)
        with path.open("wb") as out:
            out.write(head + SALT + aes.derive(PASSWORD, SALT).verifier)
            out.seek(len(head) + aes.OVERHEAD + size)
            out.write(wrapper.wrapper_end(b"b.tar", size, mtime_ns=NOON))
        assert path.stat().st_size == size + wrapper.wrapper_overhead(b"b.tar", size, mtime_ns=NOON)
        (info,) = zipfile.ZipFile(path).infolist()
        assert (info.file_size, info.compress_size) == (size, size + aes.OVERHEAD)
        assert info.extract_version == 51
        # Decrypted zeros look like no archive; that alone would have all of it authenticated.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wrapper.WrappedSource, "_starts_well", lambda _self: True)
            inside = wrapper.unwrap(FileSource(os.fsencode(path)), PASSWORD)
        assert inside is not None
        assert inside.size == size
        keys = aes.derive(PASSWORD, SALT)
        assert inside.pread(100, size - 7) == keys.apply(bytes(7), size - 7)


class TestReading:
    @settings(max_examples=60, deadline=None)
    @given(offset=st.integers(0, len(VOLUME) + 50), length=st.integers(0, len(VOLUME) + 50))
    def test_any_range_reads_as_from_the_volume_itself(
        self, offset: int, length: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        inside = unwrap(tmp_path_factory.mktemp("wrapped"), wrapped())
        assert inside is not None
        assert inside.pread(length, offset) == VOLUME[offset : offset + length]
        inside.close()

    def test_it_tells_of_itself_what_a_source_does(self, tmp_path: Path) -> None:
        outer = source(tmp_path, wrapped(b"b.tar.002"), "renamed.zip")
        inside = wrapper.unwrap(outer, PASSWORD)
        assert inside is not None
        assert inside.inner_name == b"b.tar.002"
        assert (inside.size, inside.label) == (len(VOLUME), outer.label)
        assert inside.identity == outer.identity
        assert inside.place(0, 10) == ""
        inside.close()
        with pytest.raises(StorageError):
            inside.pread(1, 0)

    def test_wrapped_volumes_join(self, tmp_path: Path) -> None:
        parts = [VOLUME[:20_000], VOLUME[20_000:45_000], VOLUME[45_000:]]
        inside = []
        for number, part in enumerate(parts, 1):
            data = wrapped(b"b.tar.%03d" % number, part)
            one = wrapper.unwrap(source(tmp_path, data, f"b.tar.{number:03}.zip"), PASSWORD)
            assert one is not None
            inside.append(one)
        joined = JoinedSource(inside, label="b.tar")
        assert joined.pread(1 << 20, 0) == VOLUME
        assert joined.pread(30_000, 19_990) == VOLUME[19_990:49_990]
        assert joined.place(19_999, 2) == " (in b.tar.001.zip and b.tar.002.zip)"
        joined.close()

    @pytest.mark.parametrize(
        "name",
        ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tbz2", "a.tar.zst", "a.tzst",
         "a.ZIP.001", "a.tar.zst.1000", "\N{SNOWMAN}.tar"],
    )  # fmt: skip
    def test_names_of_archives_and_volumes_make_a_wrapper(self, name: str, tmp_path: Path) -> None:
        assert unwrap(tmp_path, wrapped(name.encode())) is not None

    @pytest.mark.parametrize(
        "name",
        ["a.txt", "a.tar.xz", "folder/a.tar", "a.tar.01", "a.tar.001.zip.txt", ".zip", "zip"],
    )
    def test_other_names_do_not(self, name: str, tmp_path: Path) -> None:
        assert unwrap(tmp_path, wrapped(name.encode())) is None

    @pytest.mark.parametrize(
        "members",
        [
            [Secret(b"b.tar", VOLUME, password=None)],
            [Secret(b"b.tar", VOLUME, deflate=True)],
            [Secret(b"b.tar", VOLUME), Secret(b"c.tar", VOLUME)],
            [],
        ],
        ids=["plain", "deflated", "two", "none"],
    )
    def test_other_archives_do_not(self, members: list[Secret], tmp_path: Path) -> None:
        assert unwrap(tmp_path, build(members), None) is None

    @pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", VOLUME, bytes(5000)])
    def test_other_files_do_not(self, data: bytes, tmp_path: Path) -> None:
        assert unwrap(tmp_path, data) is None


class TestFaults:
    @pytest.mark.parametrize("name", [b"b.tar", b"b.tar.001", b"b.tar.002"])
    def test_a_wrong_password_is_told_at_once(self, name: bytes, tmp_path: Path) -> None:
        """(case 63)"""
        with pytest.raises(WrongPasswordError, match=r"any name\.zip: wrong password"):
            unwrap(tmp_path, wrapped(name), b"another")

    def test_no_password_is_told_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(WrongPasswordError, match="is encrypted; give"):
            unwrap(tmp_path, wrapped(), None)

    @pytest.mark.parametrize("name", [b"b.tar", b"b.tar.001", b"b.zip"])
    def test_a_wrong_password_that_the_verifier_lets_pass_is_told_by_the_noise(
        self, name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        derive = aes.derive

        def lucky(password: bytes, salt: bytes) -> aes.Keys:
            keys = derive(password, salt)
            keys.verifier = derive(PASSWORD, salt).verifier
            return keys

        data = wrapped(name)
        monkeypatch.setattr(aes, "derive", lucky)
        with pytest.raises(WrongPasswordError, match="wrong password"):
            unwrap(tmp_path, data, b"another")

    @pytest.mark.parametrize("name", [b"b.tar", b"b.tar.002"])
    @pytest.mark.parametrize("at", [1000, 40_000, len(VOLUME) + 5])
    def test_damage_is_not_called_a_wrong_password(
        self, name: bytes, at: int, tmp_path: Path
    ) -> None:
        start = len(wrapper.wrapper_head(name, len(VOLUME), mtime_ns=NOON)) + aes.HEAD_SIZE
        inside = unwrap(tmp_path, flip(wrapped(name), start + at))
        assert inside is not None
        with pytest.raises(ArchiveError, match=r"any name\.zip.*tampered") as caught:
            inside.authenticate()
        assert not isinstance(caught.value, WrongPasswordError)

    def test_a_volume_that_is_genuine_but_no_archive_is_left_to_others(
        self, tmp_path: Path
    ) -> None:
        inside = unwrap(tmp_path, wrapped(data=b"no archive at all"))
        assert inside is not None
        inside.authenticate()

    def test_authenticating_tells_how_far_it_is_and_can_be_stopped(self, tmp_path: Path) -> None:
        data = VOLUME * 60
        inside = unwrap(tmp_path, wrapped(data=data))
        assert inside is not None
        done: list[int] = []
        inside.authenticate(done.append)
        assert sum(done) == len(data)
        assert len(done) == 4

        def stop(_size: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            inside.authenticate(stop)

    def test_every_cut_is_an_error(self, tmp_path: Path) -> None:
        data = wrapped(data=VOLUME[:1024])
        head = len(wrapper.wrapper_head(b"b.tar", 1024, mtime_ns=NOON))
        for length in range(head, len(data)):
            with pytest.raises(ArchiveError) as caught:
                unwrap(tmp_path, data[:length])
            assert not isinstance(caught.value, WrongPasswordError)

    def test_a_file_that_shrinks_while_it_is_read_is_cut_short(self, tmp_path: Path) -> None:
        inside = unwrap(tmp_path, wrapped())
        assert inside is not None
        os.truncate(tmp_path / "any name.zip", 20_000)
        with pytest.raises(ArchiveError, match="cut short"):
            inside.pread(1000, 30_000)
