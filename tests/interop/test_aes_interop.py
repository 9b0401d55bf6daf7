"""Encrypted ZIP files and wrappers in the hands of other programs, and theirs in ours."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
from pathlib import Path

import pytest
import pyzipper
from commands import tool
from encrypted import NOON, PASSWORD, Secret, build, contents, flip, opened

from pybak import aes
from pybak.errors import ArchiveError, WrongPasswordError
from pybak.formats import wrapper
from pybak.formats.source import FileSource

pytestmark = pytest.mark.needs_tool("7zz", "bsdtar")

NOISE = hashlib.shake_128(b"noise").digest(3_500_000)
TEXT = b"".join(b"line %d of a text that packs well\n" % number for number in range(120_000))
UNICODE = "p\N{LATIN SMALL LETTER A WITH DIAERESIS}ss \N{SNOWMAN} w\u0301rd"


def run(*words: str | bytes | Path, cwd: Path, allow: tuple[int, ...] = (0,)) -> bytes:
    done = subprocess.run(
        [tool(os.fsdecode(words[0])), *words[1:]], cwd=cwd, env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in allow, (words, done.stdout, done.stderr)
    return done.stdout


def extract(program: str, archive: Path, password: bytes, folder: Path) -> dict[bytes, bytes]:
    """Unpack with another program; give what it made."""
    folder.mkdir()
    if program == "7zz":
        run("7zz", "x", b"-p" + password, archive, cwd=folder)
    elif program == "bsdtar":
        run("bsdtar", "--passphrase", password, "-xf", archive, cwd=folder)
    elif program == "bsdtar from a pipe":
        with archive.open("rb") as pipe:
            subprocess.run(
                [tool("bsdtar"), "--passphrase", password, "-xf", "-"], cwd=folder, stdin=pipe,
                capture_output=True, timeout=120, check=True,
            )  # fmt: skip
    else:
        with pyzipper.AESZipFile(archive) as file:
            file.setpassword(password)
            assert file.testzip() is None
            file.extractall(folder)
    return {
        os.fsencode(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


PROGRAMS = ["7zz", "bsdtar", "bsdtar from a pipe", "pyzipper"]


def everything() -> list[Secret]:
    """Members of every size that matters, stored and deflated."""
    sizes = [1, 15, 16, 17, 31, 32, 33, 255, 300_000, 3_500_000]
    members = [Secret(b"noise/%d" % size, NOISE[:size]) for size in sizes]
    members += [Secret(b"text/%d" % size, TEXT[:size], deflate=True) for size in sizes]
    members += [
        Secret(b"empty", b""),
        Secret(b"empty, not encrypted", b"", password=None),
        Secret(b"plain", TEXT[:5000], password=None, deflate=True),
        Secret("\N{SNOWMAN}".encode(), b"snow"),
    ]
    return members


@pytest.mark.parametrize("program", PROGRAMS)
def test_other_programs_open_what_we_encrypt(program: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    members = everything()
    archive.write_bytes(build(members))
    expected = {member.name: member.data for member in members}
    assert extract(program, archive, PASSWORD, tmp_path / "out") == expected
    assert contents(archive) == expected


@pytest.mark.parametrize(
    ("program", "password"),
    [
        *itertools.product(PROGRAMS, [UNICODE.encode(), b"p" * 99, b" blanks "]),
        # 7-Zip makes text of its arguments.
        *itertools.product(PROGRAMS[1:], [b"\xc3"]),
    ],
)
def test_other_programs_take_the_same_bytes_for_a_password(
    program: str, password: bytes, tmp_path: Path
) -> None:
    """UTF-8 as it was typed, in no normal form, and up to 99 bytes, which 7-Zip's limit is."""
    archive = tmp_path / "a.zip"
    archive.write_bytes(build([Secret(b"f", NOISE[:50], password=password)]))
    assert extract(program, archive, password, tmp_path / "out") == {b"f": NOISE[:50]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_other_programs_refuse_what_was_tampered_with(program: str, tmp_path: Path) -> None:
    """So that the tests here could fail at all."""
    archive = tmp_path / "a.zip"
    payload = aes.encrypt(PASSWORD, NOISE[:3000])
    archive.write_bytes(build([Secret(b"f", NOISE[:3000], payload=flip(payload, 1000))]))
    with pytest.raises((AssertionError, subprocess.CalledProcessError, pyzipper.BadZipFile)):
        extract(program, archive, PASSWORD, tmp_path / "out")


class TestWhatOthersMade:
    @pytest.mark.parametrize("bits", [128, 192, 256])
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("method", [pyzipper.ZIP_STORED, pyzipper.ZIP_DEFLATED])
    def test_pyzipper_in_every_strength(
        self, bits: int, version: int, method: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.zip"
        expected = {
            b"empty": b"", b"one": b"1", b"sixteen": NOISE[:16], b"more": NOISE[:300_000],
            b"text": TEXT[:2_500_000],
        }  # fmt: skip
        with pyzipper.AESZipFile(path, "w", compression=method) as file:
            file.setpassword(PASSWORD)
            file.setencryption(pyzipper.WZ_AES, nbits=bits, force_wz_aes_version=version)
            for name, data in expected.items():
                file.writestr(name.decode(), data)
        assert contents(path) == expected
        with opened(path, b"wrong") as archive:
            directory = archive.directory()
            for member, limit in zip(directory.members, directory.limits, strict=True):
                with pytest.raises(WrongPasswordError):
                    archive.read(member, limit)

    @pytest.mark.parametrize("bits", [128, 192, 256])
    @pytest.mark.parametrize("level", [0, 5])
    def test_seven_zip(self, bits: int, level: int, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        expected = {b"empty": b"", b"one": b"1", b"small": NOISE[:19], b"text": TEXT[:2_500_000]}
        for name, data in expected.items():
            (folder / name.decode()).write_bytes(data)
        path = tmp_path / "a.zip"
        run(
            "7zz", "a", "-tzip", f"-mem=AES{bits}", f"-mx={level}", b"-p" + PASSWORD, path, ".",
            cwd=folder,
        )  # fmt: skip
        found = contents(path)
        assert {name: data for name, data in found.items() if name[-1:] != b"/"} == expected

    @pytest.mark.parametrize("bits", [128, 256])
    def test_bsdtar(self, bits: int, tmp_path: Path) -> None:
        """It writes a data descriptor behind the data, whose sizes are not in the local header."""
        (tmp_path / "text").write_bytes(TEXT[:1_500_000])
        (tmp_path / "one").write_bytes(b"1")
        path = tmp_path / "a.zip"
        run(
            "bsdtar", "--options", f"zip:encryption=aes{bits}", "--passphrase", PASSWORD,
            "--format=zip", "-cf", path, "text", "one", cwd=tmp_path,
        )  # fmt: skip
        assert contents(path) == {b"text": TEXT[:1_500_000], b"one": b"1"}

    @pytest.mark.parametrize("maker", ["7zz", "bsdtar"])
    def test_zipcrypto_is_named(self, maker: str, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(TEXT[:1000])
        path = tmp_path / "a.zip"
        if maker == "7zz":
            run("7zz", "a", "-tzip", "-mem=ZipCrypto", "-psecret", path, "f", cwd=tmp_path)
        else:
            run(
                "bsdtar", "--options", "zip:encryption=zipcrypt", "--passphrase", "secret",
                "--format=zip", "-cf", path, "f", cwd=tmp_path,
            )  # fmt: skip
        with opened(path, b"secret") as archive:
            directory = archive.directory()
            with pytest.raises(ArchiveError, match=r"ZipCrypto.*7z or unzip") as caught:
                archive.read(directory.members[0], directory.limits[0])
        assert not isinstance(caught.value, WrongPasswordError)


class TestWrappers:
    @pytest.mark.parametrize("program", PROGRAMS)
    @pytest.mark.parametrize("size", [0, 1, 16, 300_000, 3_500_000])
    def test_other_programs_take_a_wrapper_off(
        self, program: str, size: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "b.tar.zst.001.zip"
        name = b"b.tar.zst.001"
        with path.open("wb") as out:
            wrapper.write_wrapper(
                out.fileno(), name, size, [NOISE[:size]], PASSWORD, mtime_ns=NOON, threads=2
            )
        assert extract(program, path, PASSWORD, tmp_path / "out") == {name: NOISE[:size]}

    def test_the_volume_inside_keeps_its_time_and_is_private(self, tmp_path: Path) -> None:
        path = tmp_path / "b.tar.001.zip"
        path.write_bytes(b"".join(wrapper.wrap(b"b.tar.001", 1, [b"x"], b"pw", mtime_ns=NOON)))
        extract("7zz", path, b"pw", tmp_path / "out")
        status = (tmp_path / "out/b.tar.001").stat()
        assert status.st_mtime_ns == NOON
        assert status.st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("maker", ["7zz", "pyzipper"])
    def test_a_wrapper_that_another_program_made_is_taken_off(
        self, maker: str, tmp_path: Path
    ) -> None:
        inner = tmp_path / "b.tar.gz"
        run("bsdtar", "-czf", inner, "--options=gzip:!timestamp", "-C", "/", "etc/hostname",
            cwd=tmp_path)  # fmt: skip
        path = tmp_path / "other name.zip"
        if maker == "7zz":
            run("7zz", "a", "-tzip", "-mem=AES256", "-mx=0", b"-p" + PASSWORD, path, inner.name,
                cwd=tmp_path)  # fmt: skip
        else:
            with pyzipper.AESZipFile(path, "w", encryption=pyzipper.WZ_AES) as file:
                file.setpassword(PASSWORD)
                file.write(inner, inner.name)
        source = wrapper.unwrap(FileSource(os.fsencode(path)), PASSWORD)
        assert source is not None
        assert source.inner_name == b"b.tar.gz"
        assert source.pread(1 << 20, 0) == inner.read_bytes()
        source.authenticate()
