"""Compressing while files move: whatever happens to a source, the archive stays good.

Races are staged, not waited for: files are swapped between the listing and the first read, or by
the `read` that the engine is given.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import Outcome, back_up, judge, noise, prose

from pybak.backup import compress as compress_module
from pybak.backup import plan as plan_module
from pybak.backup import read_source
from pybak.backup.compress import SegmentIndex, compress_batches, read_index
from pybak.errors import Interrupted, StorageError
from pybak.formats import zip_records
from pybak.formats.deflate import deflater
from pybak.problems import (
    CHANGED,
    IO_ERROR,
    TYPE_CHANGED,
    UNREADABLE,
    UNSUPPORTED,
    VANISHED,
)

WHOLE = 20_000
PIECE = 8_000
PART = 60_000


@pytest.fixture(autouse=True)
def small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of some kB go the ways of large ones, and retries come at once."""
    monkeypatch.setattr(compress_module, "WHOLE_LIMIT", WHOLE)
    monkeypatch.setattr(
        compress_module, "deflater", lambda level: replace(deflater(level), piece_bytes=PIECE)
    )
    monkeypatch.setattr(compress_module, "_MOST_GROWN", 2 * PART)
    monkeypatch.setattr(plan_module, "PART_BYTES", PART)
    monkeypatch.setattr(read_source, "_RETRY_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "before").write_bytes(prose(500, 1))
    (folder / "victim").write_bytes(prose(10_000, 2))
    (folder / "zlast").write_bytes(prose(500, 3))
    return folder


OTHERS = {"src/before": prose(500, 1), "src/zlast": prose(500, 3)}
SIZES = [
    pytest.param(10_000, id="small"),
    pytest.param(40_000, id="in-pieces"),
    pytest.param(200_000, id="in-parts"),
]


def others_are_there(done: Outcome) -> None:
    judge(done.path)
    assert {name: done.contents.get(name) for name in OTHERS} == OTHERS
    assert {record.path for record in done.records.values()} == {
        name.rstrip("/") for name in done.contents
    }


@pytest.mark.parametrize("size", [0, 1, WHOLE - 1, WHOLE, WHOLE + 1, WHOLE + PIECE, PART - 1,
                                  PART, PART + 1, 2 * PART, 3 * PART + 7])  # fmt: skip
@pytest.mark.parametrize("content", [prose, noise])
@pytest.mark.parametrize("level", [1, 2, 4, 6, 9])
def test_every_size_comes_back(
    tmp_path: Path, size: int, content: Callable[[int], bytes], level: int
) -> None:
    """Whole files, files in pieces and files in parts, at the borders between (case 14)."""
    (tmp_path / "f").write_bytes(content(size))
    done = back_up(tmp_path / "f", to=tmp_path / "out", level=level)
    assert done.contents == {"f": content(size)}
    assert done.plan.parts == (0 if size <= PART else -(-size // PART))
    assert (done.report.files.total, done.report.bytes_read) == (1, size)
    assert done.report.bytes_stored < size + 1500


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_vanishes_is_skipped(src: Path, tmp_path: Path, size: int) -> None:
    """Gone between listing and open; the run is complete (case 44)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: victim.unlink())
    others_are_there(done)
    assert "src/victim" not in done.contents
    assert done.skipped == {str(victim): VANISHED}
    assert (done.report.status, done.report.exit_code) == ("success", 0)
    assert (done.report.files.total, done.report.files.skipped) == (2, 1)


def test_a_folder_that_vanishes_takes_its_files_along(src: Path, tmp_path: Path) -> None:
    """The folder stays as listed, its files are skipped (case 45)."""
    (src / "gone").mkdir()
    (src / "gone/a").write_bytes(b"a")
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: shutil.rmtree(src / "gone"))
    others_are_there(done)
    assert done.skipped == {str(src / "gone/a"): VANISHED}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("delta", [5000, -5000])
def test_a_file_that_changed_before_it_is_opened_is_taken_as_it_is_now(
    src: Path, tmp_path: Path, size: int, delta: int
) -> None:
    """Longer or shorter than it was listed (cases 46, 47)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(
        src, to=tmp_path / "out", before_reading=lambda _: victim.write_bytes(prose(size + delta))
    )
    others_are_there(done)
    stored = done.contents["src/victim"]
    assert prose(size + delta).startswith(stored)
    assert done.records["src/victim"].size == len(stored)
    if size < PART or delta < 0:
        assert len(stored) == size + delta
        assert done.errors == {}
    else:  # its parts end where it ended when it was listed
        assert len(stored) == size
        assert done.errors == {str(victim): CHANGED}


class Moving:
    """A `read` that does something to a file on the disk, `times` at most, after reading it."""

    def __init__(self, victim: Path, act: Callable[[Path, int], object], times: int) -> None:
        self.inode = victim.stat().st_ino
        self.victim, self.act, self.times = victim, act, times
        self.done = 0

    def __call__(self, fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if os.fstat(fd).st_ino == self.inode and self.done < self.times:
            self.done += 1
            self.act(self.victim, self.done)
        return data


def append(path: Path, _time: int) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 100)


def cut(path: Path, _time: int) -> None:
    os.truncate(path, max(1, path.stat().st_size - 1000))


def rewrite(path: Path, time: int) -> None:
    with path.open("r+b") as file:
        file.write(b"%03d" % time)
    os.utime(path, ns=(10**18 + time, 10**18 + time))


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("act", [append, cut, rewrite])
def test_a_file_that_changes_once_is_read_again(
    src: Path, tmp_path: Path, size: int, act: Callable[[Path, int], object]
) -> None:
    """Growing, truncated, rewritten: the second read is good (cases 46, 47, 48)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    read = Moving(victim, act, times=1)
    done = back_up(src, to=tmp_path / "out", read=read)
    others_are_there(done)
    assert read.done == 1
    assert done.contents["src/victim"] == victim.read_bytes()
    assert (done.errors, done.report.exit_code) == ({}, 0)
    assert not done.records["src/victim"].changed


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("act", [append, cut, rewrite])
def test_a_file_that_goes_on_changing_is_flagged_and_kept(
    src: Path, tmp_path: Path, size: int, act: Callable[[Path, int], object]
) -> None:
    """Exit 3, and what was read is in the archive (cases 46, 47, 48)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(src, to=tmp_path / "out", read=Moving(victim, act, times=99))
    others_are_there(done)
    assert done.errors == {str(victim): CHANGED}
    assert (done.report.status, done.report.exit_code) == ("partial", 3)
    files = done.report.files
    assert (files.total, files.new, files.failed) == (3, 2, 1)
    record = done.records["src/victim"]
    assert record.changed
    assert record.size == len(done.contents["src/victim"]) > 0


def test_a_file_that_outgrew_its_batch_is_cut_and_flagged(src: Path, tmp_path: Path) -> None:
    """What was planned as a small file can't fill the memory (case 46)."""
    victim = src / "victim"
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: os.truncate(victim, 1 << 40))
    others_are_there(done)
    assert len(done.contents["src/victim"]) == 2 * PART
    assert done.errors == {str(victim): CHANGED}


@pytest.mark.parametrize("act", [append, cut, rewrite])
@pytest.mark.parametrize("times", [1, 99])
def test_a_large_file_that_changes_between_its_parts_is_made_once_more(
    src: Path, tmp_path: Path, act: Callable[[Path, int], object], times: int
) -> None:
    """One member comes of it, flagged if even that did not fit together (case 48)."""
    victim = src / "victim"
    victim.write_bytes(prose(4 * PART))
    moving = Moving(victim, act, times=1)

    def again(fd: int, length: int, offset: int) -> bytes:
        if times > 1 and moving.done:
            moving.done = 0
        return moving(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        # The second try is the assembler's own, which reads with the default.
        patch.setattr(compress_module.compress_batch, "__kwdefaults__", {"read": again})
        done = back_up(src, to=tmp_path / "out", read=again)
    others_are_there(done)
    assert (done.report.files.total, done.plan.parts) == (3, 4)
    stored, record = done.contents["src/victim"], done.records["src/victim"]
    assert record.parts is not None
    assert sum(part.size for part in record.parts) == len(stored) == record.size
    good = times == 1 and act is not append  # the parts end where it ended when it was listed
    assert done.errors == ({} if good else {str(victim): CHANGED})
    assert record.changed is not good
    if good:
        assert stored == victim.read_bytes()


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(b"do not follow me")
    path.unlink()
    path.symlink_to(secret)


def to_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("swap", [to_fifo, to_folder, to_link, to_socket])
def test_a_file_that_becomes_something_else_is_refused(
    src: Path, tmp_path: Path, size: int, swap: Callable[[Path], None]
) -> None:
    """It is named, never waited for and never followed (case 49)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: swap(victim))
    others_are_there(done)
    assert done.errors == {str(victim): TYPE_CHANGED}
    assert "src/victim" not in done.contents
    assert not any(b"do not follow" in data for data in done.contents.values())
    assert done.report.exit_code == 3


def test_a_link_that_becomes_a_file_is_refused(src: Path, tmp_path: Path) -> None:
    """(case 49)"""
    victim = src / "link"
    victim.symlink_to("before")

    def swap(_run: object) -> None:
        victim.unlink()
        victim.write_bytes(b"now a file")

    done = back_up(src, to=tmp_path / "out", before_reading=swap)
    others_are_there(done)
    assert done.errors == {str(victim): TYPE_CHANGED}


def test_a_folder_on_the_way_that_became_a_link_still_gives_a_good_archive(
    src: Path, tmp_path: Path
) -> None:
    """(case 49)"""
    (src / "d").mkdir()
    (src / "d/f").write_bytes(b"f")

    def swap(_run: object) -> None:
        shutil.rmtree(src / "d")
        (src / "d").symlink_to("/nonexistent")

    done = back_up(src, to=tmp_path / "out", before_reading=swap)
    others_are_there(done)
    assert done.skipped == {str(src / "d/f"): VANISHED}


class Script:
    """A `read` that answers by a script: `r` reads, `E` fails with EIO; then it reads on."""

    def __init__(self, victim: Path, script: str) -> None:
        self.inode = victim.stat().st_ino
        self.script: Iterator[str] = iter(script)
        self.failures = 0

    def __call__(self, fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == self.inode and next(self.script, "r") == "E":
            self.failures += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(fd, length, offset)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", ["E", "EEE", "rEEr", "rrEEEr", "ErErE"])
def test_reads_that_fail_are_tried_again(src: Path, tmp_path: Path, size: int, script: str) -> None:
    """Up to three retries bring the file in whole (case 55)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    read = Script(victim, script.lstrip("r") if size < WHOLE else script)
    done = back_up(src, to=tmp_path / "out", threads=1, read=read)
    others_are_there(done)
    assert done.contents["src/victim"] == prose(size)
    assert (done.errors, done.report.exit_code) == ({}, 0)
    assert read.failures >= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", ["EEEE", "rrEEEE"])
def test_a_file_that_can_not_be_read_is_left_out_whole(
    src: Path, tmp_path: Path, size: int, script: str
) -> None:
    """Also when only one part of a large file fails: no trace of the member (case 55)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    if size < WHOLE:
        script = script.lstrip("r")  # it is read in one call
    done = back_up(src, to=tmp_path / "out", threads=1, read=Script(victim, script))
    others_are_there(done)
    assert "src/victim" not in done.contents
    assert "src/victim" not in done.records
    assert done.errors == {str(victim): IO_ERROR}
    (problem,) = done.report.errors
    assert "input/output error" in problem.message
    files = done.report.files
    assert (files.total, files.new, files.failed) == (3, 2, 1)
    with done.path.open("rb") as archive:
        assert b"src/victim" not in archive.read()


def test_errors_that_do_not_pass_are_not_retried(src: Path, tmp_path: Path) -> None:
    calls = 0

    def read(fd: int, length: int, offset: int) -> bytes:
        nonlocal calls
        calls += 1
        raise OSError(errno.EBADMSG, "bad message")

    done = back_up(src / "victim", src / "before", to=tmp_path / "out", threads=1, read=read)
    assert calls == 2
    assert set(done.errors.values()) == {IO_ERROR}
    judge(done.path)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_may_not_be_read_is_named(
    src: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are saved (case 53)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    refused = os.fsencode(victim)
    real = os.open

    def refuse(path: Any, *args: Any, **more: Any) -> int:
        if path == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", refuse)
    done = back_up(src, to=tmp_path / "out")
    others_are_there(done)
    assert done.errors == {str(victim): UNREADABLE}
    assert done.report.exit_code == 3


def test_short_reads_are_put_together(src: Path, tmp_path: Path) -> None:
    """As network and FUSE file systems give them."""
    (src / "victim").write_bytes(prose(200_000))
    done = back_up(
        src, to=tmp_path / "out", read=lambda fd, length, at: os.pread(fd, min(length, 999), at)
    )
    others_are_there(done)
    assert done.contents["src/victim"] == prose(200_000)
    assert done.errors == {}


def test_fifos_and_sockets_are_named_and_never_opened(src: Path, tmp_path: Path) -> None:
    """(cases 32, 33)"""
    os.mkfifo(src / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(src / "socket"))
    done = back_up(src, to=tmp_path / "out")
    others_are_there(done)
    assert done.skipped == {str(src / "fifo"): UNSUPPORTED, str(src / "socket"): UNSUPPORTED}
    assert (done.report.exit_code, done.report.files.skipped, done.report.files.total) == (0, 2, 3)


def test_what_does_not_compress_is_stored(tmp_path: Path) -> None:
    for name, data in {"n": noise(5000), "p": noise(50_000), "tiny": b"aaaaaaaa"}.items():
        (tmp_path / name).write_bytes(data)
    done = back_up(tmp_path / "n", tmp_path / "p", tmp_path / "tiny", to=tmp_path / "out")
    # Headers and manifest aside, nothing has grown by more than a block header in 64 KiB.
    assert done.report.bytes_stored < 55_008 + 1500
    judge(done.path)


class Staged:
    """The engine's own files of a run whose batches a test compresses by hand."""

    def __init__(self, source: Path, work: Path, **options: Any) -> None:
        self.folder = work

        def stop(run: Any) -> None:
            shutil.copytree(run.staging, work)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(source, to=work.parent / "unused", before_reading=stop, **options)


def test_a_batch_that_is_there_is_not_made_again(src: Path, tmp_path: Path) -> None:
    staged = Staged(src, tmp_path / "work")
    assert compress_batches(staged.folder, [0]) == 1
    before = sorted((staged.folder / "segments").iterdir())
    shutil.rmtree(src)  # what is not there can't be read again
    assert compress_batches(staged.folder, [0]) == 1
    assert sorted((staged.folder / "segments").iterdir()) == before
    assert read_index(staged.folder, 0).files == 3


def test_a_torn_batch_is_made_again_the_same(src: Path, tmp_path: Path) -> None:
    """A segment without its index counts for nothing."""
    staged = Staged(src, tmp_path / "work")
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


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_whoever_finishes_a_batch_second_does_not_touch_it(
    src: Path, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index at any moment belongs to the segment that it names."""
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    staged = Staged(src, tmp_path / "work")
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

    publish = compress_module._publish_index

    def look(folder: Path, number: int, index: SegmentIndex) -> bool:
        if (segments / "0000000.index").exists():
            assert good(), "another segment took the place of the one that the index is of"
        return publish(folder, number, index)

    monkeypatch.setattr(compress_module, "_publish_index", look)
    compress_batches(staged.folder, [0], advance=advance, read=late(src))
    assert good()
    names = {path.name for path in segments.iterdir()}
    assert "0000000.index" in names
    assert len(names) == (2 if links else 3)


def test_a_cancel_stops_inside_a_part_of_a_large_file(src: Path, tmp_path: Path) -> None:
    (src / "large").write_bytes(prose(2 * PART))
    staged = Staged(src, tmp_path / "work")
    seen = 0

    def advance(_files: int, size: int, _path: bytes) -> None:
        nonlocal seen
        seen += size
        (staged.folder / "cancel").touch()

    with pytest.raises(Interrupted):
        compress_batches(staged.folder, [0], advance=advance)
    assert seen == PIECE
    assert list((staged.folder / "segments").iterdir()) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_name_that_the_manifest_has_is_refused(tmp_path: Path, size: int) -> None:
    """The file is named as failed; it does not vanish behind the manifest."""
    src = tmp_path / ".pybak"
    src.mkdir()
    (src / "manifest.jsonl.gz").write_bytes(prose(size))
    (src / "other").write_bytes(b"other")
    done = back_up(src, to=tmp_path / "out")
    judge(done.path)
    assert done.contents == {".pybak/": b"", ".pybak/other": b"other"}
    assert done.errors == {str(src / "manifest.jsonl.gz"): UNREADABLE}
    (problem,) = done.report.errors
    assert "reserved for the manifest; rename it" in problem.message
    files = done.report.files
    assert (files.total, files.new, files.failed) == (2, 1, 1)


def test_what_lies_in_a_folder_with_the_manifest_s_name_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ".pybak/manifest.jsonl.gz"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(b"x")
    (folder / "large").write_bytes(prose(2 * PART))
    done = back_up(folder.parent, to=tmp_path / "out")
    judge(done.path)
    assert set(done.errors) == {str(folder), str(folder / "small"), str(folder / "large")}


@pytest.mark.parametrize("size", SIZES)
def test_a_name_too_long_for_the_format_is_that_file_s_problem(
    src: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several batches make the member."""
    (src / "with-a-longer-name").write_bytes(prose(size))
    monkeypatch.setattr(zip_records, "MAX_NAME", 20)
    done = back_up(src, to=tmp_path / "out")
    others_are_there(done)
    assert done.errors == {str(src / "with-a-longer-name"): UNREADABLE}
    assert (done.report.files.total, done.report.files.failed) == (4, 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_member_has_mode_and_time_of_the_file_that_was_read(
    src: Path, tmp_path: Path, size: int
) -> None:
    """Not those of the listing, when the file was replaced since."""
    victim = src / "victim"
    victim.write_bytes(prose(size))

    def replace_it(_run: object) -> None:
        victim.chmod(0o604)
        os.utime(victim, (10**9, 10**9))

    done = back_up(src, to=tmp_path / "out", before_reading=replace_it)
    others_are_there(done)
    record = done.records["src/victim"]
    assert (record.mode, record.mtime_ns, record.changed) == (0o604, 10**18, False)
    with zipfile.ZipFile(done.path) as archive:
        info = archive.getinfo("src/victim")
    assert (info.external_attr >> 16) & 0o7777 == 0o604
    assert info.date_time[0] == 2001


def test_a_cancel_stops_between_batches_and_inside_one(src: Path, tmp_path: Path) -> None:
    for number in range(400):
        (src / f"f{number:03d}").write_bytes(b"x")
    staged = Staged(src, tmp_path / "work")
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


def test_a_staging_folder_that_is_gone_says_what_to_do(src: Path, tmp_path: Path) -> None:
    staged = Staged(src, tmp_path / "work")
    shutil.rmtree(staged.folder / "segments")
    with pytest.raises(StorageError, match="--staging"):
        compress_batches(staged.folder, [0])


def test_progress_counts_every_file_and_byte_once(src: Path, tmp_path: Path) -> None:
    (src / "middle").write_bytes(prose(40_000))
    (src / "large").write_bytes(prose(200_000))
    total = [0, 0]

    def compress(folder: Path, numbers: range) -> int:
        def advance(files: int, size: int, _path: bytes) -> None:
            total[0] += files
            total[1] += size

        return compress_batches(folder, numbers, advance=advance)

    done = back_up(src, to=tmp_path / "out", threads=1, compress=compress)
    assert tuple(total) == (5, done.report.bytes_read) == (5, 251_000)
