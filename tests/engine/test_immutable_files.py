"""Files and folders with the immutable or append-only flag, in the source and in the target."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backing_up import back_up
from restoring import restore

from pybak.problems import STORAGE

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_tool("chattr")]


@contextmanager
def flagged(path: Path, flag: str) -> Iterator[bool]:
    """Set a flag; whether the file system and the machine allow it."""
    done = subprocess.run(["chattr", f"+{flag}", path], stderr=subprocess.DEVNULL, check=False)
    try:
        yield done.returncode == 0
    finally:
        subprocess.run(["chattr", f"-{flag}", path], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "kept").write_text("as it is in the archive")
    (folder / "other").write_text("other")
    return folder


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
@pytest.mark.parametrize("flag", ["i", "a"])
def test_such_sources_are_read_like_others(src: Path, tmp_path: Path, flag: str, kind: str) -> None:
    """Neither their content nor their access time needs to be touched (case 38)."""
    with flagged(src / "d" / "kept", flag), flagged(src / "d", flag):
        done = back_up(src, to=tmp_path / "out", format=kind)
    assert (done.errors, done.skipped) == ({}, {})
    assert done.report.files.new == 2


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_a_folder_that_takes_nothing_costs_its_members_only(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """Each is named, all others come back (case 38)."""
    archive = os.fsencode(back_up(src, to=tmp_path / "out", format=kind).path)
    folder = tmp_path / "back" / "src" / "d"
    folder.mkdir(parents=True)
    with flagged(folder, "i") as is_flagged:
        result = restore(archive, tmp_path / "back")
    assert (tmp_path / "back" / "src" / "other").read_text() == "other"
    assert (folder / "kept").exists() != is_flagged
    if is_flagged:
        assert result.codes["src/d/kept"] == STORAGE
        assert result.failed == 1
    else:
        assert result.counts == (2, 0, 0)


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_a_file_that_may_not_be_replaced_stays_and_is_named(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """Case 38."""
    archive = os.fsencode(back_up(src, to=tmp_path / "out", format=kind).path)
    file = tmp_path / "back" / "src" / "d" / "kept"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with flagged(file, "i") as is_flagged:
        result = restore(archive, tmp_path / "back", overwrite="always")
    assert file.read_text() == ("mine" if is_flagged else "as it is in the archive")
    assert result.codes == ({"src/d/kept": STORAGE} if is_flagged else {})
    assert result.restored == 2 - is_flagged
