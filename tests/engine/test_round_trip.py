"""What a backup writes, a restore brings back, in every format; judged by a walk of its own."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from backing_up import FORMATS, PASSWORD, back_up
from restoring import restore, tree

from pybak.problems import UNSUPPORTED
from pybak.verify.check import plan_verify, verify_batch

WAYS = {
    **FORMATS,
    "zip volumes": {"split": "100kB"},
    "zst volumes": {"format": "tar.zst", "split": "100kB"},
    "wrapped": {"format": "tar.gz", "password": PASSWORD},
    "hidden names": {"hide_names": True, "password": PASSWORD},
    "wrapped volumes": {"format": "tar.zst", "password": PASSWORD, "split": "100kB"},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    top = tmp_path / "src"
    (top / "sub/empty").mkdir(parents=True)
    chance = random.Random(7)
    (top / "random").write_bytes(chance.randbytes(300_000))
    (top / "text").write_bytes(b"all work and no play " * 20_000)
    (top / "zero").touch()
    (top / "sub/odd \udcff\n").write_bytes(b"odd")
    (top / "sub/read-only").write_bytes(b"x")
    (top / "sub/read-only").chmod(0o444)
    (top / "link").symlink_to("sub/no such")
    os.utime(top / "text", ns=(0, 1_600_000_000_123_456_789))
    os.utime(top / "sub", ns=(0, 1_500_000_000_000_000_001))
    return top


def files_of(done: object) -> list[bytes]:
    return [os.fsencode(path) for path in done.files]  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS)
def test_a_tree_comes_back(tmp_path: Path, source: Path, target: Path, way: str) -> None:
    """(cases 4, 14, 17, 18, 19, 69)"""
    done = back_up(source, to=tmp_path / "out", **WAYS[way])
    password = WAYS[way].get("password")
    result = restore(files_of(done), target, password=password)
    assert (result.failed, result.problems) == (0, [])
    assert tree(target / "src") == tree(source)
    work = tmp_path / "work"
    work.mkdir()
    plan = plan_verify(files_of(done), work_dir=work, tasks=3, password=password)
    checked = [verify_batch(batch, password=password) for batch in plan.batches]
    assert plan.problems == ()
    assert sum(one.members for one in checked) == plan.members
    assert all(one.problems_file.stat().st_size == 0 for one in checked)


@pytest.mark.parametrize("way", ["tar", "tar.gz", "tar.bz2", "tar.zst"])
def test_all_that_tar_keeps_comes_back(
    tmp_path: Path, source: Path, target: Path, way: str
) -> None:
    """Hard links, FIFOs, holes, attributes (cases 23, 29, 32, 35)."""
    (source / "other").hardlink_to(source / "random")
    os.mkfifo(source / "fifo")
    with (source / "sparse").open("wb") as out:
        out.truncate(40 << 20)
        out.seek(20 << 20)
        out.write(b"data" * 2000)
    os.setxattr(source / "text", b"user.note", b"\x00\xff")
    os.setxattr(source / "sub", b"user.note", b"folder")
    done = back_up(source, to=tmp_path / "out", **WAYS[way])
    result = restore(files_of(done), target)
    assert result.problems == []
    back = target / "src"
    assert tree(back) == tree(source)
    assert (back / "other").stat().st_ino == (back / "random").stat().st_ino
    assert stat.S_ISFIFO((back / "fifo").stat().st_mode)
    assert (back / "sparse").stat().st_blocks * 512 <= 32 << 10
    assert os.getxattr(back / "text", b"user.note") == b"\x00\xff"
    assert os.getxattr(back / "sub", b"user.note") == b"folder"


def test_zip_brings_sparse_files_back_sparse(tmp_path: Path, source: Path, target: Path) -> None:
    """(case 35)"""
    with (source / "sparse").open("wb") as out:
        out.truncate(40 << 20)
        out.seek(20 << 20)
        out.write(b"data" * 2000)
    done = back_up(source, to=tmp_path / "out")
    assert set(restore(files_of(done), target).codes.values()) <= {UNSUPPORTED}
    assert tree(target / "src") == tree(source)
    assert (target / "src/sparse").stat().st_blocks * 512 <= 32 << 10


@pytest.mark.parametrize("way", WAYS)
def test_one_file_is_restored_without_the_rest(
    tmp_path: Path, source: Path, target: Path, way: str
) -> None:
    done = back_up(source, to=tmp_path / "out", **WAYS[way])
    result = restore(
        files_of(done), target, include=["read-only"], password=WAYS[way].get("password")
    )
    assert result.counts == (1, 0, 0)
    assert (target / "src/sub/read-only").read_bytes() == b"x"
