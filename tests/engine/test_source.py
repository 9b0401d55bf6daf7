"""Sources: one file, and volumes laid end to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.formats.source import FileSource, JoinedSource, damaged, pread_all

WHOLE = bytes(range(256)) * 4


def joined(folder: Path, sizes: list[int]) -> JoinedSource:
    at = 0
    sources = []
    for number, size in enumerate(sizes, 1):
        path = folder / f"x.zip.{number:03d}"
        path.write_bytes(WHOLE[at : at + size])
        sources.append(FileSource(os.fsencode(path)))
        at += size
    return JoinedSource(sources, label="x.zip")


def test_a_file_is_read_at_any_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE)
    source = FileSource(os.fsencode(tmp_path / "x"))
    assert source.size == len(WHOLE)
    assert source.pread(10, 5) == WHOLE[5:15]
    assert source.pread(99, len(WHOLE) - 3) == WHOLE[-3:]
    assert source.pread(10, 5000) == b""
    assert source.place(0, 10) == ""
    (identity,) = source.identity
    status = (tmp_path / "x").stat()
    assert (identity.size, identity.mtime_ns, identity.inode) == (
        status.st_size, status.st_mtime_ns, status.st_ino,
    )  # fmt: skip
    source.close()
    source.close()


def test_a_descriptor_is_read_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE)
    with (tmp_path / "x").open("rb") as opened:
        source = FileSource(opened.fileno(), label="mine")
        assert source.label == "mine"
        source.close()
        assert opened.read(3) == WHOLE[:3]


def test_what_is_no_file_is_told_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(PlanError, match="is no file"):
            FileSource(os.fsencode(tmp_path / name))
    with pytest.raises(NotFoundError, match="no such archive"):
        FileSource(os.fsencode(tmp_path / "missing"))
    with pytest.raises(PlanError, match="is no path"):
        FileSource(b"a\0b")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=8),
    length=st.integers(0, 300),
    offset=st.integers(0, 800),
)
def test_joined_volumes_read_as_cat_joins_them(
    tmp_path: Path, sizes: list[int], length: int, offset: int
) -> None:
    source = joined(tmp_path, sizes)
    whole = WHOLE[: sum(sizes)]
    assert source.size == len(whole)
    assert source.pread(length, offset) == whole[offset : offset + length]
    assert len(source.identity) == len(sizes)
    source.close()


def test_the_volumes_of_bytes_are_named(tmp_path: Path) -> None:
    source = joined(tmp_path, [10, 10, 10, 5])
    assert source.place(0, 10) == " (in x.zip.001)"
    assert source.place(10, 1) == " (in x.zip.002)"
    assert source.place(9, 2) == " (in x.zip.001 and x.zip.002)"
    assert source.place(9, 26) == " (in x.zip.001 to x.zip.004)"
    assert source.place(99, 5) == " (in x.zip.004)"


def test_a_volume_that_shrinks_leaves_a_gap_and_moves_nothing(tmp_path: Path) -> None:
    source = joined(tmp_path, [10, 10])
    os.truncate(tmp_path / "x.zip.001", 5)
    assert source.pread(20, 0) == WHOLE[:5]
    assert source.pread(5, 10) == WHOLE[10:15]
    with pytest.raises(ArchiveError, match=r"x.zip: is cut short; see whether all its volumes"):
        pread_all(source, 20, 0)


def test_the_advice_for_one_file_is_another_copy(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE)
    source = FileSource(os.fsencode(tmp_path / "x"))
    assert str(damaged(source, "is bad")).endswith("x: is bad; use another copy of it")
    with pytest.raises(ValueError, match="no volumes"):
        JoinedSource([], label="x")
