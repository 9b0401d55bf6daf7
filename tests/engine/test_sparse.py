"""Sparse files: where their data is, how it is cut, and that what is written reads back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from backing_up import FORMATS, TARS, Outcome, back_up, judge_outcome, noise, prose, run_tool
from hypothesis import given
from hypothesis import strategies as st
from moving import PART, make_source, others_are_there, small_borders

from pybak.backup import compress as compress_module
from pybak.backup.pack_zip import HOLES
from pybak.backup.parts import cut_parts
from pybak.formats import sparse as sparse_module
from pybak.formats.sparse import Run, cut_runs, data_runs, data_size, may_have_holes
from pybak.problems import CHANGED

K = 4096
UNIT = 512

Runs = list[Run]
Shape = tuple[int, Runs]
"""A file's size and where data is written into it, as offset and length."""

SHAPES: dict[str, Shape] = {
    "hole at the start": (40 * K, [(30 * K, 10 * K)]),
    "hole in the middle": (60 * K, [(0, 5 * K), (50 * K, 10 * K)]),
    "hole at the end": (50 * K, [(0, 3 * K)]),
    "hole at the end, odd": (50 * K + 77, [(0, 3 * K)]),
    "all hole": (64 * K, []),
    "all hole, odd": (64 * K + 1, []),
    "one byte in a hole": (64 * K + 100, [(20 * K + 9, 1)]),
    "ends in odd data": (64 * K + 333, [(64 * K, 333)]),
    "comb": (200 * K, [(at * K, K) for at in range(0, 200, 4)]),
    "data of a large file": (1000 * K, [(10 * K, 60 * K), (500 * K, 70 * K)]),
    "comb of a large file": (900 * K, [(at * K, 3 * K) for at in range(2, 900, 15)]),
    "large file's end in data": (900 * K + 5, [(0, 20 * K), (880 * K, 20 * K + 5)]),
}


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


def make(path: Path, size: int, runs: Runs) -> bytes:
    """Write a sparse file; give its content."""
    content = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for seed, (start, length) in enumerate(runs):
            data = noise(length, seed) if seed % 2 else prose(length, seed)
            content[start : start + length] = data
            file.seek(start)
            file.write(data)
    return bytes(content)


def runs_of(path: Path) -> Runs | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return data_runs(fd, path.stat().st_size)
    finally:
        os.close(fd)


def check_map(runs: Runs, size: int) -> None:
    """Check what tar wants of a map."""
    end = -1
    for start, length in runs:
        assert start > end
        assert length > 0
        assert start % UNIT == 0
        end = start + length
        assert end % UNIT == 0 or end == size
    assert end <= size


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_has_all_data_and_no_whole_hole(tmp_path: Path, shape: str) -> None:
    """(case 35)"""
    size, wanted = SHAPES[shape]
    content = make(tmp_path / "f", size, wanted)
    runs = runs_of(tmp_path / "f")
    assert runs is not None
    assert may_have_holes((tmp_path / "f").stat())
    check_map(runs, size)
    rest = bytearray(content)
    for start, length in runs:
        rest[start : start + length] = bytes(length)
    assert not any(rest)
    # Nothing but the file system's blocks around the data.
    assert data_size(runs) <= sum(length + 2 * K for _, length in wanted)


@pytest.mark.parametrize("size", [0, 1, K, 20 * K + 3])
def test_a_file_without_holes_has_no_map(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(noise(size))
    assert runs_of(tmp_path / "f") is None


def test_a_file_system_that_can_not_tell_gives_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "f", 10 * K, [])

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "lseek", refuse)
    assert runs_of(tmp_path / "f") is None
    monkeypatch.delattr(os, "SEEK_DATA")
    assert runs_of(tmp_path / "f") is None


def test_a_file_in_too_many_pieces_gives_no_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_module, "_MOST_RUNS", 10)
    make(tmp_path / "f", *SHAPES["comb"])
    assert runs_of(tmp_path / "f") is None


@given(
    answers=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), max_size=20),
    size=st.integers(1, 9000),
)
def test_whatever_a_moving_file_answers_the_map_is_one(
    answers: list[tuple[int, int]], size: int
) -> None:
    """The two questions are asked apart, and a hole may be made or filled between them."""
    left = iter(answers)
    pair: list[int] = []

    def lseek(_fd: int, at: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            found = next(left, None)
            if found is None or at + found[0] % 1000 >= size:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            pair[:] = [at + found[0] % 1000, found[1] % 1000]
            return pair[0]
        return at + pair[1]  # perhaps at once: it is a hole by now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "lseek", lseek)
        runs = data_runs(-1, size)
    if runs is not None:
        check_map(runs, size)


@given(
    lengths=st.lists(st.integers(1, 3000), max_size=12),
    gaps=st.lists(st.integers(1, 3000), min_size=12, max_size=12),
    length=st.integers(1, 5000),
)
def test_runs_are_cut_into_groups_of_one_size(
    lengths: list[int], gaps: list[int], length: int
) -> None:
    runs, at = [], 0
    for gap, run in zip(gaps, lengths, strict=False):
        runs.append((at + gap, run))
        at += gap + run
    groups = list(cut_runs(runs, length))
    assert [data_size(group) for group in groups[:-1]] == [length] * (len(groups) - 1)
    assert all(0 < data_size(group) <= length for group in groups)
    cells = [cell for group in groups for start, size in group for cell in (start, start + size)]
    assert cells == sorted(cells)
    assert sum(map(data_size, groups)) == data_size(runs)


@given(size=st.integers(0, 10_000), count=st.integers(1, 20))
def test_a_given_number_of_parts_covers_any_file(size: int, count: int) -> None:
    """Some are empty where there are more parts than bytes."""
    parts = list(cut_parts(size, count=count))
    assert [part.number for part in parts] == list(range(count))
    assert all(part.count == count and part.total == size for part in parts)
    at = 0
    for part in parts:
        for start, length in part.runs:
            assert start == at
            at += length
    assert at == size


def holes_are_there(done: Outcome, name: str, content: bytes, unpacked: Path) -> None:
    """Unpack by GNU tar and bsdtar and compare contents and what they take on the disk."""
    for program in ("tar", "bsdtar"):
        folder = unpacked / program
        folder.mkdir(parents=True)
        run_tool(program, "-xf", done.path, "-C", folder, name)
        path = folder / name
        assert path.read_bytes() == content, program
        runs = runs_of(path)
        assert path.stat().st_blocks * 512 <= 2 * data_size(runs or []) + 16 * K, program


@pytest.mark.needs_tool("tar", "bsdtar", "zstd")
@pytest.mark.parametrize("kind", ["tar", "tar.zst"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_tar_a_sparse_file_stays_sparse_for_all(tmp_path: Path, shape: str, kind: str) -> None:
    """Cut into parts too, where its data is that large (case 35)."""
    size, wanted = SHAPES[shape]
    src = make_source(tmp_path / "src")
    content = make(src / "sparse", size, wanted)
    done = back_up(src, to=tmp_path / "out", format=kind)
    others_are_there(done)
    assert done.contents["src/sparse"] == content
    assert (done.errors, done.report.lost) == ({}, {})
    record = done.records["src/sparse"]
    runs = runs_of(src / "sparse")
    assert (record.size, record.sparse) == (size, runs)
    assert bool(record.parts) == (data_size(runs or []) > PART)
    assert done.report.bytes_stored < data_size(runs or []) + 30 * K
    assert done.report.bytes_read == data_size(runs or []) + 11_000
    holes_are_there(done, "src/sparse", content, tmp_path / "u")


@pytest.mark.parametrize("kind", ["zip", "aes"])
@pytest.mark.parametrize("shape", ["hole in the middle", "all hole", "data of a large file"])
def test_in_zip_a_sparse_file_is_stored_whole_and_said_to_be(
    tmp_path: Path, shape: str, kind: str
) -> None:
    """(case 35)"""
    size, wanted = SHAPES[shape]
    src = make_source(tmp_path / "src")
    content = make(src / "sparse", size, wanted)
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    others_are_there(done)
    assert done.contents["src/sparse"] == content
    assert done.records["src/sparse"].holes
    assert not done.records["src/victim"].holes
    assert done.report.lost == {HOLES: 1}
    assert "holes of 1 file, stored as zeros" in done.report.to_text()


@pytest.mark.parametrize("kind", TARS)
def test_a_hole_of_a_gibibyte_costs_nothing(tmp_path: Path, kind: str) -> None:
    """(case 35)"""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    done = back_up(path, to=tmp_path / "out", format=kind)
    assert done.report.bytes_stored < 12_000
    assert done.report.bytes_read == 0
    record = done.records["f"]
    assert (record.size, record.sparse) == (1 << 30, [])
    with done.opened_tar() as archive:
        assert archive.getmember("f").size == 1 << 30
    assert f" {1 << 30} " in run_tool("tar", "-tvf", done.path)


@pytest.mark.parametrize("size", [9 << 30, (9 << 30) + 1])
def test_a_sparse_file_of_more_than_8_gib_is_told_right(tmp_path: Path, size: int) -> None:
    """(case 36)"""
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 300)
        file.write(b"e" * 300)
    (tmp_path / "z").write_bytes(b"behind")
    done = back_up(path, tmp_path / "z", to=tmp_path / "out", format="tar")
    judge_outcome(done)
    assert done.read("z") == b"behind"
    assert done.records["f"].size == size
    for program in ("tar", "bsdtar"):
        assert f" {size} " in run_tool(program, "-tvf", done.path)
        target = tmp_path / program
        target.mkdir()
        run_tool(program, "-xf", done.path, "-C", target, "f")
        assert (target / "f").stat().st_size == size
        with (target / "f").open("rb") as file:
            file.seek(size - 300)
            assert file.read() == b"e" * 300


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize("shape", ["hole in the middle", "data of a large file"])
def test_a_hole_that_is_filled_before_the_file_is_opened_is_seen(
    tmp_path: Path, shape: str, kind: str
) -> None:
    """The map is of the file that was read (cases 35, 48)."""
    size, wanted = SHAPES[shape]
    src = make_source(tmp_path / "src")
    content = bytearray(make(src / "sparse", size, wanted))
    hole = 20 * K if size < 100 * K else 300 * K

    def fill(_run: object) -> None:
        with (src / "sparse").open("r+b") as file:
            file.seek(hole)
            file.write(b"filled")

    content[hole : hole + 6] = b"filled"
    done = back_up(src, to=tmp_path / "out", format=kind, before_reading=fill)
    others_are_there(done)
    assert done.contents["src/sparse"] == bytes(content)
    assert done.errors == {}


def test_a_large_sparse_file_whose_map_moves_on_is_flagged_and_readable(tmp_path: Path) -> None:
    """(case 48)"""
    size, wanted = SHAPES["comb of a large file"]
    src = make_source(tmp_path / "src")
    make(src / "sparse", size, wanted)
    inode = (src / "sparse").stat().st_ino
    times = 0

    def read(fd: int, length: int, offset: int) -> bytes:
        nonlocal times
        if os.fstat(fd).st_ino == inode:
            times += 1
            with (src / "sparse").open("r+b") as file:
                file.seek((times * 17 * K) % size)
                file.write(b"moved")
        return os.pread(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compress_module.compress_batch, "__kwdefaults__",
            compress_module.compress_batch.__kwdefaults__ | {"read": read},
        )  # fmt: skip
        done = back_up(src, to=tmp_path / "out", format="tar", read=read)
    others_are_there(done)
    assert done.errors == {str(src / "sparse"): CHANGED}
    assert done.records["src/sparse"].changed
    assert len(done.contents["src/sparse"]) == size


def test_folders_above_a_large_sparse_file_that_is_small_after_all_are_there_once(
    tmp_path: Path,
) -> None:
    """They were kept back for its parts, and it has none."""
    src = tmp_path / "src"
    (src / "a/b").mkdir(parents=True)
    make(src / "a/b/f", 200 * K, [(0, K)])
    (src / "a/b").chmod(0o500)
    os.utime(src / "a", (0, 10**9))
    done = back_up(src, to=tmp_path / "out", format="tar")
    judge_outcome(done)
    assert sorted(done.contents) == ["src/", "src/a/", "src/a/b/", "src/a/b/f"]
    target = tmp_path / "u"
    target.mkdir()
    run_tool("tar", "-xpf", done.path, "-C", target)
    assert (target / "src/a/b").stat().st_mode & 0o777 == 0o500
    assert (target / "src/a").stat().st_mtime == 10**9
