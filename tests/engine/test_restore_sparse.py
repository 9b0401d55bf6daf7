"""Sparse files stay sparse: content is equal, and holes take no room (case 35)."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import archives as forge
import pytest
import tars
from restoring import restore, shares

from pybak.formats import manifest
from pybak.formats.archive import CHUNK
from pybak.formats.sparse import data_runs
from pybak.problems import DAMAGED

KIB = 1 << 10
MIB = 1 << 20
SHAPES = {
    "start": (1 * MIB, [(512 * KIB, 512 * KIB)]),
    "middle": (1 * MIB, [(0, 4 * KIB), (900 * KIB, 124 * KIB)]),
    "end": (1 * MIB, [(0, 8 * KIB)]),
    "all": (64 * MIB, []),
    "odd end": (1 * MIB + 7, [(1 * MIB, 7)]),
    "short end": (1 * MIB + 7, [(0, 4 * KIB)]),
    "many": (4 * MIB, [(at * 128 * KIB, 4 * KIB) for at in range(32)]),
    "across chunks": (5 * MIB, [(CHUNK - 8 * KIB, 16 * KIB), (3 * MIB, MIB + 4 * KIB)]),
    "tiny": (3, [(0, 3)]),
    "small hole": (16 * KIB, [(0, 4 * KIB), (12 * KIB, 4 * KIB)]),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def _needs_holes(tmp_path: Path) -> None:
    path = tmp_path / "probe"
    with path.open("wb") as probe:
        probe.truncate(MIB)
        if data_runs(probe.fileno(), MIB) is None:
            pytest.skip("this file system knows no holes")
    path.unlink()


def pattern(length: int) -> bytes:
    return bytes(range(1, 252)) * (length // 251) + bytes(range(1, length % 251 + 1))


def plain(size: int, runs: list[tuple[int, int]]) -> bytes:
    content = bytearray(size)
    for at, length in runs:
        content[at : at + length] = pattern(length)
    return bytes(content)


def check(path: Path, size: int, runs: list[tuple[int, int]]) -> None:
    assert path.read_bytes() == plain(size, runs)
    data = sum(-(-length // 4096) * 4096 for _, length in runs)
    assert path.stat().st_blocks * 512 <= 2 * data


def member(shape: str) -> tars.Item:
    size, runs = SHAPES[shape]
    return tars.file(
        b"f", b"".join(pattern(length) for _, length in runs), data_map=tuple(runs), real_size=size
    )


@shapes
@pytest.mark.parametrize("archive_format", ["tar", "tar.zst"])
def test_by_the_map_in_our_own_tar(
    tmp_path: Path, target: Path, shape: str, archive_format: str
) -> None:
    archive = tars.write(tmp_path / "a", tars.build([member(shape)], archive_format))
    assert restore(archive, target).problems == []
    check(target / "f", *SHAPES[shape])


@shapes
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_by_the_map_in_gnu_tars(tmp_path: Path, target: Path, shape: str, version: str) -> None:
    size, runs = SHAPES[shape]
    with (tmp_path / "f").open("wb") as out:
        out.truncate(size)
        for at, length in runs:
            out.seek(at)
            out.write(pattern(length))
    how = ["--format=gnu"] if version == "gnu" else [f"--sparse-version={version}", "--format=pax"]
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-C", tmp_path, *how, "-S", "-cf", archive, "f"], check=True)
    assert restore(os.fsencode(archive), target).problems == []
    check(target / "f", *SHAPES[shape])


@shapes
def test_by_their_zeros_in_zip(
    zip_path: Path, target: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZIP stores the holes as well; the manifest remembers that there were some."""
    size, runs = SHAPES[shape]
    line = manifest.record_line
    monkeypatch.setattr(manifest, "record_line", lambda *a, **b: line(*a, holes=True, **b))
    members = [forge.file(b"f", plain(size, runs), deflate=True)]
    restore(forge.write(zip_path, members, with_manifest=True), target)
    check(target / "f", size, runs)


def test_zeros_that_were_no_hole_stay_none(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"f", bytes(MIB), deflate=True)]
    restore(forge.write(zip_path, members, with_manifest=True), target)
    assert (target / "f").stat().st_blocks * 512 >= MIB


def test_damage_in_a_sparse_file_is_seen(tmp_path: Path, target: Path) -> None:
    """By its SHA-256, which is over the data without the holes (case 59)."""
    data = bytearray(tars.build([member("middle"), tars.file(b"g", b"x")], "tar"))
    data[data.index(pattern(4096)) + 100] ^= 1
    archive = tars.write(tmp_path / "a", bytes(data))
    result = restore(archive, target)
    assert result.codes == {"f": DAMAGED, "": DAMAGED}
    assert not (target / "f").exists()


@pytest.mark.parametrize("shape", ["middle", "all", "tiny"])
def test_a_hard_link_to_a_left_sparse_file_compares_holes_too(
    tmp_path: Path, target: Path, shape: str
) -> None:
    members = [member(shape), tars.hard_link(b"g", b"f")]
    archive = tars.write(tmp_path / "a", tars.build(members, "tar"))
    restore(archive, target)
    (target / "g").unlink()
    assert restore(archive, target).counts == (1, 1, 0)
    assert (target / "f").stat().st_nlink == 2
    size, runs = SHAPES[shape]
    if shape == "middle":
        with (target / "f").open("r+b") as out:
            out.seek(100 * KIB)
            out.write(b"!")
        os.utime(target / "f", ns=(tars.NOON, tars.NOON))
        (target / "g").unlink()
        restore(archive, target)
        assert (target / "f").stat().st_nlink == 1
    check(target / "g", size, runs)


def test_a_stream_gets_zeros_for_holes(tmp_path: Path) -> None:
    from pybak.restore.select import Selector
    from pybak.restore.stream import restore_to_stream

    for shape, (size, runs) in SHAPES.items():
        archive = tars.write(tmp_path / "a", tars.build([member(shape)], "tar.gz"))
        out = io.BytesIO()
        assert restore_to_stream(shares(archive), Selector(), out).exit_code == 0
        assert out.getvalue() == plain(size, runs), shape


def test_holes_without_end_do_not_go_to_a_stream(tmp_path: Path) -> None:
    """A stream takes them as zeros, so they count for the limits (case 76)."""
    from pybak.errors import ArchiveError
    from pybak.restore.select import Selector
    from pybak.restore.stream import restore_to_stream

    bomb = tars.file(b"f", data_map=(), real_size=1 << 60)
    archive = tars.write(tmp_path / "a", tars.build([bomb], "tar.gz"))
    out = io.BytesIO()
    with pytest.raises(ArchiveError, match="like a bomb"):
        restore_to_stream(shares(archive), Selector(), out)
    assert out.getvalue() == b""
