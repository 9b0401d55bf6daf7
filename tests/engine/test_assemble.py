"""Laying segments together: any order, stopped anywhere, on a disk that fills up."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backing_up import back_up, judge, noise, prose

from pybak.backup import assemble as assemble_module
from pybak.backup import compress as compress_module
from pybak.backup import plan as plan_module
from pybak.backup.assemble import Assembler
from pybak.backup.compress import compress_batches, read_index
from pybak.backup.run import BackupRun
from pybak.errors import ArchiveError, Interrupted, PyBakError, StorageError
from pybak.formats.deflate import deflater
from pybak.options import BackupOptions

PART = 50_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "PART_BYTES", PART)
    monkeypatch.setattr(
        compress_module, "deflater", lambda level: replace(deflater(level), piece_bytes=16_000)
    )


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Give 60 files and two large ones; with `chunk_size=4` they make some 20 batches."""
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(60):
        (folder / f"f{number:02d}").write_bytes(prose(number * 40, number))
    (folder / "large1").write_bytes(prose(3 * PART, 98))
    (folder / "large2").write_bytes(noise(2 * PART + 1, 99))
    return folder


def expected(src: Path) -> dict[str, bytes]:
    return {"src/": b""} | {f"src/{path.name}": path.read_bytes() for path in src.iterdir()}


def begin(src: Path, to: Path, **options: Any) -> tuple[BackupRun, Any, Any]:
    run = BackupRun([str(src)], output=None, to=str(to), job=None, options=BackupOptions(**options))
    kept = run.filter(run.discover())
    return run, kept, run.plan(kept)


def test_segments_may_come_in_any_order(src: Path, tmp_path: Path) -> None:
    """The archive is the same, byte for byte, but for the time of its manifest."""
    digests = set()
    for seed in range(4):
        run, kept, plan = begin(src, tmp_path / "out", chunk_size=4)
        with run:
            assert plan.batches > 15
            order = list(range(plan.batches))
            random.Random(seed).shuffle(order)
            with run.assembling() as archive:
                for number in order:
                    compress_batches(run.staging, [number])
                done = archive.finish(run.header(), run.owner_names(kept))
            judge(done.path, ["unzip"])
            with zipfile.ZipFile(done.path) as file:
                contents = {name: file.read(name) for name in file.namelist()[:-1]}
                end = file.infolist()[-1].header_offset
            assert contents == expected(src)
            digests.add(hashlib.sha256(done.path.read_bytes()[:end]).hexdigest())
    assert len(digests) == 1


def test_a_batch_that_two_workers_make_at_once_is_there_once(src: Path, tmp_path: Path) -> None:
    """A cluster may give a task to a second worker while the first still runs."""

    def twice(folder: Path, numbers: range) -> None:
        other = threading.Thread(target=compress_batches, args=(folder, numbers))
        other.start()
        compress_batches(folder, numbers)
        other.join()

    done = back_up(src, to=tmp_path / "out", chunk_size=4, compress=twice)
    judge(done.path)
    assert done.contents == expected(src)
    assert done.report.files.new == 62


def test_the_digests_cover_every_byte_in_order(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybak.storage.local._WHOLE_DIGEST_BYTES", 0)
    done = back_up(src, to=tmp_path / "out", chunk_size=4)
    (volume,) = done.report.volumes
    assert volume.sha256 is None
    with done.path.open("rb") as file:
        for part in volume.parts:
            assert hashlib.sha256(file.read(part.size)).hexdigest() == part.sha256
        assert file.read() == b""


def test_a_small_archive_has_the_digest_that_sha256sum_prints(src: Path, tmp_path: Path) -> None:
    done = back_up(src, to=tmp_path / "out")
    (volume,) = done.report.volumes
    said = subprocess.run(["sha256sum", done.path], capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == volume.sha256


def test_staging_does_not_hold_the_archive_twice(src: Path, tmp_path: Path) -> None:
    """Segments go as they are taken in."""
    run, _, plan = begin(src, tmp_path / "out", chunk_size=4)
    with run:
        compress_batches(run.staging, range(plan.batches))
        assembler = Assembler(run.staging, run.staging / "archive")
        assembler.run(lambda: True)
        left = [path for path in (run.staging / "segments").iterdir() if path.suffix != ".index"]
        assert left == []
        assembler.close()


@pytest.mark.parametrize("missing", [0, 1, 7])
def test_an_archive_with_pieces_missing_is_never_finished(
    src: Path, tmp_path: Path, missing: int
) -> None:
    run, kept, plan = begin(src, tmp_path / "out", chunk_size=4)
    with run, run.assembling() as archive:
        compress_batches(run.staging, (n for n in range(plan.batches) if n != missing))
        with pytest.raises(ArchiveError, match=f"of {plan.batches} pieces"):
            archive.finish(run.header(), run.owner_names(kept))
    assert not (tmp_path / "out").exists()


def test_a_bug_in_the_assembler_is_no_success(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of any kind in its thread ends the run."""

    def broken(_folder: Path, _number: int) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(assemble_module, "read_index", broken)
    with pytest.raises((ZeroDivisionError, Interrupted)):
        back_up(src, to=tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("after", [0, 1, 5, 12])
def test_a_cancel_anywhere_leaves_nothing(src: Path, tmp_path: Path, after: int) -> None:
    """(case 95)"""
    out = tmp_path / "out"
    out.mkdir()
    earlier = back_up(src / "f01", to=out)
    run, _, plan = begin(src, out, chunk_size=4)
    with run, run.assembling():
        compress_batches(run.staging, range(after))
        run.request_cancel()
        with pytest.raises(Interrupted):
            compress_batches(run.staging, range(after, plan.batches))
    assert os.listdir(out) == [earlier.path.name]
    judge(earlier.path, ["unzip"])


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_cancel_stops_the_assembler_though_all_is_there(
    src: Path, tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    run, _, plan = begin(src, tmp_path / "out", chunk_size=4)
    with run:
        compress_batches(run.staging, range(plan.batches))
        assembler = Assembler(run.staging, run.staging / "archive")
        append, calls = assembler._append_segment, 0

        def count(index: Any) -> None:
            nonlocal calls
            if calls == taken:
                run.request_cancel()
            append(index)
            calls += 1

        monkeypatch.setattr(assembler, "_append_segment", count)
        assembler.run(lambda: False)
        assert calls == taken
        assembler.close()


def test_a_cancel_stops_the_assembler_while_it_waits_or_makes_a_file_again(
    src: Path, tmp_path: Path
) -> None:
    """(case 95)"""
    run, _, plan = begin(src, tmp_path / "out", chunk_size=4)
    with run:
        compress_batches(run.staging, [0])
        with (src / "large1").open("ab") as file:
            file.write(b"it moves")
        compress_batches(run.staging, range(1, plan.parts))
        assembler = Assembler(run.staging, run.staging / "archive")
        with pytest.MonkeyPatch.context() as patch:
            made = 0

            def again(*args: Any, **more: Any) -> None:
                nonlocal made
                made += 1
                run.request_cancel()
                compress_module.compress_batch(*args, **more)

            patch.setattr(assemble_module, "compress_batch", again)
            assembler.run(lambda: False)
        assert made == 1
        assembler.close()
        waiting = Assembler(run.staging, run.staging / "archive2")
        waiting.run(lambda: False)
        waiting.close()


def test_a_cancel_stops_the_walk_too(src: Path, tmp_path: Path) -> None:
    """(case 95)"""
    with BackupRun(
        [str(src)], output=None, to=str(tmp_path / "out"), job=None, options=BackupOptions()
    ) as run:
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.discover()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """Give a function that mounts a file system of so many bytes."""
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", place], check=True
        )
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.needs_root
def test_a_full_disk_at_any_point_leaves_earlier_archives_alone(
    tmp_path: Path, small_disk: Any
) -> None:
    """One line that says what to do, nothing half-made, and it works after freeing (case 96)."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(300):
        (src / f"f{number:03d}").write_bytes(noise(5000, number))
    (src / "large").write_bytes(noise(1_000_000))
    needed = back_up(src, to=tmp_path / "enough").report.bytes_stored
    pick = random.Random(7)
    sizes = [
        4096,
        3 << 12,
        6 << 12,
        40 << 10,
        *(pick.randrange(80 << 10, needed) for _ in range(6)),
    ]
    sizes += [needed - 4096]  # all but the end
    for size in sizes:
        disk = small_disk(size + 4096)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan_module, "_MOST_BATCH_FILES", 40)
            (disk / "earlier").write_bytes(b"kept")
            with pytest.raises(PyBakError) as caught:
                back_up(src, to=disk)
        assert isinstance(caught.value, StorageError | Interrupted), size
        if isinstance(caught.value, StorageError):
            assert str(disk) in str(caught.value)
            assert "no space left on the disk" in str(caught.value)
        assert os.listdir(disk) == ["earlier"], size
        assert (disk / "earlier").read_bytes() == b"kept"
    disk = small_disk(2 * needed)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 * needed - 100_000))
    with pytest.raises(PyBakError):
        back_up(src, to=disk)
    ballast.unlink()
    judge(back_up(src, to=disk).path)


@pytest.mark.needs_root
def test_staging_may_lie_on_another_disk(src: Path, tmp_path: Path, small_disk: Any) -> None:
    """Segments cross file systems; a full staging says how to move it."""
    done = back_up(src, to=tmp_path / "out", staging=str(small_disk(4 << 20)), chunk_size=4)
    judge(done.path)
    assert done.contents == expected(src)
    assert os.listdir(tmp_path / "out") == [done.path.name]
    tiny = small_disk(64 << 10)
    with pytest.raises(StorageError, match="--staging"):
        back_up(src, to=tmp_path / "out", staging=str(tiny), chunk_size=4)
    assert os.listdir(tmp_path / "out") == [done.path.name]
    assert os.listdir(tiny) == []


def test_a_kernel_that_can_not_copy_by_itself_is_helped(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    done = back_up(src, to=tmp_path / "out", chunk_size=4)
    judge(done.path)
    assert done.contents == expected(src)


def test_a_sync_that_fails_is_a_failed_run(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 105)"""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="input/output error"):
        back_up(src, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shortened_segment_is_noticed(src: Path, tmp_path: Path) -> None:
    run, kept, plan = begin(src, tmp_path / "out")
    with run:
        compress_batches(run.staging, range(plan.batches))
        index = read_index(run.staging, plan.batches - 1)
        os.truncate(run.staging / "segments" / index.segment, 100)
        with (
            run.assembling() as archive,
            pytest.raises(StorageError, match=r"of \d+ bytes holds 100"),
        ):
            archive.finish(run.header(), run.owner_names(kept))
        shutil.rmtree(run.staging / "segments")
