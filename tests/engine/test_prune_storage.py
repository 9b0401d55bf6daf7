"""Prunes and what storage holds by now: what cannot go, is not there, or is somebody else's."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from pruning import Shelf, killed_at, names

from pybak.errors import (
    StorageError,
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups", f"sqlite:///{tmp_path}/catalog.db")


def test_one_archive_that_cant_go_does_not_keep_the_others(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 109)"""
    for number in range(1, 5):
        shelf.add({"a": number})
    unlink = os.unlink

    def fail(path: str) -> None:
        if path.endswith("0002.zip"):
            raise OSError(errno.EIO, "Input/output error")
        unlink(path)

    monkeypatch.setattr(os, "unlink", fail)
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    (problem,) = done.errors
    assert problem.path == str(shelf.folder / "docs_0002.zip")
    assert problem.code == "storage"
    assert "can't be deleted (input/output error)" in problem.message
    assert shelf.files() == names(2, 4)
    assert [one.archive_deleted for one in done.remove] == [True, False, True]
    monkeypatch.undo()
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.files() == names(4)
    assert shelf.counts()["archive"] == 1


@pytest.mark.needs_root
@pytest.mark.needs_tool("chattr")
def test_an_immutable_archive_stays_and_is_named(shelf: Shelf) -> None:
    """(case 109)"""
    for number in range(1, 4):
        shelf.add({"a": number})
    stuck = shelf.folder / "docs_0001.zip"
    if subprocess.run(["chattr", "+i", stuck], capture_output=True).returncode:
        pytest.skip("no immutable files here")
    try:
        done = shelf.prune(keep_last=1)
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)
    assert done.status == "partial"
    assert [one.path for one in done.errors] == [str(stuck)]
    assert shelf.files() == names(1, 3)
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.files() == names(3)


@pytest.mark.needs_root
def test_a_read_only_destination_is_found_out_before_anything_is_marked(shelf: Shelf) -> None:
    """(case 97)"""
    shelf.folder.rmdir()
    shelf.folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shelf.folder], check=True)
    try:
        shelf.add({"a": 1})
        shelf.add({"a": 2})
        before = (shelf.counts(), shelf.seqs(), shelf.files())
        subprocess.run(["mount", "-o", "remount,ro", shelf.folder], check=True)
        for act in (shelf.prune, shelf.rehearse):
            with pytest.raises(StorageError) as refused:
                act(keep_last=1)
            message = str(refused.value)
            assert message.startswith(str(shelf.folder / "docs_0001.zip"))
            assert "can't be deleted (read-only file system)" in message
            assert message.endswith("; nothing was removed")
        assert (shelf.counts(), shelf.seqs(), shelf.files()) == before
        assert not any(one.is_leaving for one in shelf.history.archives_of_job("docs"))
    finally:
        subprocess.run(["umount", shelf.folder], check=True)


@pytest.mark.parametrize("remains", [True, False])
def test_a_disk_that_is_not_there_loses_nothing_from_the_catalog(
    shelf: Shelf, tmp_path: Path, remains: bool
) -> None:
    shelf.add({"a": 1})
    last = shelf.add({"a": 2})
    shelf.folder.rename(tmp_path / "elsewhere")
    if remains:
        shelf.folder.mkdir()
    with pytest.raises(StorageError, match="is its disk mounted"):
        shelf.prune(keep_last=1)
    assert shelf.seqs() == [1, 2]
    if remains:
        shelf.folder.rmdir()
    (tmp_path / "elsewhere").rename(shelf.folder)
    assert shelf.held(last) == {"a": 2}


def test_a_removal_that_was_begun_is_not_taken_for_done_while_the_disk_is_away(
    shelf: Shelf, tmp_path: Path
) -> None:
    shelf.add({"a": 1})
    shelf.add({"a": 2})
    shelf.database.close()
    child = os.fork()
    if not child:
        killed_at(shelf, 1)
    os.waitpid(child, 0)
    assert [one.is_leaving for one in shelf.history.archives_of_job("docs")] == [True, False]
    shelf.folder.rename(tmp_path / "elsewhere")
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert any("is its disk mounted" in one.message for one in done.errors)
    (tmp_path / "elsewhere").rename(shelf.folder)
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.files() == names(2)


def test_what_was_deleted_by_hand_goes_from_the_catalog_too(shelf: Shelf) -> None:
    for number in range(1, 4):
        shelf.add({"a": number})
    (shelf.folder / "docs_0001.zip").unlink()
    done = shelf.prune(keep_last=1)
    assert done.status == "success"
    assert shelf.counts()["archive"] == 1
    assert done.bytes_freed == 1000 + len("docs_0002.zip")


def test_what_cant_be_restored_uses_up_no_count_and_is_told(shelf: Shelf) -> None:
    """(case 76)"""
    for number in range(1, 5):
        shelf.add({"a": number})
    (shelf.folder / "docs_0004.zip").unlink()
    os.truncate(shelf.folder / "docs_0003.zip", 10)
    done = shelf.prune(keep_last=1)
    assert done.status == "partial"
    assert [(one.seq, one.reasons[0]) for one in done.keep] == [
        (4, "the last one"), (2, "the last one"),
    ]  # fmt: skip
    assert "docs_0004.zip: is missing" in done.keep[0].reasons[1]
    assert shelf.files() == names(2, 3)
    told = [one.message for one in done.errors]
    assert len(told) == 2
    assert "docs_0004.zip: is missing; put it back, or make a new full backup" in told[0]
    assert "docs_0003.zip: has 10 bytes, 1013 were written, so it is not deleted" in told[1]


def test_a_file_that_got_the_name_of_an_archive_is_never_deleted(shelf: Shelf) -> None:
    for number in range(1, 4):
        shelf.add({"a": number})
    for name, make in (("docs_0001.zip", Path.mkdir), ("docs_0002.zip", Path.touch)):
        (shelf.folder / name).unlink()
        make(shelf.folder / name)
    for _ in range(2):
        done = shelf.prune(keep_last=1)
        assert done.status == "partial"
        advice = "so it is not deleted; delete it by hand if it may go"
        assert [one.message.partition(": ")[2] for one in done.errors] == [
            f"is no ordinary file, {advice}",
            f"has 0 bytes, 1013 were written, {advice}",
        ]
    assert shelf.files() == names(1, 2, 3)


def test_a_later_archive_of_the_same_name_is_not_deleted_for_the_earlier(shelf: Shelf) -> None:
    shelf.add({"a": 1}, name="same.zip")
    (shelf.folder / "same.zip").unlink()
    last = shelf.add({"a": 2}, name="same.zip")
    assert shelf.prune(keep_last=1).status == "success"
    assert shelf.held(last) == {"a": 2}
    assert shelf.counts()["archive"] == 1


@pytest.mark.needs_tool("sha256sum")
def test_files_of_checksums_go_with_their_archive_and_no_other(shelf: Shelf) -> None:
    shelf.add({"a": 1}, volumes=2, name="odd\\na\nme.zip")
    shelf.add({"a": 2})
    last = shelf.add({"a": 3})
    for number, sums in enumerate(("odd\\na\nme.zip.sha256", "docs_0002.zip.sha256")):
        of = [name for name in shelf.files() if name.startswith(sums.removesuffix(".sha256"))]
        done = subprocess.run(["sha256sum", *of], cwd=shelf.folder, capture_output=True, check=True)
        (shelf.folder / sums).write_bytes(done.stdout)
        assert len(of) == 2 - number
    (shelf.folder / "docs_0002.zip.md5").write_bytes(
        hashlib.md5(b"").hexdigest().encode() + b"  docs_0002.zip\n" + b"0" * 32 + b"  mine\n"
    )
    shelf.prune(keep_last=1)
    assert shelf.files() == ["docs_0002.zip.md5", "docs_0003.zip"]
    assert shelf.held(last) == {"a": 3}
