"""Compressing files of any size into archives of any format."""

from __future__ import annotations

import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, TARS, back_up, judge_outcome, noise, prose
from moving import (
    KINDS,
    PART,
    PIECE,
    SIZES,
    WHOLE,
    append,
    make_source,
    others_are_there,
    small_borders,
)

from pybak.backup.batches import Job
from pybak.backup.compress import NOBODY, compress_batches
from pybak.backup.packing import Work
from pybak.backup.segments import SegmentWriter
from pybak.errors import PlanError
from pybak.formats import zip_records
from pybak.problems import TYPE_CHANGED, UNREADABLE, UNSUPPORTED


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make_source(tmp_path / "src")


BORDERS = [0, 1, 511, 512, 513, PIECE - 512, PIECE - 511, WHOLE - 1, WHOLE, WHOLE + 1,
           WHOLE + PIECE, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7]  # fmt: skip


@pytest.mark.parametrize("content", [prose, noise])
@pytest.mark.parametrize("level", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_size_comes_back(
    tmp_path: Path, content: Callable[[int], bytes], level: int, kind: str
) -> None:
    """Whole files, files in pieces and files in parts, at the borders between (case 14)."""
    src = tmp_path / "src"
    src.mkdir()
    for size in BORDERS:
        (src / str(size)).write_bytes(content(size))
    done = back_up(src, to=tmp_path / "out", level=level, **FORMATS[kind])
    wanted = {f"src/{size}": content(size) for size in BORDERS}
    assert done.contents == {"src/": b"", **wanted}
    large = [size for size in BORDERS if size > PART]
    assert done.plan.parts >= sum(-(-size // PART) for size in large)
    files = done.report.files
    assert (files.total, done.report.bytes_read) == (len(BORDERS), sum(BORDERS))
    a_file = {"tar": 2500, "tar.bz2": 3000}.get(kind, 700)  # tar pads, bzip2 can't store
    assert done.report.bytes_stored < sum(BORDERS) + a_file * len(BORDERS)
    assert all(done.records[f"src/{size}"].size == size for size in BORDERS)


@pytest.mark.parametrize("kind", KINDS)
def test_short_reads_are_put_together(src: Path, tmp_path: Path, kind: str) -> None:
    """As network and FUSE file systems give them."""
    (src / "victim").write_bytes(prose(200_000))
    done = back_up(
        src, to=tmp_path / "out", **FORMATS[kind],
        read=lambda fd, length, at: os.pread(fd, min(length, 999), at),
    )  # fmt: skip
    others_are_there(done)
    assert done.contents["src/victim"] == prose(200_000)
    assert done.errors == {}


def test_in_zip_fifos_and_sockets_are_named_and_never_opened(src: Path, tmp_path: Path) -> None:
    """(cases 32, 33)"""
    os.mkfifo(src / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(src / "socket"))
    done = back_up(src, to=tmp_path / "out")
    others_are_there(done)
    assert done.skipped == {str(src / "fifo"): UNSUPPORTED, str(src / "socket"): UNSUPPORTED}
    assert (done.report.exit_code, done.report.files.skipped, done.report.files.total) == (0, 2, 3)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", TARS)
def test_in_tar_sockets_are_skipped_and_fifos_kept_unopened(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """(cases 32, 33)"""
    os.mkfifo(src / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(src / "socket"))
    done = back_up(src, to=tmp_path / "out", format=kind)
    others_are_there(done)
    assert done.skipped == {str(src / "socket"): UNSUPPORTED}
    assert (done.report.exit_code, done.report.files.skipped, done.report.files.total) == (0, 1, 4)
    with done.opened_tar() as archive:
        assert archive.getmember("src/fifo").isfifo()
        assert archive.getmember("src/fifo").mode == 0o640
    record = done.records["src/fifo"]
    assert (record.type, record.size, record.device) == ("p", 0, None)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "tar"])
def test_what_does_not_compress_hardly_grows(tmp_path: Path, kind: str) -> None:
    for name, data in {"n": noise(5000), "p": noise(50_000), "tiny": b"aaaaaaaa"}.items():
        (tmp_path / name).write_bytes(data)
    done = back_up(
        tmp_path / "n", tmp_path / "p", tmp_path / "tiny", to=tmp_path / "out", **FORMATS[kind]
    )
    # Headers, manifest and the tail of a tar archive aside; bzip2 can't store.
    allowed = {"tar.gz": 4500, "tar.bz2": 6000}.get(kind, 2500)
    assert done.report.bytes_stored < 55_008 + allowed
    judge_outcome(done)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_name_that_the_manifest_has_is_refused(tmp_path: Path, size: int, kind: str) -> None:
    """The file is named as failed; it does not vanish behind the manifest."""
    src = tmp_path / ".pybak"
    src.mkdir()
    (src / "manifest.jsonl.gz").write_bytes(prose(size))
    (src / "other").write_bytes(b"other")
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    judge_outcome(done)
    assert done.contents == {".pybak/": b"", ".pybak/other": b"other"}
    assert done.errors == {str(src / "manifest.jsonl.gz"): UNREADABLE}
    (problem,) = done.report.errors
    assert "reserved for the manifest; rename it" in problem.message
    files = done.report.files
    assert (files.total, files.new, files.failed) == (2, 1, 1)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_what_lies_in_a_folder_with_the_manifest_s_name_is_refused(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / ".pybak/manifest.jsonl.gz"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(b"x")
    (folder / "large").write_bytes(prose(2 * PART))
    done = back_up(folder.parent, to=tmp_path / "out", **FORMATS[kind])
    judge_outcome(done)
    assert set(done.errors) == {str(folder), str(folder / "small"), str(folder / "large")}


@pytest.mark.parametrize("size", SIZES)
def test_a_name_too_long_for_zip_is_that_file_s_problem(
    src: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several batches make the member."""
    (src / "with-a-longer-name").write_bytes(prose(size))
    monkeypatch.setattr(zip_records, "MAX_NAME", 20)
    done = back_up(src, to=tmp_path / "out")
    others_are_there(done)
    assert done.errors == {str(src / "with-a-longer-name"): UNREADABLE}
    assert (done.report.files.total, done.report.files.failed) == (4, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_member_has_mode_and_time_of_the_file_that_was_read(
    src: Path, tmp_path: Path, size: int, kind: str
) -> None:
    """Not those of the listing, when the file was replaced since."""
    victim = src / "victim"
    victim.write_bytes(prose(size))

    def replace_it(_run: object) -> None:
        victim.chmod(0o604)
        os.utime(victim, (10**9, 10**9))

    done = back_up(src, to=tmp_path / "out", before_reading=replace_it, **FORMATS[kind])
    others_are_there(done)
    record = done.records["src/victim"]
    assert (record.mode, record.mtime_ns, record.changed) == (0o604, 10**18, False)
    if kind in TARS:
        with done.opened_tar() as archive:
            member = archive.getmember("src/victim")
        assert (member.mode, member.mtime) == (0o604, 10**9)
        return
    with zipfile.ZipFile(done.path) as archive:
        info = archive.getinfo("src/victim")
    assert (info.external_attr >> 16) & 0o7777 == 0o604
    assert info.date_time[0] == 2001


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_no_link_that_comes_later_leads_out_of_the_source(
    src: Path, tmp_path: Path, size: int, kind: str
) -> None:
    """Or else who owns a folder has files of others stored under names of his own (case 49)."""
    for folder, content in ((src / "folder" / "below", b"own"), (tmp_path / "outside", b"secret")):
        folder.mkdir(parents=True)
        (folder / "victim").write_bytes(content * size)

    def swap(_run: object) -> None:
        (src / "folder").rename(tmp_path / "away")
        (src / "folder").mkdir()
        (src / "folder" / "below").symlink_to(tmp_path / "outside")

    done = back_up(src, to=tmp_path / "out", before_reading=swap, **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(src / "folder/below/victim"): TYPE_CHANGED}
    assert "src/folder/below/victim" not in done.contents


@pytest.mark.parametrize("kind", KINDS)
def test_nor_does_one_that_comes_while_a_large_file_is_read(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """One that moves between its parts is read once more (case 49)."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "victim").write_bytes(b"secret" * 40_000)
    victim = src / "folder" / "victim"
    victim.parent.mkdir()
    victim.write_bytes(prose(200_000))
    inode = victim.stat().st_ino
    swapped = threading.Event()

    def read(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        is_last = os.fstat(fd).st_ino == inode and offset + len(data) >= 200_000
        if is_last and not swapped.is_set():
            swapped.set()
            append(victim, 1)
            victim.parent.rename(tmp_path / "away")
            (src / "folder").symlink_to(tmp_path / "outside")
        return data

    done = back_up(src, to=tmp_path / "out", read=read, **FORMATS[kind])
    assert swapped.is_set()
    others_are_there(done)
    assert done.errors == {str(victim): TYPE_CHANGED}
    assert "src/folder/victim" not in done.contents


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_another_one_replaced_is_read(
    src: Path, tmp_path: Path, size: int, kind: str
) -> None:
    """Also where the folder above it is another one."""
    (src / "folder").mkdir()
    (src / "folder" / "file").write_bytes(prose(size))
    new = prose(size, 1)

    def swap(_run: object) -> None:
        (src / "folder").rename(tmp_path / "away")
        (src / "folder").mkdir()
        (src / "folder" / "file").write_bytes(new)

    done = back_up(src, to=tmp_path / "out", before_reading=swap, **FORMATS[kind])
    others_are_there(done)
    assert done.contents["src/folder/file"] == new


@pytest.mark.parametrize("kind", FORMATS)
def test_progress_counts_every_file_and_byte_once(src: Path, tmp_path: Path, kind: str) -> None:
    (src / "middle").write_bytes(prose(40_000))
    (src / "large").write_bytes(prose(200_000))
    total = [0, 0]

    def compress(folder: Path, numbers: range, **more: Any) -> int:
        def advance(files: int, size: int, _path: bytes) -> None:
            total[0] += files
            total[1] += size

        return compress_batches(folder, numbers, advance=advance, **more)

    done = back_up(src, to=tmp_path / "out", threads=1, compress=compress, **FORMATS[kind])
    assert tuple(total) == (5, done.report.bytes_read) == (5, 251_000)


@pytest.mark.parametrize("password", [None, b"another"])
def test_a_worker_without_the_run_s_password_writes_nothing(
    src: Path, tmp_path: Path, password: bytes | None
) -> None:
    """Its members could not be opened with the rest, or were not encrypted at all."""

    def compress(folder: Path, numbers: Iterable[int], **more: Any) -> int:
        try:
            return compress_batches(folder, numbers, **more | {"password": password})
        finally:
            assert [path.name for path in (folder / "segments").iterdir()] == []

    with pytest.raises(PlanError, match=r"(none|another password).*; set .*PYBAK_PASSWORD"):
        back_up(src, to=tmp_path / "out", compress=compress, password=b"the run's")
    assert not (tmp_path / "out").exists()


def test_a_password_is_in_no_text_of_what_packers_are_given(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "segment") as out:
        job = Job([], 2, 0, 1)
        assert "hidden" not in repr(Work(tmp_path, job, out, NOBODY, os.pread, b"hidden"))
