"""Archives whose start, end or manifest is not what it was: damage is told, and nothing else."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
import tars
import zstandard
from restoring import restore, tree
from test_verify_tar import check

from pybak.errors import ArchiveError
from pybak.formats.archive import Limits
from pybak.formats.listing import Listing
from pybak.formats.opening import open_archive
from pybak.problems import DAMAGED

NOISE = os.urandom(200_000)
ZIPPED = archives.build([archives.file(b"inside", NOISE[:100])])
MEMBERS = [tars.file(b"first", NOISE[:100_000]), tars.file(b"second", NOISE[100_000:] + ZIPPED)]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress,
}  # fmt: skip


def listing_of(path: Path) -> Listing:
    with open_archive([os.fsencode(path)]) as archive:
        return archive.listing(Limits())


@pytest.mark.parametrize("lost", [bytes(1024), b"\xa5" * 1024])
@pytest.mark.parametrize("archive_format", [*tars.FORMATS, "zip"])
def test_an_archive_of_ours_whose_start_is_lost_is_damaged_and_the_rest_is_restored(
    tmp_path: Path, archive_format: str, lost: bytes
) -> None:
    if archive_format == "zip":
        files = [archives.file(one.name, one.data) for one in MEMBERS]
        name = archives.write(tmp_path / "a.zip", files, with_manifest=True)
    else:
        data = tars.build(MEMBERS, archive_format, batch=1)
        name = tars.write(tmp_path / f"a.{archive_format}", data)
    path = Path(os.fsdecode(name))
    path.write_bytes(lost + path.read_bytes()[len(lost) :])
    members, bad = check(name)
    assert members == 2
    assert "first" in bad
    assert "second" not in bad
    result = restore(name, tmp_path / "got")
    assert result.problems
    assert (tmp_path / "got/second").read_bytes() == MEMBERS[1].data


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar", "x"])
def test_what_begins_with_zeros_is_no_empty_tar(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(2048) + NOISE)
    with pytest.raises(ArchiveError, match="begins with zeros, so its start is lost"):
        listing_of(tmp_path / name)
    (tmp_path / name).write_bytes(bytes(2 << 20))
    with pytest.raises(ArchiveError, match="begins with zeros, so its start is lost"):
        listing_of(tmp_path / name)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_tar_that_begins_with_zeros_is_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.tar.{kind}"
    path.write_bytes(COMPRESS[kind](bytes(2048) + NOISE))
    with pytest.raises(ArchiveError, match="begins with zeros, so its start is lost"):
        listing_of(path)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("zeros", [600, 1024, 32_768])
def test_a_compressed_disk_image_is_a_single_file(tmp_path: Path, kind: str, zeros: int) -> None:
    path = tmp_path / f"disk.iso.{kind}"
    path.write_bytes(COMPRESS[kind](bytes(zeros) + NOISE))
    assert restore(os.fsencode(path), tmp_path / "got").problems == []
    assert (tmp_path / "got/disk.iso").read_bytes() == bytes(zeros) + NOISE


@pytest.mark.parametrize("name", ["x.tar", "x", "x.tar.gz", "x.tgz", "x.tar.zst"])
def test_an_empty_tar_is_empty(tmp_path: Path, name: str) -> None:
    subprocess.run(["tar", "-cf", tmp_path / "e", "-T", "/dev/null"], check=True)
    data = (tmp_path / "e").read_bytes()
    kind = {".gz": "gz", ".tgz": "gz", ".zst": "zst"}.get(os.path.splitext(name)[1])
    (tmp_path / name).write_bytes(COMPRESS[kind](data) if kind else data)
    assert listing_of(tmp_path / name)[:3] == ([], False, [])


@pytest.mark.parametrize("kind", ["", *COMPRESS])
def test_members_behind_the_mark_of_the_end_are_told(tmp_path: Path, kind: str) -> None:
    """As of archives laid end to end, or where a header was overwritten with zeros."""
    data = tars.tar([tars.file(b"a", b"a")]) + bytes(3 << 20) + tars.tar([tars.file(b"b", b"b")])
    path = tmp_path / f"x.tar{kind and '.'}{kind}"
    path.write_bytes(COMPRESS[kind](data) if kind else data)
    listing = listing_of(path)
    assert [one.name for one in listing.members] == [b"a"]
    (problem,) = listing.problems
    assert problem.message == "holds more members behind the mark of its end; tar -i reads them"


def test_what_others_leave_behind_the_end_is_passed_over(tmp_path: Path) -> None:
    """Old programs fill the last record with what was in memory."""
    path = tmp_path / "x.tar"
    path.write_bytes(tars.tar([tars.file(b"a", b"a")]) + NOISE[:5000])
    assert listing_of(path).problems == []


@pytest.mark.parametrize("archive_format", ["tar", "tar.gz", "tar.bz2"])
def test_what_another_program_packed_or_padded_anew_is_whole(
    tmp_path: Path, archive_format: str
) -> None:
    name = tars.write(tmp_path / "a", tars.build(MEMBERS, archive_format))
    path = Path(os.fsdecode(name))
    if archive_format == "tar":
        path.write_bytes(path.read_bytes() + bytes(5120))
    else:
        module = gzip if archive_format == "tar.gz" else bz2
        path.write_bytes(module.compress(module.decompress(path.read_bytes())))
    assert check(name) == (2, {})
    result = restore(name, tmp_path / "got")
    assert (result.counts, result.problems) == ((2, 0, 0), [])


def test_what_stands_behind_the_end_of_ours_is_damage(tmp_path: Path) -> None:
    name = tars.write(tmp_path / "a.tar", tars.build(MEMBERS, "tar") + NOISE[:5120])
    assert check(name)[1] == {os.fsdecode(name): DAMAGED}


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_manifest_that_was_unpacked_and_packed_again_is_a_file_like_others(
    tmp_path: Path, kind: str
) -> None:
    """README: the member does no harm."""
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    ours = tmp_path / f"ours.{kind}"
    if kind == "zip":
        files = [archives.file(one.name, one.data) for one in MEMBERS]
        archives.write(ours, files, with_manifest=True)
        shutil.unpack_archive(ours, unpacked)
        again = ["zip", "-qr"]
    else:
        tars.write(ours, tars.build(MEMBERS, kind))
        subprocess.run(["tar", "-xf", ours], cwd=unpacked, check=True)
        again = ["tar", "-czf"]
    (unpacked / "first").write_bytes(b"changed")
    (unpacked / "new").write_bytes(b"new")
    path = tmp_path / f"again.{kind}"
    subprocess.run([*again, path, "first", "second", "new", ".pybak"], cwd=unpacked, check=True)
    result = restore(os.fsencode(path), tmp_path / "got")
    assert result.problems == []
    assert {key: one[2] for key, one in tree(tmp_path / "got").items()} == {
        key: one[2] for key, one in tree(unpacked).items()
    }
