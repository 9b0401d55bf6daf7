"""What is gone from a snapshot, and what only could not be looked at or read this time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, prose
from remembering import Memory, counts, on_disk

from pybak.backup import discover


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "src"
    (top / "a" / "deep").mkdir(parents=True)
    (top / "b").mkdir()
    for number, name in enumerate(["one", "a/two", "a/deep/three", "b/four"]):
        (top / name).write_bytes(prose(3000, number))
    (top / "link").symlink_to("one")
    return top


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_names_stay_gone_in_every_archive_until_the_next_full_one(
    tree: Path, tmp_path: Path, memory: Memory
):
    """A snapshot can be told from the full archive and its own alone."""
    to = tmp_path / "to"
    memory.back_up(tree, to=to)
    (tree / "one").unlink()
    memory.back_up(tree, to=to)
    (tree / "b" / "four").unlink()
    second = memory.back_up(tree, to=to)
    assert sorted(second.manifest.gone) == ["src/b/four", "src/one"]
    (tree / "one").write_bytes(b"back")
    third = memory.back_up(tree, to=to)
    assert third.manifest.gone == ["src/b/four"]
    assert third.report.files.new == 1
    assert memory.contents() == on_disk(tree)
    assert memory.back_up(tree, to=to, mode="full").manifest.gone == []


def test_what_a_new_rule_leaves_out_is_gone(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    done = memory.back_up(tree, to=tmp_path / "to", exclude=["two"], max_file_size="2900")
    assert {"src/a/two", "src/one"} <= set(done.manifest.gone)


def test_below_a_missing_source_nothing_is_gone(tmp_path: Path, memory: Memory):
    """Nor does the other source take its name, though it could (case 56)."""
    tops = [tmp_path / "x" / "docs", tmp_path / "y" / "docs"]
    for top in tops:
        top.mkdir(parents=True)
        (top / "file").write_bytes(prose(100))
    memory.back_up(*tops, to=tmp_path / "to")
    tops[1].rename(tmp_path / "away")
    done = memory.back_up(*tops, to=tmp_path / "to")
    assert counts(done.report) == (0, 0, 1, 1)
    assert done.manifest.gone == []
    assert "y/docs/file" in {os.fsdecode(name) for name in memory.names}
    assert [code for _, code, _ in done.manifest.errors] == ["source_missing"]


def test_below_a_folder_that_cannot_be_read_nothing_is_gone(
    tree: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    """(case 54)"""
    memory.back_up(tree, to=tmp_path / "to")
    real = discover.open_folder

    def closed(source: bytes, path: bytes, device: int, inode: int) -> int:
        if path == b"a":
            raise PermissionError(13, "Permission denied")
        return real(source, path, device, inode)

    monkeypatch.setattr(discover, "open_folder", closed)
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == (0, 0, 3, 1)
    assert done.manifest.gone == []
    assert {b"src/a/two", b"src/a/deep/three"} <= memory.names
    # The same once more is nothing new; it is told all the same.
    again = memory.back_up(tree, to=tmp_path / "to")
    assert (again.report.status, again.report.exit_code) == ("unchanged", 3)
    assert counts(again.report) == (0, 0, 3, 1)
    assert "1 file failed again" in again.report.headline()
    monkeypatch.undo()
    assert memory.back_up(tree, to=tmp_path / "to").report.status == "unchanged"


def failing(victim: Path, error: int = 13) -> Callable[[int, int, int], bytes]:
    inode = victim.stat().st_ino

    def read(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            raise OSError(error, os.strerror(error))
        return os.pread(fd, length, offset)

    return read


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_that_fails_keeps_its_old_version_and_counts_once(
    kind: str, tree: Path, tmp_path: Path, memory: Memory
):
    """(cases 53, 110)"""
    memory.back_up(tree, to=tmp_path / "to", **FORMATS[kind])
    old = (tree / "one").read_bytes()
    (tree / "one").write_bytes(b"can't be read")
    (tree / "new").write_bytes(b"can be read")
    read = failing(tree / "one")
    done = memory.back_up(tree, to=tmp_path / "to", read=read, **FORMATS[kind])
    assert counts(done.report) == (1, 0, 4, 1)
    assert done.report.status == done.manifest.status == "partial"
    assert "src/one" not in done.contents
    assert memory.contents()["src/one"] == old
    assert [(path, code) for path, code, _ in done.manifest.errors] == [
        (str(tree / "one"), "io_error")
    ]


def test_a_new_file_that_fails_is_in_no_count_but_the_failed(
    tree: Path, tmp_path: Path, memory: Memory
):
    """(case 110)"""
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "new").write_bytes(b"no")
    done = memory.back_up(tree, to=tmp_path / "to", read=failing(tree / "new"))
    assert counts(done.report) == (0, 0, 5, 1)
    assert b"src/new" not in memory.names


def test_below_a_file_that_fails_the_folder_it_was_stays(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    shutil.rmtree(tree / "a")
    (tree / "a").write_bytes(b"a file")
    done = memory.back_up(tree, to=tmp_path / "to", read=failing(tree / "a"))
    assert counts(done.report) == (0, 0, 3, 1)
    assert done.manifest.gone == []
    assert b"src/a/two" in memory.names


def test_a_name_that_comes_back_and_fails_stays_gone(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "one").unlink()
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "one").write_bytes(b"back")
    done = memory.back_up(tree, to=tmp_path / "to", read=failing(tree / "one"))
    assert done.manifest.gone == ["src/one"]
    assert b"src/one" not in memory.names


def test_a_file_that_fails_in_every_run_makes_no_archive_in_every_run(
    tree: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    from pybak.backup import read_source

    real = read_source._open

    def closed(path: bytes, folder_fd: int | None) -> int:
        if path.endswith(b"/secret"):
            raise PermissionError(13, "Permission denied")
        return real(path, folder_fd)

    monkeypatch.setattr(read_source, "_open", closed)
    (tree / "secret").write_bytes(b"secret")
    how: dict[str, Any] = {"to": tmp_path / "to", "read": lambda *args: os.pread(*args)}
    assert counts(memory.back_up(tree, **how).report) == (5, 0, 0, 1)
    again = memory.back_up(tree, **how).report
    assert (again.status, again.exit_code, counts(again)) == ("unchanged", 3, (0, 0, 5, 1))
    assert [problem.path for problem in again.errors] == [str(tree / "secret")]
    (tree / "one").write_bytes(b"1")
    done = memory.back_up(tree, **how)
    assert counts(done.report) == (0, 1, 4, 1)
    monkeypatch.undo()
    assert counts(memory.back_up(tree, to=tmp_path / "to").report) == (1, 0, 5, 0)


def test_an_empty_folder_on_another_device_is_a_disk_that_is_not_mounted(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    other = on_other_device(memory, "src/a")
    shutil.rmtree(tree / "a")
    (tree / "a").mkdir()
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == (0, 0, 3, 1)
    assert (done.manifest.gone, done.errors) == ([], {str(tree / "a"): "source_missing"})
    assert b"src/a/deep/three" in memory.names
    assert memory.snapshots[-1].members[b"src/a"][0].dev == other, "the old folder stays known"
    again = memory.back_up(tree, to=tmp_path / "to")
    assert (again.report.status, again.report.exit_code) == ("unchanged", 3)
    done = memory.back_up(tree, to=tmp_path / "to", allow_empty=True)
    assert done.report.status == "success"
    assert done.report.history.gone == 2
    assert memory.contents() == on_disk(tree)


def test_a_folder_on_another_device_that_holds_something_is_just_there(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    on_other_device(memory, "src/a")
    on_other_device(memory, "src/b")
    (tree / "a" / "two").unlink()
    (tree / "b" / "four").unlink()
    (tree / "b" / "five").write_bytes(b"5")
    done = memory.back_up(tree, to=tmp_path / "to")
    assert sorted(done.manifest.gone) == ["src/a/two", "src/b/four"]
    assert done.report.status == "success"


def on_other_device(memory: Memory, name: str) -> int:
    """Have the base remember a folder from another device; give that."""
    fact, *rest = memory.snapshots[-1].members[name.encode()]
    assert fact.dev is not None
    fields = {field: getattr(fact, field) for field in fact.__struct_fields__}
    there = type(fact)(**fields | {"dev": fact.dev + 1})
    memory.snapshots[-1].members[name.encode()] = (there, *rest)
    return fact.dev + 1
