"""Incremental backups of folders that move, at random or while they are read."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, PASSWORD, prose
from moving import to_fifo, to_folder, to_link
from remembering import Memory, on_disk

KINDS = ["zip", "tar", "aes", "tar.zst"]


def any_kind(pick: random.Random, *, encrypted: bool) -> dict[str, Any]:
    """Give how one archive of a chain is made: any format, but a password for all or for none."""
    how = FORMATS[pick.choice([kind for kind in KINDS if kind != "aes"])]
    return how | {"password": PASSWORD} if encrypted else how


class Editor:
    """Does to a folder what people do to theirs, the same for the same seed."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.pick = random.Random(seed)
        self.made = 0

    def paths(self, wanted: Callable[[Path], bool]) -> list[Path]:
        return sorted(path for path in self.top.rglob("*") if wanted(path))

    def folder(self) -> Path:
        folders = self.paths(lambda path: path.is_dir() and not path.is_symlink())
        return self.pick.choice([self.top, *folders])

    def a_file(self) -> Path | None:
        files = self.paths(lambda path: path.is_file() and not path.is_symlink())
        return self.pick.choice(files) if files else None

    def name(self) -> Path:
        """A new name, or one that was used before."""
        self.made += self.pick.random() < 0.7
        return self.folder() / f"n{self.pick.randint(0, self.made)}"

    def content(self) -> bytes:
        return prose(self.pick.randint(0, 300), self.pick.randint(0, 10**6))

    def step(self) -> None:
        """Make one change, or none."""
        act = self.pick.choice(
            [self.create, self.create, self.write, self.write, self.delete, self.move, self.swap,
             self.make_folder, self.link, self.hard_link, self.chmod]
        )  # fmt: skip
        act()

    def create(self) -> None:
        path = self.name()
        if not path.exists() and not path.is_symlink():
            path.write_bytes(self.content())

    def write(self) -> None:
        if path := self.a_file():
            path.write_bytes(self.content())

    def delete(self) -> None:
        paths = self.paths(lambda _: True)
        if paths:
            self.remove(self.pick.choice(paths))

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def move(self) -> None:
        paths, target = self.paths(lambda _: True), self.name()
        if paths and not target.exists() and not target.is_symlink():
            source = self.pick.choice(paths)
            if source not in target.parents:
                source.rename(target)

    def swap(self) -> None:
        """Put something of another type in the place of something."""
        paths = self.paths(lambda _: True)
        if paths:
            path = self.pick.choice(paths)
            was_folder = path.is_dir() and not path.is_symlink()
            self.remove(path)
            if was_folder:
                path.write_bytes(self.content())
            else:
                path.mkdir()

    def make_folder(self) -> None:
        path = self.name()
        if not path.exists() and not path.is_symlink():
            path.mkdir()

    def link(self) -> None:
        path = self.name()
        if not path.exists() and not path.is_symlink():
            path.symlink_to(self.pick.choice(["nowhere", ".", "../x"]))

    def hard_link(self) -> None:
        source, path = self.a_file(), self.name()
        if source is not None and not path.exists() and not path.is_symlink():
            os.link(source, path)

    def chmod(self) -> None:
        if path := self.a_file():
            path.chmod(self.pick.choice([0o600, 0o644, 0o755]))


@pytest.mark.parametrize("seed", range(12))
def test_any_chain_of_runs_gives_back_what_was_there(seed: int, tmp_path: Path) -> None:
    """Whatever happened between the runs, and in whatever modes and formats these were."""
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    editor = Editor(top, seed)
    for _ in range(12):
        for _ in range(editor.pick.randint(0, 6)):
            editor.step()
        before = memory.contents() if memory.snapshots else None
        mode = editor.pick.choice(["incremental", "incremental", "differential", "full"])
        how = any_kind(editor.pick, encrypted=seed % 3 == 0)
        done = memory.back_up(top, to=tmp_path / "to", mode=mode, dedupe=seed % 2 == 0, **how)
        assert done.report.errors == ()
        expected = on_disk(top)
        assert memory.contents() == expected
        for name, (fact, _, _) in memory.snapshots[-1].members.items():
            assert fact.mode == os.lstat(tmp_path / os.fsdecode(name)).st_mode & 0o7777
        if mode == "incremental" and before is not None and before != expected:
            assert done.report.status == "success"
        files = done.report.files
        assert files.total == sum(content is not None for content in expected.values())


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_that_vanishes_before_it_is_read_keeps_its_old_version(
    kind: str, tmp_path: Path
) -> None:
    """The run is complete, and the next one knows that it is gone (case 44)."""
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    (top / "stays").write_bytes(b"stays")
    (top / "goes").write_bytes(b"old")
    memory.back_up(top, to=tmp_path / "to", **FORMATS[kind])
    (top / "goes").write_bytes(b"newer")
    done = memory.back_up(
        top, to=tmp_path / "to", before_reading=lambda _: (top / "goes").unlink(), **FORMATS[kind]
    )
    assert done.report.status == "success"
    assert done.skipped == {str(top / "goes"): "vanished"}
    files = done.report.files
    assert (files.new, files.changed, files.unchanged, files.skipped) == (0, 0, 1, 1)
    assert memory.contents()["src/goes"] == b"old"
    done = memory.back_up(top, to=tmp_path / "to", **FORMATS[kind])
    assert done.manifest.gone == ["src/goes"]
    assert memory.contents() == on_disk(top)


def test_a_folder_that_vanishes_before_it_is_read_is_known_to_be_gone_later(
    tmp_path: Path,
) -> None:
    """(case 45)"""
    top, memory = tmp_path / "src", Memory()
    (top / "d").mkdir(parents=True)
    (top / "d" / "one").write_bytes(b"1")
    memory.back_up(top, to=tmp_path / "to")
    (top / "d" / "two").write_bytes(b"2")
    done = memory.back_up(
        top, to=tmp_path / "to", before_reading=lambda _: shutil.rmtree(top / "d")
    )
    assert done.report.status == "success"
    assert b"src/d/one" in memory.names
    assert b"src/d/two" not in memory.names
    done = memory.back_up(top, to=tmp_path / "to")
    assert sorted(done.manifest.gone) == ["src/d", "src/d/one"]
    assert memory.contents() == on_disk(top)


@pytest.mark.parametrize("act", [to_fifo, to_folder, to_link])
def test_what_changes_its_type_before_it_is_read_keeps_its_old_version(
    act: Callable[[Path], object], tmp_path: Path
) -> None:
    """(case 49)"""
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    (top / "victim").write_bytes(b"old")
    memory.back_up(top, to=tmp_path / "to", format="tar")
    (top / "victim").write_bytes(b"newer")
    done = memory.back_up(
        top, to=tmp_path / "to", format="tar", before_reading=lambda _: act(top / "victim")
    )
    assert done.errors == {str(top / "victim"): "type_changed"}
    assert memory.contents()["src/victim"] == b"old"
    done = memory.back_up(top, to=tmp_path / "to", format="tar")
    assert done.report.status == "success"
    assert (done.report.files.changed == 1) is (act is not to_folder)


def test_a_file_that_grows_while_it_is_read_is_as_long_as_what_was_stored(tmp_path: Path) -> None:
    """(cases 46, 47)"""
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    (top / "log").write_bytes(prose(9000))
    inode = (top / "log").stat().st_ino

    def read(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if os.fstat(fd).st_ino == inode:
            with (top / "log").open("ab") as file:
                file.write(b"more")
        return data

    done = memory.back_up(top, to=tmp_path / "to", read=read)
    record = done.records["src/log"]
    assert (record.changed, record.size) == (True, len(done.contents["src/log"]))
    assert memory.back_up(top, to=tmp_path / "to").report.files.changed == 1
    assert memory.contents() == on_disk(top)
