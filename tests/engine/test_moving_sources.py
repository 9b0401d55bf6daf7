"""Compressing while files move: whatever happens to a source, the archive stays good."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from backing_up import FORMATS, TARS, back_up, prose
from moving import (
    KINDS,
    PART,
    SIZES,
    WHOLE,
    Moving,
    append,
    cut,
    make_source,
    others_are_there,
    rewrite,
    rewrite_in_secret,
    small_borders,
    to_fifo,
    to_folder,
    to_link,
    to_socket,
)

from pybak.backup import compress as compress_module
from pybak.problems import CHANGED, IO_ERROR, TYPE_CHANGED, VANISHED


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make_source(tmp_path / "src")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_vanishes_is_skipped(src: Path, tmp_path: Path, size: int, kind: str) -> None:
    """Gone between listing and open; the run is complete (case 44)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(
        src, to=tmp_path / "out", before_reading=lambda _: victim.unlink(), **FORMATS[kind]
    )
    others_are_there(done)
    assert "src/victim" not in done.contents
    assert done.skipped == {str(victim): VANISHED}
    assert (done.report.status, done.report.exit_code) == ("success", 0)
    assert (done.report.files.total, done.report.files.skipped) == (2, 1)
    assert done.report.bytes_read == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_vanishes_while_it_is_read_is_whole(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """What is open stays readable; but a part that comes later finds nothing (case 44)."""
    for size in (10_000, 200_000):
        victim = src / "victim"
        victim.write_bytes(prose(size))
        read = Moving(victim, lambda path, _: path.unlink(), times=1)
        done = back_up(src, to=tmp_path / "out", threads=1, read=read, **FORMATS[kind])
        others_are_there(done)
        if size > PART:
            assert done.skipped == {str(victim): VANISHED}
            assert "src/victim" not in done.contents
        else:  # its ctime has moved; the second look finds nothing
            assert done.skipped == {str(victim): VANISHED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_vanishes_takes_its_files_along(src: Path, tmp_path: Path, kind: str) -> None:
    """The folder stays as listed, its files are skipped (case 45)."""
    (src / "gone").mkdir()
    (src / "gone/a").write_bytes(b"a")
    (src / "gone/l").symlink_to("a")
    done = back_up(
        src, to=tmp_path / "out", before_reading=lambda _: shutil.rmtree(src / "gone"),
        **FORMATS[kind],
    )  # fmt: skip
    others_are_there(done)
    assert done.skipped == {str(src / "gone/a"): VANISHED, str(src / "gone/l"): VANISHED}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("delta", [5000, -5000])
def test_a_file_that_changed_before_it_is_opened_is_taken_as_it_is_now(
    src: Path, tmp_path: Path, size: int, delta: int, kind: str
) -> None:
    """Longer or shorter than it was listed (cases 46, 47).

    In tar the second try for a large file fits its header to what it is now.
    """
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(
        src, to=tmp_path / "out", **FORMATS[kind],
        before_reading=lambda _: victim.write_bytes(prose(size + delta)),
    )  # fmt: skip
    others_are_there(done)
    stored = done.contents["src/victim"]
    assert stored == prose(size + delta)
    assert done.records["src/victim"].size == len(stored)
    assert (done.errors, done.report.exit_code) == ({}, 0)
    assert done.report.bytes_read == size + delta + 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("act", [append, cut, rewrite, rewrite_in_secret])
def test_a_file_that_changes_once_is_read_again(
    src: Path, tmp_path: Path, size: int, act: Callable[[Path, int], object], kind: str
) -> None:
    """Growing, truncated, rewritten: the second read is good (cases 46, 47, 48, 51)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    read = Moving(victim, act, times=1)
    done = back_up(src, to=tmp_path / "out", read=read, **FORMATS[kind])
    others_are_there(done)
    assert read.done == 1
    assert done.contents["src/victim"] == victim.read_bytes()
    assert (done.errors, done.report.exit_code) == ({}, 0)
    assert not done.records["src/victim"].changed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("act", [append, cut, rewrite, rewrite_in_secret])
def test_a_file_that_goes_on_changing_is_flagged_and_kept(
    src: Path, tmp_path: Path, size: int, act: Callable[[Path, int], object], kind: str
) -> None:
    """Exit 3, and what was read is in the archive (cases 46, 47, 48, 51)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(src, to=tmp_path / "out", read=Moving(victim, act, times=99), **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(victim): CHANGED}
    assert (done.report.status, done.report.exit_code) == ("partial", 3)
    files = done.report.files
    assert (files.total, files.new, files.failed) == (3, 2, 1)
    record = done.records["src/victim"]
    assert record.changed
    assert record.size == len(done.contents["src/victim"]) > 0


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("left", [0, 1, 511, 512, 9_000])
def test_in_tar_what_a_header_promises_is_there_however_short_the_file_gets(
    src: Path, tmp_path: Path, size: int, left: int, kind: str
) -> None:
    """Zeros take the place of what is gone, in both tries (case 47)."""
    victim = src / "victim"
    whole = prose(size)
    victim.write_bytes(whole)

    def shrink_again(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == victim.stat().st_ino:
            os.truncate(victim, left)
            data = os.pread(fd, length, offset)
            with victim.open("r+b") as file:  # the next who opens it finds it long again
                file.write(whole)
            return data
        return os.pread(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compress_module.compress_batch, "__kwdefaults__",
            compress_module.compress_batch.__kwdefaults__ | {"read": shrink_again},
        )  # fmt: skip
        done = back_up(src, to=tmp_path / "out", format=kind, threads=1, read=shrink_again)
    others_are_there(done)
    stored = done.contents["src/victim"]
    assert len(stored) == size
    assert stored[:left] == whole[:left]
    assert stored.strip(b"\0") == whole[: min(left, size)].strip(b"\0")
    assert done.errors == {str(victim): CHANGED}
    assert done.records["src/victim"].changed


def test_in_zip_a_file_that_outgrew_its_batch_is_cut_and_flagged(src: Path, tmp_path: Path) -> None:
    """What was planned as a small file can't fill the memory (case 46)."""
    victim = src / "victim"
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: os.truncate(victim, 1 << 40))
    others_are_there(done)
    assert len(done.contents["src/victim"]) == 2 * PART
    (problem,) = done.report.errors
    assert (problem.path, problem.code) == (str(victim), CHANGED)
    assert problem.message == "grew since it was listed; the first 0 MiB are in the archive"


def test_in_tar_a_file_that_outgrew_its_batch_is_taken_whole(src: Path, tmp_path: Path) -> None:
    """Its content passes through, so the memory holds a piece of it (case 46)."""
    victim = src / "victim"
    done = back_up(
        src, to=tmp_path / "out", format="tar.gz",
        before_reading=lambda _: victim.write_bytes(prose(5 * PART)),
    )  # fmt: skip
    others_are_there(done)
    assert done.contents["src/victim"] == prose(5 * PART)
    assert done.errors == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", [append, cut, rewrite, rewrite_in_secret])
@pytest.mark.parametrize("times", [1, 99])
def test_a_large_file_that_changes_between_its_parts_is_made_once_more(
    src: Path, tmp_path: Path, act: Callable[[Path, int], object], times: int, kind: str
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
        patch.setattr(
            compress_module.compress_batch, "__kwdefaults__",
            compress_module.compress_batch.__kwdefaults__ | {"read": again},
        )  # fmt: skip
        done = back_up(src, to=tmp_path / "out", read=again, **FORMATS[kind])
    others_are_there(done)
    assert (done.report.files.total, done.plan.parts) == (3, 1 + 4)  # the folder is first
    stored, record = done.contents["src/victim"], done.records["src/victim"]
    assert sum(part.size for part in record.parts) == len(stored) == record.size
    assert done.errors == ({} if times == 1 else {str(victim): CHANGED})
    assert record.changed is (times > 1)
    assert done.report.files.new == (3 if times == 1 else 2)
    if times == 1:
        assert stored == victim.read_bytes()
        assert done.report.bytes_read == len(stored) + 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("now", [0, 1, 3, 1000])
def test_a_large_file_that_became_tiny_is_made_of_as_many_parts(
    src: Path, tmp_path: Path, now: int, kind: str
) -> None:
    """(case 47)"""
    victim = src / "victim"
    victim.write_bytes(prose(4 * PART))
    done = back_up(
        src, to=tmp_path / "out", **FORMATS[kind],
        before_reading=lambda _: victim.write_bytes(prose(now)),
    )  # fmt: skip
    others_are_there(done)
    assert done.contents["src/victim"] == prose(now)
    assert done.errors == {}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_worker_that_comes_late_does_not_spoil_the_second_try(
    src: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster may run a task twice; what it makes of the old plan must not get in (case 48)."""
    victim = src / "victim"
    victim.write_bytes(prose(3 * PART))
    from pybak.backup.assemble_large import LargeFiles

    real = LargeFiles._make_again
    made = []

    def make_again(self: LargeFiles, entry: object, count: int) -> object:
        compress_module.compress_batches(self._folder, range(4))  # with the batches as planned
        made.append(count)
        return real(self, entry, count)  # type: ignore[arg-type]

    monkeypatch.setattr(LargeFiles, "_make_again", make_again)
    done = back_up(
        src, to=tmp_path / "out", **FORMATS[kind],
        before_reading=lambda _: victim.write_bytes(prose(3 * PART + 5000)),
    )  # fmt: skip
    assert made == [3]
    others_are_there(done)
    assert done.contents["src/victim"] == prose(3 * PART + 5000)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("swap", [to_fifo, to_folder, to_link, to_socket])
def test_a_file_that_becomes_something_else_is_refused(
    src: Path, tmp_path: Path, size: int, swap: Callable[[Path], None], kind: str
) -> None:
    """It is named, never waited for and never followed (case 49)."""
    victim = src / "victim"
    victim.write_bytes(prose(size))
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: swap(victim), **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(victim): TYPE_CHANGED}
    assert "src/victim" not in done.contents
    assert not any(b"do not follow" in data for data in done.contents.values())
    assert done.report.exit_code == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_becomes_a_file_is_refused(src: Path, tmp_path: Path, kind: str) -> None:
    """(case 49)"""
    victim = src / "link"
    victim.symlink_to("before")

    def swap(_run: object) -> None:
        victim.unlink()
        victim.write_bytes(b"now a file")

    done = back_up(src, to=tmp_path / "out", before_reading=swap, **FORMATS[kind])
    others_are_there(done)
    assert done.errors == {str(victim): TYPE_CHANGED}


@pytest.mark.needs_root
def test_a_device_that_becomes_something_else_is_refused(src: Path, tmp_path: Path) -> None:
    """(case 49)"""
    device = src / "device"
    os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))

    def swap(_run: object) -> None:
        device.unlink()
        device.write_bytes(b"now a file")

    done = back_up(src, to=tmp_path / "out", before_reading=swap, format="tar")
    others_are_there(done)
    assert done.errors == {str(device): TYPE_CHANGED}
    gone = src / "gone"
    os.mknod(gone, 0o600 | 0o060000, os.makedev(7, 99))
    done = back_up(src, to=tmp_path / "out", before_reading=lambda _: gone.unlink(), format="tar")
    assert done.skipped == {str(gone): VANISHED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_on_the_way_that_became_a_link_still_gives_a_good_archive(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """(case 49)"""
    (src / "d").mkdir()
    (src / "d/f").write_bytes(b"f")

    def swap(_run: object) -> None:
        shutil.rmtree(src / "d")
        (src / "d").symlink_to("/nonexistent")

    done = back_up(src, to=tmp_path / "out", before_reading=swap, **FORMATS[kind])
    others_are_there(done)
    assert done.skipped == {str(src / "d/f"): VANISHED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_system_that_loses_an_open_file_says_so(
    src: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does (case 106)."""
    victim = src / "victim"
    victim.write_bytes(prose(WHOLE + 1))
    inode, real = victim.stat().st_ino, os.fstat
    seen = 0

    def lose(fd: int) -> os.stat_result:
        nonlocal seen
        status = real(fd)
        if status.st_ino == inode:
            seen += 1
            if seen > 1:
                raise OSError(116, "Stale file handle")
        return status

    monkeypatch.setattr(os, "fstat", lose)
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    monkeypatch.undo()
    others_are_there(done)
    assert done.errors == {str(victim): IO_ERROR}
