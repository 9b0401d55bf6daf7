"""Segments and their indexes: made twice, torn, called off, and never mixed up."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import FORMATS, back_up, prose
from moving import PART, PIECE, make_source, small_borders

from pybak.backup import compress as compress_module
from pybak.backup.compress import compress_batches
from pybak.backup.segments import SegmentIndex, SegmentWriter, publish_index, read_index
from pybak.errors import Interrupted, StorageError
from pybak.problems import IO_ERROR, Problem, pack_problems, unpack_problems
from pybak.staging import write_once

KINDS = ["zip", "tar", "tar.gz"]


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make_source(tmp_path / "src")


class Staged:
    """The engine's own files of a run whose batches a test compresses by hand."""

    def __init__(self, source: Path, work: Path, **options: Any) -> None:
        self.folder = work

        def stop(run: Any) -> None:
            shutil.copytree(run.staging, work)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(source, to=work.parent / "unused", before_reading=stop, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_there_is_not_made_again(src: Path, tmp_path: Path, kind: str) -> None:
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    assert compress_batches(staged.folder, [0]) == 1
    before = sorted((staged.folder / "segments").iterdir())
    shutil.rmtree(src)  # what is not there can't be read again
    assert compress_batches(staged.folder, [0]) == 1
    assert sorted((staged.folder / "segments").iterdir()) == before
    assert read_index(staged.folder, 0).files == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_batch_is_made_again_the_same(src: Path, tmp_path: Path, kind: str) -> None:
    """A segment without its index counts for nothing."""
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    compress_batches(staged.folder, [0])
    first = read_index(staged.folder, 0)
    segment = staged.folder / "segments" / first.segment
    whole = segment.read_bytes()
    (staged.folder / "segments/0000000.index").unlink()
    segment.write_bytes(whole[:100])
    compress_batches(staged.folder, [0])
    again = read_index(staged.folder, 0)
    assert again.segment != first.segment
    assert (staged.folder / "segments" / again.segment).read_bytes() == whole
    assert msgspec.structs.replace(again, segment=first.segment) == first


def late(src: Path) -> Callable[[int, int, int], bytes]:
    """Give a `read` that changes what comes first in the folder."""

    def read(fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset).swapcase()

    assert (src / "before").read_bytes().swapcase() != (src / "before").read_bytes()
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_whoever_finishes_a_batch_second_does_not_touch_it(
    src: Path, tmp_path: Path, links: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index at any moment belongs to the segment that it names."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    segments = staged.folder / "segments"

    def good() -> bool:
        index = read_index(staged.folder, 0)
        data = (segments / index.segment).read_bytes()
        return hashlib.sha256(data).hexdigest() == index.sha256

    def advance(_files: int, _size: int, _path: bytes) -> None:
        # The other worker is through before this one has read its first file.
        if not (segments / "0000000.index").exists():
            compress_batches(staged.folder, [0])
            assert good()

    def look(folder: Path, number: int, index: SegmentIndex) -> bool:
        if (segments / "0000000.index").exists():
            assert good(), "another segment took the place of the one that the index is of"
        return publish_index(folder, number, index)

    monkeypatch.setattr(compress_module, "publish_index", look)
    compress_batches(staged.folder, [0], advance=advance, read=late(src))
    assert good()
    names = {path.name for path in segments.iterdir()}
    assert "0000000.index" in names
    assert len(names) == 2


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_what_is_written_once_stays(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is left behind, nor is anything half-written ever there."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "link", refuse)
    assert write_once(tmp_path / "a", b"first")
    assert not write_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        write_once(tmp_path / "b", b"third")
    assert os.listdir(tmp_path) == ["a"]


def test_an_index_keeps_names_of_any_bytes(tmp_path: Path) -> None:
    """(case 3)"""
    found = [
        Problem(os.fsdecode(b"/caf\xe9/\xff\n"), IO_ERROR, os.fsdecode(b"attribute \xfe")),
        Problem("/gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\u2028x", IO_ERROR, "\N{SNOWMAN}"),
    ]
    assert unpack_problems(pack_problems(found)) == found
    (tmp_path / "segments").mkdir()
    index = SegmentIndex("s", 0, "", packed_problems=pack_problems(found))
    assert publish_index(tmp_path, 7, index)
    assert read_index(tmp_path, 7).problems == found
    assert SegmentIndex("s", 0, "").problems == []


def test_a_cancel_stops_inside_a_part_of_a_large_file(src: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        (src / "large").write_bytes(prose(2 * PART))
        staged = Staged(src, tmp_path / f"work-{kind}", **FORMATS[kind])
        seen = 0

        def advance(_files: int, size: int, _path: bytes, staged: Staged = staged) -> None:
            nonlocal seen
            seen += size
            (staged.folder / "cancel").touch()

        with pytest.raises(Interrupted):
            compress_batches(staged.folder, [1], advance=advance)
        assert seen == PIECE
        assert list((staged.folder / "segments").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_stops_inside_a_file_in_pieces(src: Path, tmp_path: Path, kind: str) -> None:
    (src / "a-middle").write_bytes(prose(5 * PIECE))
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    seen = 0

    def advance(_files: int, size: int, _path: bytes) -> None:
        nonlocal seen
        seen += size
        (staged.folder / "cancel").touch()

    with pytest.raises(Interrupted):
        compress_batches(staged.folder, [0], advance=advance)
    assert seen <= PIECE + 500  # the file before it may have come first
    assert list((staged.folder / "segments").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_stops_between_batches_and_inside_one(
    src: Path, tmp_path: Path, kind: str
) -> None:
    for number in range(400):
        (src / f"f{number:03d}").write_bytes(b"x")
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    seen = 0

    def advance(files: int, _size: int, _path: bytes) -> None:
        nonlocal seen
        seen += files
        if seen == 1:
            (staged.folder / "cancel").touch()

    with pytest.raises(Interrupted):
        compress_batches(staged.folder, [0], advance=advance)
    assert seen < 400
    assert list((staged.folder / "segments").iterdir()) == []
    with pytest.raises(Interrupted):
        compress_batches(staged.folder, [0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_staging_folder_that_is_gone_says_what_to_do(
    src: Path, tmp_path: Path, kind: str
) -> None:
    staged = Staged(src, tmp_path / "work", **FORMATS[kind])
    shutil.rmtree(staged.folder / "segments")
    with pytest.raises(StorageError, match="--staging"):
        compress_batches(staged.folder, [0])


def test_a_disk_that_is_full_leaves_no_source_open(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the segment fails while a source is open (case 96)."""
    (src / "a-middle").write_bytes(prose(5 * PIECE))
    staged = Staged(src, tmp_path / "work", format="tar")

    def full(self: SegmentWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SegmentWriter, "_flush", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageError, match="no space left on the disk"):
        compress_batches(staged.folder, [0])
    assert len(os.listdir("/proc/self/fd")) == before
    assert list((staged.folder / "segments").iterdir()) == []


def test_a_segment_goes_back_to_a_mark_as_often_as_asked(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "s") as out:
        out.add(b"kept", b" too")
        mark = out.mark()
        for _ in range(3):
            out.add(b"x" * 3_000_000)
            out.add(b"y")
            out.go_back(mark)
        assert out.size == 8
        out.add_two(b" and", b" this")
        digest = out.sha256()
    data = (tmp_path / "s").read_bytes()
    assert data == b"kept too and this"
    assert (out.size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
