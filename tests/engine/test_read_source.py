"""Reading files that may move: retries, refusals, and nothing that hangs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pybak.backup import read_source
from pybak.backup.read_source import (
    filling,
    look_again,
    open_small,
    open_source,
    read_link,
    read_pieces,
    read_range,
    read_small,
    read_whole,
    state_of,
)
from pybak.errors import SourceError
from pybak.problems import IO_ERROR, TYPE_CHANGED, UNREADABLE, VANISHED


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleep not, and note for how long."""
    taken: list[float] = []
    monkeypatch.setattr(read_source.time, "sleep", taken.append)
    return taken


@pytest.fixture
def path(tmp_path: Path) -> bytes:
    (tmp_path / "f").write_bytes(b"0123456789" * 10)
    return os.fsencode(tmp_path / "f")


def scripted(script: str, number: int = errno.EIO) -> Any:
    """Give a `read` that follows a script of `r` and `E`, then reads on."""
    steps = iter(script)

    def read(fd: int, length: int, offset: int) -> bytes:
        if next(steps, "r") == "E":
            raise OSError(number, os.strerror(number))
        return os.pread(fd, length, offset)

    return read


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("script", ["", "E", "EE", "EEE"])
def test_a_read_is_tried_four_times(
    path: bytes, naps: list[float], script: str, number: int
) -> None:
    """With growing pauses (case 55)."""
    fd, _ = open_source(path)
    assert read_range(fd, 100, 0, scripted(script, number)) == b"0123456789" * 10
    assert len(naps) == len(script)
    assert naps == sorted(naps)
    assert sum(naps) < 2
    os.close(fd)


def test_the_fourth_failure_is_the_last(path: bytes, naps: list[float]) -> None:
    """(case 55)"""
    fd, _ = open_source(path)
    with pytest.raises(SourceError, match="near byte 40: input/output error") as caught:
        read_range(fd, 10, 40, scripted("EEEE"))
    assert caught.value.code == IO_ERROR
    assert len(naps) == 3
    os.close(fd)


def test_each_read_has_its_own_retries(path: bytes) -> None:
    """(case 55)"""
    fd, _ = open_source(path)
    read = scripted("EEErEEErEEEr")
    assert b"".join(read_pieces(fd, 0, 100, 40, read)) == b"0123456789" * 10
    os.close(fd)


def test_pieces_end_where_the_file_does(path: bytes) -> None:
    fd, _ = open_source(path)
    assert [len(piece) for piece in read_pieces(fd, 30, 1000, 40)] == [40, 30]
    assert list(read_pieces(fd, 100, 50, 40)) == []
    assert list(read_pieces(fd, 0, 0, 40)) == []
    os.close(fd)


def test_a_small_file_is_read_at_once(path: bytes) -> None:
    """If it is what it was opened as, and is not moved (case 47)."""
    assert open_small(path, 99) is None
    small = open_small(path, 100)
    assert small is not None
    fd, status = small
    assert state_of(status) == state_of(os.stat(path))
    assert read_small(fd, status) == b"0123456789" * 10
    os.utime(path, ns=(0, 1))
    assert read_small(fd, status) is None
    os.truncate(path, 50)
    assert read_small(fd, status) is None
    os.close(fd)
    assert read_small(fd, status) is None


def test_a_small_file_is_read_to_its_place(path: bytes) -> None:
    """If it has the size, and is not moved, that it was opened with (case 47)."""
    assert open_small(path, 99) is None
    small = open_small(path, 100)
    assert small is not None
    fd, status = small
    space = memoryview(bytearray(100))
    assert read_whole(fd, space, status)
    assert bytes(space) == b"0123456789" * 10
    assert not read_whole(fd, space, status)  # nothing comes behind the end
    os.lseek(fd, 0, os.SEEK_SET)
    os.utime(path, ns=(0, 1))
    assert not read_whole(fd, space, status)
    os.close(fd)
    assert not read_whole(fd, space, status)


def test_what_is_read_to_a_place_is_as_long_as_the_file(path: bytes, naps: list[float]) -> None:
    """And no longer; reads that fail are tried again (case 55)."""
    fd, _ = open_source(path)
    for read in (os.pread, scripted("rEEr")):
        space = memoryview(bytearray(70))
        assert filling(read)(fd, space, 40) == 60
        assert bytes(space) == b"0123456789" * 6 + bytes(10)
    with pytest.raises(SourceError, match="near byte 40"):
        filling(scripted("EEEE"))(fd, memoryview(bytearray(10)), 40)
    os.close(fd)


@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, path: bytes) -> None:
    """A FIFO nobody writes to, a link, a folder, a device (cases 32, 49)."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder", "/dev/null"):
        odd = os.fsencode(tmp_path / name)
        assert open_small(odd, 1000) is None
        with pytest.raises(SourceError) as caught:
            open_source(odd)
        assert caught.value.code == TYPE_CHANGED


@pytest.mark.parametrize(
    ("number", "code", "tries"),
    [
        (errno.ENOENT, VANISHED, 1),
        (errno.ENOTDIR, VANISHED, 1),
        (errno.EACCES, UNREADABLE, 1),
        (errno.EPERM, UNREADABLE, 1),
        (errno.ENAMETOOLONG, UNREADABLE, 1),
        (errno.ELOOP, TYPE_CHANGED, 1),
        (errno.EIO, IO_ERROR, 4),
        (errno.ESTALE, IO_ERROR, 4),
    ],
)
def test_an_open_that_fails_says_whose_fault_it_is(
    path: bytes, monkeypatch: pytest.MonkeyPatch, number: int, code: str, tries: int
) -> None:
    """(cases 44, 53, 55)"""
    calls = 0

    def fail(*_: object) -> int:
        nonlocal calls
        calls += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(read_source, "_open", fail)
    with pytest.raises(SourceError) as caught:
        open_source(path)
    assert (caught.value.code, calls) == (code, tries)


def test_a_file_that_is_lost_while_it_is_open_is_an_io_error(path: bytes) -> None:
    """As on network file systems."""
    fd, _ = open_source(path)
    os.close(fd)
    with pytest.raises(SourceError) as caught:
        look_again(fd)
    assert caught.value.code == IO_ERROR


def test_reading_leaves_the_access_time_alone(tmp_path: Path, path: bytes) -> None:
    """(case 19)"""

    def read_at_once() -> None:
        small = open_small(path, 1000)
        assert small is not None
        assert read_small(*small)
        os.close(small.fd)

    for read in (read_at_once, lambda: read_range(open_source(path)[0], 100, 0)):
        os.utime(path, ns=(10**18, 2 * 10**18))  # read before it was written: updated by any mount
        read()
        assert os.stat(path).st_atime_ns == 10**18


def test_descriptors_are_closed(path: bytes, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert open_small(path, 10) is None
        with pytest.raises(SourceError):
            open_source(os.fsencode(tmp_path / "folder"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_keeps_the_bytes_of_its_target(tmp_path: Path) -> None:
    """(case 4)"""
    link = os.fsencode(tmp_path / "link")
    os.symlink(b"\xff\xfe target\n", link)
    assert read_link(link) == b"\xff\xfe target\n"
    os.unlink(link)
    with pytest.raises(SourceError) as caught:
        read_link(link)
    assert caught.value.code == VANISHED
