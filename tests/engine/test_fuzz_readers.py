"""Broken archives of every format: what is given out is right by its checksums, or it is an error.

Whole archives are truncated, flipped, spliced and filled with noise. A reader may list them and
read members, or raise an ArchiveError; nothing else, and not for long. With `--full` there are
many more of them.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import random
import signal
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import archives
import pytest
import pyzipper
import tars
import zstandard

from pybak.errors import ArchiveError
from pybak.formats.archive import Archive, Limits
from pybak.formats.listing import Listed
from pybak.formats.opening import open_archive
from pybak.formats.zip_directory import Member

PASSWORD = b"correct horse"
QUICK, MANY = 250, 5_000
SECONDS = 5
LIMITS = Limits(members=10_000, free_size=64 << 20)

_NOISE = random.Random(1).randbytes(3000)
_ITEMS = [
    tars.folder(b"d"),
    tars.file(b"d/noise", _NOISE),
    tars.file(b"d/text", b"some text " * 300),
    tars.link(b"d/link", b"noise"),
    tars.hard_link(b"d/again", b"d/noise"),
    tars.file(b"d/sparse", _NOISE[:1024], data_map=((512, 512), (9216, 512)), real_size=20_000),
    tars.file(b"n" * 200, b"x", attributes={b"user.a": b"b"}),
    tars.Item(b"fifo", kind="p"),
]


def _foreign_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"folder/{'n' * 40 * number}")
            info.size = 900
            archive.addfile(info, io.BytesIO(_NOISE[number:][:900]))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "t" * 150
        archive.addfile(info)
    return out.getvalue()


def _zip(with_manifest: bool) -> bytes:
    members = [
        archives.folder(b"d"), archives.file(b"d/noise", _NOISE),
        archives.file(b"d/text", b"some text " * 300, deflate=True), archives.link(b"l", b"d/text"),
    ]  # fmt: skip
    return archives.build(members, with_manifest=with_manifest)


def _aes_zip() -> bytes:
    out = io.BytesIO()
    with pyzipper.AESZipFile(
        out, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES
    ) as archive:
        archive.setpassword(PASSWORD)
        archive.writestr("noise", _NOISE)
        archive.writestr("text", b"some text " * 300)
    return out.getvalue()


def _frames(data: bytes) -> bytes:
    engine = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(engine.compress(data[at : at + 3000]) for at in range(0, len(data), 3000))


MADE = {
    "zip with a manifest": lambda: _zip(with_manifest=True),
    "zip": lambda: _zip(with_manifest=False),
    "zip with AES": _aes_zip,
    "our tar": lambda: tars.build(_ITEMS, "tar", piece_bytes=2000),
    "our tar.gz": lambda: tars.build(_ITEMS, "tar.gz", piece_bytes=2000),
    "our tar.bz2": lambda: tars.build(_ITEMS, "tar.bz2", piece_bytes=2000),
    "our tar.zst": lambda: tars.build(_ITEMS, "tar.zst", piece_bytes=2000),
    "tar": _foreign_tar,
    "tar.gz": lambda: gzip.compress(_foreign_tar()[:5000]) + gzip.compress(_foreign_tar()[5000:]),
    "tar.bz2": lambda: bz2.compress(_foreign_tar()[:5000]) + bz2.compress(_foreign_tar()[5000:]),
    "tar.zst": lambda: _frames(_foreign_tar()),
    "gz": lambda: gzip.compress(_NOISE * 3),
}


class TooSlow(BaseException):
    """A reader took longer than it may; no `except Exception` holds it back."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def broken(whole: bytes, rng: random.Random) -> bytes:
    """Break an archive in one to three ways."""
    data = bytearray(whole)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 4, 32, 512, len(data) // 3))
        match rng.randrange(7):
            case 0:
                del data[at:]
            case 1:
                for _ in range(rng.randrange(1, 6)):
                    if data:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + length]
            case 3:
                source = rng.randrange(len(data) + 1)
                data[at:at] = data[source : source + length]
            case 4:
                data[at : at + length] = rng.randbytes(min(length, max(len(data) - at, 0)))
            case 5:
                data[at : at + length] = rng.choice((b"\0", b"\xff", b"7")) * length
            case 6:
                source = rng.randrange(len(data) + 1)
                data[at : at + length] = data[source : source + length]
    return bytes(data)


def read_all(path: Path, rng: random.Random) -> None:
    """Read all that an archive lists, in its order or in none."""
    with open_archive([os.fsencode(path)], password=PASSWORD) as archive:
        listing = archive.listing(LIMITS)
        archive.check_limits(listing.members, LIMITS)
        members = list(listing.members)
        if rng.random() < 0.3:
            rng.shuffle(members)
        for one in members:
            try:
                read_one(archive, one)
            except ArchiveError as error:
                check_message(error)
        archive.finish()


def check_message(error: ArchiveError) -> None:
    assert "\n" not in str(error)


def read_one(archive: Archive, one: Listed) -> None:
    archive.attributes(one.locator)
    archive.owner(one.locator)
    size = crc = 0
    digest = hashlib.sha256()
    for chunk in archive.chunks(one.locator, one.limit):
        assert 0 < len(chunk) <= 1 << 20
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
        digest.update(chunk)
    if isinstance(one.locator, Member):
        assert size == one.locator.size
        assert one.locator.is_encrypted or crc == one.locator.crc
    else:
        assert size == one.stored_size


@pytest.mark.parametrize("kind", MADE)
def test_a_broken_archive_is_read_right_or_refused(
    kind: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """(cases 59, 60)"""
    whole = MADE[kind]()
    path = tmp_path / "x"
    path.write_bytes(whole)
    read_all(path, random.Random(0))
    began = time.monotonic()
    for seed in range(MANY if pytestconfig.getoption("--full") else QUICK):
        rng = random.Random(f"{kind} {seed}")
        path.write_bytes(broken(whole, rng))
        try:
            with limited(SECONDS):
                read_all(path, rng)
        except ArchiveError as error:
            check_message(error)
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}, after {time.monotonic() - began:.0f} s")
            raise


@pytest.mark.parametrize("kind", MADE)
def test_a_truncated_archive_is_read_right_or_refused(kind: str, tmp_path: Path) -> None:
    """(case 60)"""
    whole = MADE[kind]()
    path = tmp_path / "x"
    for length in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:length])
        try:
            with limited(SECONDS):
                read_all(path, random.Random(0))
        except ArchiveError:
            pass


@pytest.mark.parametrize("kind", ["our tar.gz", "tar.gz", "our tar.zst", "zip with a manifest"])
def test_broken_plain_bytes_in_a_sound_stream_are_read_right_or_refused(
    kind: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """What compression would hide from the fuzzing of the stored bytes: headers and manifests."""
    path = tmp_path / "x"
    for seed in range(MANY // 4 if pytestconfig.getoption("--full") else QUICK // 3):
        rng = random.Random(f"{kind} {seed}")

        def change(lines: str, rng: random.Random = rng) -> str:
            return broken(lines.encode(), rng).decode("latin-1").encode("ascii", "ignore").decode()

        if kind.startswith("our"):
            data = tars.build(
                _ITEMS, kind.removeprefix("our "), piece_bytes=2000, change_lines=change
            )
        elif kind == "tar.gz":
            data = gzip.compress(broken(_foreign_tar(), rng), 1)
        else:
            members = [archives.file(b"a", _NOISE), archives.file(b"b", b"b")]
            manifest = gzip.decompress(archives.manifest_bytes(members))
            packed = gzip.compress(broken(manifest, rng), 1)
            data = archives.build([*members, archives.file(archives.manifest.MEMBER_NAME, packed)])
        path.write_bytes(data)
        try:
            with limited(SECONDS):
                read_all(path, rng)
        except ArchiveError:
            pass
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
