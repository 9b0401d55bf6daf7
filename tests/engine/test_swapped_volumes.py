"""A volume in another's place is named before anything is unpacked (case 61)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from backing_up import back_up, noise

from pybak.formats.archive import Limits
from pybak.formats.opening import open_archive
from pybak.volumes.find import find_volumes

FORMATS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.zst"]


def problems(base: Path, password: bytes | None = None) -> list[str]:
    with open_archive(find_volumes(os.fsencode(base)).paths, password=password) as archive:
        return [problem.message for problem in archive.listing(Limits()).problems]


def split(tmp_path: Path, kind: str, number: int = 1, password: bytes | None = None) -> list[Path]:
    source = tmp_path / f"src{number}"
    source.mkdir()
    (source / "one").write_bytes(noise(700_000, number))
    done = back_up(
        source, to=tmp_path / f"out{number}", format=kind, split="128KiB", password=password
    )
    return sorted(done.path.parent.glob(f"{done.path.name}.*"))


def swap(first: Path, second: Path) -> None:
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


@pytest.mark.parametrize("kind", FORMATS)
def test_volumes_as_they_were_written_are_right(tmp_path: Path, kind: str) -> None:
    paths = split(tmp_path, kind)
    assert len(paths) >= 6
    assert problems(paths[0].with_suffix("")) == []


@pytest.mark.parametrize(
    ("kind", "password"), [*((kind, None) for kind in FORMATS), ("zip", b"correct horse")]
)
def test_two_that_were_swapped_are_both_named(
    tmp_path: Path, kind: str, password: bytes | None
) -> None:
    """Pieces are larger than these volumes, so no piece lies in one."""
    paths = split(tmp_path, kind, password=password)
    swap(paths[1], paths[2])
    found = problems(paths[0].with_suffix(""), password)
    for path, other in ((paths[1], paths[2]), (paths[2], paths[1])):
        expected = f"{path.name} does not belong here: it holds what {other.name} should; swap them"
        assert any(expected in message for message in found), found


@pytest.mark.parametrize("kind", FORMATS)
def test_one_of_another_archive_is_named(tmp_path: Path, kind: str) -> None:
    paths, others = split(tmp_path, kind), split(tmp_path, kind, 2)
    paths[2].write_bytes(others[2].read_bytes())
    found = problems(paths[0].with_suffix(""))
    assert any(f"{paths[2].name} does not belong here" in message for message in found), found


def test_a_set_that_was_cut_anew_is_still_read(tmp_path: Path) -> None:
    paths = split(tmp_path, "tar.gz")
    whole = b"".join(path.read_bytes() for path in paths)
    again = tmp_path / "again"
    again.mkdir()
    for number, at in enumerate(range(0, len(whole), 200_000), 1):
        (again / f"x.tar.gz.{number:03d}").write_bytes(whole[at : at + 200_000])
    assert problems(again / "x.tar.gz") == []
