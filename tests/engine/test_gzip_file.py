"""Single-file `.gz`: what other programs make of it, and sources that move or fail."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import struct
import subprocess
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backing_up import noise, prose
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_for

from pybak import gzip_file
from pybak.backup import read_source
from pybak.errors import SourceError, StorageError
from pybak.formats.deflate import deflater
from pybak.gzip_file import TEMPORARY_PREFIX, GzipResult
from pybak.problems import CHANGED, IO_ERROR, TYPE_CHANGED, UNREADABLE, VANISHED

PIECE = 100_000
NOON = 1_700_000_000_123_456_789
JUDGES = ["gzip -t", "pigz -t", "7zz t", "busybox gzip -t"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small files too, and don't wait between attempts."""
    monkeypatch.setattr(gzip_file, "WHOLE_LIMIT", PIECE)
    monkeypatch.setattr(
        gzip_file, "deflater", lambda level: replace(deflater(level), piece_bytes=PIECE)
    )
    monkeypatch.setattr(read_source.time, "sleep", lambda _: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "report.csv"
    path.write_bytes(prose(5 * PIECE + 17))
    path.chmod(0o640)
    os.utime(path, ns=(NOON, NOON))
    return path


def compress(source: Path, target: Path | None = None, **options: Any) -> tuple[Path, GzipResult]:
    target = target or source.with_name(source.name + ".gz")
    return target, gzip_file.gzip_file(os.fsencode(source), os.fsencode(target), **options)


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.needs_tool("gzip", "pigz", "7zz", "busybox", "bsdtar")
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 8 * PIECE + 5])
@pytest.mark.parametrize("content", [prose, noise])
@pytest.mark.parametrize(("level", "workers"), [(1, 2), (2, 1), (6, 3), (9, 2)])
def test_other_programs_read_what_is_written(
    tmp_path: Path, size: int, content: Any, level: int, workers: int
) -> None:
    """One member, whole or of pieces, with what does not compress stored (cases 14, 68)."""
    data = content(size)
    (tmp_path / "source").write_bytes(data)
    target, result = compress(tmp_path / "source", level=level, workers=workers)
    assert result == GzipResult(
        size, target.stat().st_size, hashlib.sha256(data).hexdigest(), zlib.crc32(data)
    )
    assert result.stored_size <= size + 100 + 5 * (size // 65535)
    for judge in JUDGES:
        subprocess.run([*judge.split(), target], check=True, capture_output=True)
    for program in ("gzip -dc", "pigz -dc", "busybox gzip -dc", "7zz x -so", "bsdcat"):
        done = subprocess.run([*program.split(), target], check=True, capture_output=True)
        assert done.stdout == data, program
    assert gzip.decompress(target.read_bytes()) == data
    member = zlib.decompressobj(31)
    assert member.decompress(target.read_bytes()) == data
    assert member.eof
    assert member.unused_data == b""


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4 * PIECE), st.integers(1, 9), st.integers(1, 3), st.binary(max_size=50))
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, size: int, level: int, workers: int, head: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = head + prose(size)
    (folder / "source").write_bytes(data)
    target, _ = compress(folder / "source", level=level, workers=workers)
    assert gzip.decompress(target.read_bytes()) == data


def test_the_number_of_workers_makes_no_difference(source: Path, tmp_path: Path) -> None:
    made = [
        compress(source, tmp_path / f"{workers}.gz", workers=workers)[0].read_bytes()
        for workers in (1, 2, 5)
    ]
    assert made[0] == made[1] == made[2]


def test_the_file_gets_the_time_and_the_mode_of_its_source(source: Path) -> None:
    """(case 19)"""
    target, _ = compress(source)
    status = target.stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777) == (NOON, 0o640)
    assert left_behind(target.parent) == []


def test_the_header_has_name_and_time(source: Path) -> None:
    target, _ = compress(source)
    head = target.read_bytes()
    assert head[:10] == b"\x1f\x8b\x08\x08" + struct.pack("<I", NOON // 10**9) + b"\0\x03"
    assert head[10:21] == b"report.csv\0"


@pytest.mark.needs_tool("gzip")
def test_gzip_gives_the_name_back(source: Path, tmp_path: Path) -> None:
    target, _ = compress(source, tmp_path / "other.gz")
    content = source.read_bytes()
    source.unlink()
    subprocess.run(["gzip", "-dN", target], check=True)
    assert source.read_bytes() == content
    assert source.stat().st_mtime == NOON // 10**9


@pytest.mark.parametrize(
    "name", ["\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode(), b"\xff", b"a\nb", b"\x1b[2J"]
)
def test_a_name_that_programs_would_read_differently_is_left_out(
    tmp_path: Path, name: bytes
) -> None:
    """(cases 3, 7)"""
    source = tmp_path / os.fsdecode(name)
    source.write_bytes(b"x")
    target, _ = compress(source)
    assert target.read_bytes()[3] == 0
    assert gzip.decompress(target.read_bytes()) == b"x"


def test_reproducible_files_depend_on_the_content_alone(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other name"
    other.write_bytes(source.read_bytes())
    one, _ = compress(source, tmp_path / "1.gz", reproducible=True, workers=2)
    two, _ = compress(other, tmp_path / "2.gz", reproducible=True)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[3:8] == bytes(5)


@pytest.mark.parametrize("seconds", [-1, -(2**31), 2**32, 2**33 - 1])
def test_a_time_that_has_no_place_in_the_header_is_left_out(source: Path, seconds: int) -> None:
    """(case 20)"""
    os.utime(source, (seconds, seconds))
    target, _ = compress(source)
    assert target.read_bytes()[4:8] == bytes(4)
    assert target.stat().st_mtime == source.stat().st_mtime == seconds


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_existing_target_is_left_alone(source: Path, tmp_path: Path, kind: str) -> None:
    """(case 82)"""
    target = tmp_path / "taken"
    match kind:
        case "file":
            target.write_bytes(b"old")
        case "folder":
            target.mkdir()
        case _:
            target.symlink_to("none")
    before = target.lstat()
    with pytest.raises(StorageError, match="taken: exists already; choose another name"):
        compress(source, target)
    assert target.lstat() == before
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("with_links", [True, False])
def test_a_target_that_appears_meanwhile_is_not_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_links: bool
) -> None:
    """On file systems without hard links too."""
    if not with_links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    target = tmp_path / "target.gz"

    def read(fd: int, length: int, offset: int) -> bytes:
        target.write_bytes(b"theirs")
        return os.pread(fd, length, offset)

    with pytest.raises(StorageError, match="exists already"):
        compress(source, target, read=read)
    assert target.read_bytes() == b"theirs"
    assert left_behind(tmp_path) == []


def failing(number: int) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def test_a_file_system_without_hard_links_will_do(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 106)"""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    target, _ = compress(source)
    assert gzip.decompress(target.read_bytes()) == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640
    assert left_behind(target.parent) == []


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [
        ("write", errno.ENOSPC, "no space left on the disk"),
        ("fsync", errno.EIO, "input/output error"),
        ("link", errno.EIO, "input/output error"),
        ("open", errno.EROFS, "the file system is read-only"),
        ("ftruncate", errno.EDQUOT, "the disk quota is used up"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fails_is_a_storage_error(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    message: str,
    workers: int,
) -> None:
    """Nothing is left behind, no thread either (cases 96, 105)."""
    threads = threading.active_count()
    target = tmp_path / "t.gz"
    real = os.open
    if call == "open":
        refuse = failing(number)
        monkeypatch.setattr(
            os, "open", lambda path, *a, **k: (refuse if b".tmp" in path else real)(path, *a, **k)
        )
    else:
        monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(StorageError, match=f"t.gz: {message}; check the disk"):
        compress(source, target, workers=workers)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]
    assert threading.active_count() == threads


def test_a_folder_that_can_not_be_brought_to_the_disk_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 105)"""
    real = os.fsync
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError):
        compress(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, VANISHED),
        (lambda path: path.mkdir(), TYPE_CHANGED),
        (lambda path: path.symlink_to("report.csv"), TYPE_CHANGED),
        (lambda path: os.mkfifo(path), TYPE_CHANGED),
    ],
)
def test_what_is_no_file_is_an_error_of_the_source(
    source: Path, tmp_path: Path, make: Any, code: str
) -> None:
    """(cases 32, 44, 49)"""
    make(tmp_path / "odd")
    with pytest.raises(SourceError) as caught:
        compress(tmp_path / "odd")
    assert caught.value.code == code
    assert not (tmp_path / "odd.gz").exists()


def test_a_file_that_may_not_be_read_is_an_error_of_the_source(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 53)"""
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(SourceError) as caught:
        compress(source)
    assert caught.value.code == UNREADABLE


@pytest.mark.parametrize("workers", [1, 3])
def test_a_read_error_is_an_error_of_the_source(source: Path, tmp_path: Path, workers: int) -> None:
    """(case 55)"""

    def read(fd: int, length: int, offset: int) -> bytes:
        if offset >= 3 * PIECE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(fd, length, offset)

    with pytest.raises(SourceError, match=r"near byte \d+: input/output error") as caught:
        compress(source, read=read, workers=workers)
    assert caught.value.code == IO_ERROR
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


CHANGES: dict[str, Any] = {
    "grows": lambda path: path.open("ab").write(b"more"),
    "shrinks": lambda path: os.truncate(path, PIECE),
    "is emptied": lambda path: os.truncate(path, 0),
    "is rewritten": lambda path: os.pwrite(os.open(path, os.O_WRONLY), b"new", 0),
    "has its time set back": lambda path: os.utime(path, (0, 0)),
}


def changing(path: Path, change: Any, times: int) -> Any:
    """Give a `read` that changes the file in the midst of its first passes over it."""
    left = [times]

    def read(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if offset == 0 and left[0]:
            left[0] -= 1
            change(path)
        return data

    return read


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [PIECE // 2, 5 * PIECE])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_changes_once_is_read_again(
    tmp_path: Path, change: str, size: int, workers: int
) -> None:
    """(cases 46-48)"""
    source = tmp_path / "log"
    source.write_bytes(prose(size))
    os.utime(source, ns=(NOON, NOON))
    read = changing(source, CHANGES[change], 1)
    target, result = compress(source, read=read, workers=workers)
    assert gzip.decompress(target.read_bytes()) == source.read_bytes()
    assert result.size == source.stat().st_size
    assert result.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns


@pytest.mark.parametrize("change", ["grows", "is rewritten"])
def test_a_file_that_goes_on_changing_is_left_out(tmp_path: Path, change: str) -> None:
    """(cases 46, 48)"""
    source = tmp_path / "log"
    source.write_bytes(prose(5 * PIECE))
    read = changing(source, CHANGES[change], 2)
    with pytest.raises(SourceError, match="changed while it was read") as caught:
        compress(source, read=read)
    assert caught.value.code == CHANGED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_an_interrupt_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    """(case 95)"""

    def read(fd: int, length: int, offset: int) -> bytes:
        assert left_behind(tmp_path) != []
        if offset:
            raise KeyboardInterrupt
        return os.pread(fd, length, offset)

    with pytest.raises(KeyboardInterrupt):
        compress(source, read=read, workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


def test_unfinished_files_have_a_name_that_tells(source: Path, tmp_path: Path) -> None:
    """(case 93)"""
    seen: list[str] = []

    def read(fd: int, length: int, offset: int) -> bytes:
        seen.extend(left_behind(tmp_path))
        return os.pread(fd, length, offset)

    compress(source, tmp_path / ("n" * 255), read=read)
    assert seen
    assert all(name.startswith(TEMPORARY_PREFIX.decode()) for name in seen)


def test_no_more_is_read_than_the_workers_can_take() -> None:
    """Or a large file would fill the memory of a machine whose disk writes slowly."""
    gate = threading.Event()
    taken: list[int] = []

    def pack(data: bytes) -> Any:
        gate.wait(30)
        return gzip_file._Packed(data, len(data), 0)

    def pieces() -> Any:
        for number in range(30):
            taken.append(number)
            yield b"x"

    packed: list[Any] = []
    thread = threading.Thread(target=lambda: packed.extend(gzip_file._pack_all(pack, pieces(), 2)))
    thread.start()
    wait_for(lambda: len(taken) >= 5, 10)
    time.sleep(0.1)
    assert len(taken) == 5
    gate.set()
    thread.join(30)
    assert len(packed) == len(taken) == 30
