"""Files that can't be read: tried again, then named and left out whole, and the rest is saved."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, TARS, back_up, judge_outcome, prose, unpacked
from moving import (
    KINDS,
    PART,
    SIZES,
    WHOLE,
    Moving,
    Script,
    make_source,
    others_are_there,
    rewrite,
    small_borders,
)

from pybak.problems import CHANGED, IO_ERROR, UNREADABLE


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make_source(tmp_path / "src")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", ["E", "EEE", "rEEr", "rrEEEr", "ErErE"])
def test_reads_that_fail_are_tried_again(
    src: Path, tmp_path: Path, size: int, script: str, kind: str
) -> None:
    """Up to three retries bring the file in whole (case 55)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    read = Script(victim, script.lstrip("r") if size < WHOLE else script)
    done = back_up(src, to=tmp_path / "out", threads=1, read=read, **FORMATS[kind])
    others_are_there(done)
    assert done.contents["src/victim"] == prose(size)
    assert (done.errors, done.report.exit_code) == ({}, 0)
    assert read.failures >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", ["EEEE", "rrEEEE"])
def test_a_file_that_can_not_be_read_is_left_out_whole(
    src: Path, tmp_path: Path, size: int, script: str, kind: str
) -> None:
    """Also when only one part of a large file fails: no trace of the member (case 55)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    if size < WHOLE:
        script = script.lstrip("r")  # it is read in one or two calls
    done = back_up(
        src, to=tmp_path / "out", threads=1, read=Script(victim, script), **FORMATS[kind]
    )
    others_are_there(done)
    assert "src/victim" not in done.contents
    assert "src/victim" not in done.records
    assert done.errors == {str(victim): IO_ERROR}
    (problem,) = done.report.errors
    assert "input/output error" in problem.message
    files = done.report.files
    assert (files.total, files.new, files.failed) == (3, 2, 1)
    assert done.report.bytes_read == 1000
    data = done.path.read_bytes()
    assert b"src/victim" not in (unpacked(data, kind) if kind in TARS else data)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_errors_that_do_not_pass_are_not_retried(src: Path, tmp_path: Path, kind: str) -> None:
    calls = 0

    def read(fd: int, length: int, offset: int) -> bytes:
        nonlocal calls
        calls += 1
        raise OSError(errno.EBADMSG, "bad message")

    done = back_up(
        src / "victim", src / "before", to=tmp_path / "out", threads=1, read=read, **FORMATS[kind]
    )
    assert calls == 2
    assert set(done.errors.values()) == {IO_ERROR}
    judge_outcome(done)
    assert done.contents == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_may_not_be_read_is_named(
    src: Path, tmp_path: Path, size: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are saved (case 53)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    refuse_to_open(victim, monkeypatch)
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(victim): UNREADABLE}
    assert done.report.exit_code == 3


def refuse_to_open(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, real = os.fsencode(victim), os.open

    def refuse(path: Any, *args: Any, **more: Any) -> int:
        if path == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_whose_name_is_no_utf8_can_fail_too(
    tmp_path: Path, size: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name reaches the report byte by byte (cases 3, 53)."""
    src = make_source(tmp_path / "src")
    victim = Path(os.fsdecode(os.fsencode(src) + b"/caf\xe9"))
    victim.write_bytes(prose(size))
    refuse_to_open(victim, monkeypatch)
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(victim): UNREADABLE}
    assert os.fsencode(next(iter(done.errors))).endswith(b"caf\xe9")


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_whose_name_is_no_utf8_can_change_too(tmp_path: Path, kind: str) -> None:
    """(cases 3, 48)"""
    src = make_source(tmp_path / "src")
    victim = Path(os.fsdecode(os.fsencode(src) + b"/\xff\xfe"))
    victim.write_bytes(prose(2 * PART))

    def touch(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if os.fstat(fd).st_ino == inode:
            with victim.open("ab") as file:
                file.write(b"more")
        return data

    inode = victim.stat().st_ino
    from pybak.backup import compress as compress_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compress_module.compress_batch, "__kwdefaults__",
            compress_module.compress_batch.__kwdefaults__ | {"read": touch},
        )  # fmt: skip
        done = back_up(src, to=tmp_path / "out", read=touch, **FORMATS[kind])
    judge_outcome(done)
    assert done.errors == {str(victim): CHANGED}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_open_whatever_fails(
    src: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors of sources, segments and archive."""
    for number, size in enumerate((100, 40_000, 200_000)):
        victim = src / f"victim{number}"
        victim.write_bytes(prose(size))
    bad = {path.stat().st_ino for path in src.glob("victim?")}

    def read(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino in bad and offset + length > size_of(fd) // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(fd, length, offset)

    def size_of(fd: int) -> int:
        return os.fstat(fd).st_size

    back_up(src / "before", to=tmp_path / "warm", **FORMATS[kind])
    before = len(os.listdir("/proc/self/fd"))
    done = back_up(src, to=tmp_path / "out", read=read, **FORMATS[kind])
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(done.errors) == 3
    others_are_there(done)


@pytest.mark.parametrize("fails", [False, True])
def test_what_zip_loses_of_a_large_file_is_counted_once_or_not_at_all(
    src: Path, tmp_path: Path, fails: bool
) -> None:
    """Made twice because it changed, or left out because it can't be read (cases 29, 48, 55)."""
    victim = src / "victim"
    victim.write_bytes(prose(200_000))
    os.link(victim, tmp_path / "outside")
    read = Script(victim, "rrEEEE") if fails else Moving(victim, rewrite, times=1)
    done = back_up(src, to=tmp_path / "out", threads=1, read=read)
    others_are_there(done)
    assert done.report.lost == ({} if fails else {"hard_links": 1})
    assert done.errors == ({str(victim): IO_ERROR} if fails else {})
