"""Damage that no digest of a whole member shows is seen all the same, and told."""

from __future__ import annotations

import gzip
import io
import os
import resource
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import archives as forge
import pytest
from backing_up import back_up, cut_files_at, noise
from restoring import restore, shares

from pybak.formats import tar_scan
from pybak.formats.archive import Limits
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.opening import open_archive
from pybak.problems import DAMAGED
from pybak.restore.select import Selector
from pybak.restore.stream import restore_to_stream


def flipped(path: Path, at: bytes, to: Path) -> bytes:
    """Write a copy in which the first byte of what `at` is has another bit; give its path."""
    data = bytearray(path.read_bytes())
    data[data.index(at)] ^= 0x20
    to.write_bytes(data)
    return os.fsencode(to)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def test_a_file_that_shrank_after_it_was_cut_into_parts_is_checked(
    src: Path, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that was rotated meanwhile: it is small, and has digests of parts."""
    cut_files_at(monkeypatch, 64 << 10)
    log = src / "log"
    log.write_bytes(noise(300 << 10))
    made = back_up(
        src, to=tmp_path / "out", format="tar",
        before_reading=lambda _: log.write_bytes(b"precious data\n" * 100),
    )  # fmt: skip
    assert len(made.records["src/log"].parts) > 1
    bad = flipped(made.path, b"precious", tmp_path / "bad.tar")
    result = restore(bad, target)
    assert result.codes["src/log"] == DAMAGED
    assert not (target / "src/log").exists()
    assert restore(os.fsencode(made.path), target).counts == (1, 0, 0)


@pytest.mark.parametrize("archive_format", ["tar", "tar.zst"])
def test_damage_in_attributes_is_told(
    src: Path, tmp_path: Path, target: Path, archive_format: str
) -> None:
    """They have no digest but that of the piece they lie in."""
    (src / "a.txt").write_bytes(b"content")
    value = noise(200)  # which is stored as it is
    os.setxattr(src / "a.txt", b"user.secret", value)
    made = back_up(src, to=tmp_path / "out", format=archive_format)
    whole = restore(os.fsencode(made.path), target / "whole")
    assert (whole.counts, whole.problems) == ((1, 0, 0), [])
    bad = flipped(made.path, value[100:120], tmp_path / made.path.name)
    result = restore(bad, target / "bad")
    assert result.codes == {"": DAMAGED}
    assert [one for one in result.problems if "attributes and ACLs" in one.message]


def sent(archive: bytes, name: str) -> tuple[Any, bytes]:
    out = io.BytesIO()
    return restore_to_stream(shares(archive), Selector([name]), out), out.getvalue()


def test_a_file_without_a_digest_out_of_a_damaged_archive_is_no_success(tmp_path: Path) -> None:
    """A gzip stream has one CRC-32, at its end."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        member = tarfile.TarInfo("a.txt")
        member.size = 11
        out.addfile(member, io.BytesIO(b"hello world"))
    data = bytearray(gzip.compress(packed.getvalue(), 0))
    data[data.index(b"hello")] ^= 0x20
    path = os.fsencode(tmp_path / "x.tar.gz")
    (tmp_path / "x.tar.gz").write_bytes(data)
    report, written = sent(path, "a.txt")
    assert (report.status, report.exit_code, written) == ("partial", 3, b"Hello world")
    assert "any member may be wrong" in report.errors[0].message
    restored = restore(path, tmp_path / "t")
    assert "any member may be wrong" in restored.problems[0].message


def test_a_file_with_a_digest_out_of_an_archive_that_is_damaged_elsewhere_is_whole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.zip"
    members = [forge.file(b"a.txt", b"hello"), forge.file(b"b.txt", b"other")]
    forge.write(path, members, with_manifest=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"other", b"oTher"))
    report, written = sent(os.fsencode(path), "a.txt")
    assert (report.status, written) == ("success", b"hello")


def test_a_tar_that_claims_a_huge_manifest_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_scan, "_MAX_MANIFEST", 1 << 20)
    path = tmp_path / "x.tar"
    claimed = tarfile.TarInfo(os.fsdecode(MEMBER_NAME))
    claimed.size = 64 << 20
    with path.open("wb") as out:
        out.write(claimed.tobuf(tarfile.GNU_FORMAT))
        out.truncate(512 + claimed.size + 1024)
    tracemalloc.start()
    try:
        with open_archive([os.fsencode(path)]) as archive:
            listing = archive.listing(Limits())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [one.code for one in listing.problems] == [DAMAGED]
    assert peak < 16 << 20


def test_an_archive_of_many_volumes_opens_with_few_files_allowed(src: Path, tmp_path: Path) -> None:
    (src / "f").write_bytes(noise(4_000_000))
    made = back_up(src, to=tmp_path / "out", format="tar.gz", split="64KiB")
    volumes = [os.fsencode(path) for path in made.files]
    assert len(volumes) > 50
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        with open_archive(volumes) as one, open_archive(volumes) as other:
            assert one.listing(Limits()).members == other.listing(Limits()).members
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
