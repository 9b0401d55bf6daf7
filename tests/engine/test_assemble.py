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
from pathlib import Path
from typing import Any

import pytest
from backing_up import (
    FORMATS,
    PASSWORD,
    back_up,
    judge,
    judge_outcome,
    noise,
    prose,
    shrink,
    unpacked,
)

from pybak.backup import assemble as assemble_module
from pybak.backup import compress as compress_module
from pybak.backup import plan as plan_module
from pybak.backup.assemble import Assembler
from pybak.backup.check_password import leave_check
from pybak.backup.compress import compress_batches
from pybak.backup.output import ArchiveFile
from pybak.backup.run import BackupRun
from pybak.backup.segments import read_index
from pybak.direct import DirectBuffer
from pybak.errors import ArchiveError, Interrupted, PyBakError, StorageError
from pybak.formats.manifest import MEMBER_NAME
from pybak.options import BackupOptions

PART = 50_000


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, part=PART, piece=16_000)


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


def begin(
    src: Path, to: Path, password: bytes | None = None, **options: Any
) -> tuple[BackupRun, Any, Any]:
    run = BackupRun(
        [str(src)], output=None, to=str(to), job=None, options=BackupOptions(**options),
        password=password,
    )  # fmt: skip
    kept = run.filter(run.discover())
    return run, kept, run.plan(kept)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.zst"])
def test_segments_may_come_in_any_order(src: Path, tmp_path: Path, kind: str) -> None:
    """The archive is the same, byte for byte, but for its manifest, which tells the run."""
    digests = set()
    for seed in range(3):
        run, _kept, plan = begin(src, tmp_path / "out", chunk_size=4, format=kind)
        with run:
            assert plan.batches > 15
            order = list(range(plan.batches))
            random.Random(seed).shuffle(order)
            with run.assembling() as archive:
                for number in order:
                    compress_batches(run.staging, [number])
                done = archive.finish(run.header(), run.owner_names())
            data = done.path.read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (
                done.size, run.finished(done, 0)[0].sums.get("sha256", digest_of_parts(done, data)),
            )  # fmt: skip
            if kind == "zip":
                judge(done.path, ["unzip"])
                with zipfile.ZipFile(done.path) as file:
                    assert {n: file.read(n) for n in file.namelist()[:-1]} == expected(src)
                    data = data[: file.infolist()[-1].header_offset]
            else:
                plain = unpacked(data, kind)
                data = plain[: plain.index(MEMBER_NAME)]
            digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1


def digest_of_parts(done: Any, data: bytes) -> str:
    """Give the digest of the whole if those of the parts are right."""
    at = 0
    for part in done.parts:
        assert hashlib.sha256(data[at : at + part.size]).hexdigest() == part.sha256
        at += part.size
    assert at == len(data)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_batch_that_two_workers_make_at_once_is_there_once(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """A cluster may give a task to a second worker while the first still runs."""

    def twice(folder: Path, numbers: range, **more: Any) -> None:
        other = threading.Thread(target=compress_batches, args=(folder, numbers), kwargs=more)
        other.start()
        compress_batches(folder, numbers, **more)
        other.join()

    done = back_up(src, to=tmp_path / "out", chunk_size=4, compress=twice, **FORMATS[kind])
    judge_outcome(done)
    assert done.contents == expected(src)
    assert done.report.files.new == 62


@pytest.mark.parametrize("kind", FORMATS)
def test_the_digests_cover_every_byte_in_order(
    src: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybak.storage.local._WHOLE_DIGEST_BYTES", 0)
    done = back_up(src, to=tmp_path / "out", chunk_size=4, **FORMATS[kind])
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
    run, _kept, plan = begin(src, tmp_path / "out", chunk_size=4)
    with run, run.assembling() as archive:
        compress_batches(run.staging, (n for n in range(plan.batches) if n != missing))
        with pytest.raises(ArchiveError, match=f"of {plan.batches} pieces"):
            archive.finish(run.header(), run.owner_names())
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
        append, calls = assembler._output.append_file, 0

        def count(*segment: Any) -> None:
            nonlocal calls
            if calls == taken:
                run.request_cancel()
            append(*segment)
            calls += 1

        monkeypatch.setattr(assembler._output, "append_file", count)
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
        assert plan.batches > plan.parts > 4
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
@pytest.mark.parametrize("how", [
    {"format": "tar.gz"}, {"password": PASSWORD}, {"format": "tar", "split": "100KiB"},
    {"format": "tar.zst", "password": PASSWORD, "split": "100KiB"},
])  # fmt: skip
def test_a_full_disk_spoils_no_format(
    src: Path, tmp_path: Path, small_disk: Any, how: dict[str, Any]
) -> None:
    """With segments on another disk, it is the archive or a volume that does not fit (case 96)."""
    how = how | {"chunk_size": 4, "staging": str(tmp_path)}
    whole = back_up(src, to=tmp_path / "enough", **how)
    needed = whole.report.bytes_stored
    for size in (4096, needed // 3, needed - 20_000):
        disk = small_disk(size // 4096 * 4096 + 4096)
        (disk / "earlier").write_bytes(b"kept")
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(PyBakError) as caught:
            back_up(src, to=disk, **how)
        assert "no space left on the disk" in str(caught.value)
        assert str(disk) in str(caught.value)
        assert os.listdir(disk) == ["earlier"], size
        assert sorted(os.listdir(tmp_path)) == before


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
    asked: list[object] = []

    def refuse(*given: object, **_: object) -> int:
        asked.append(given)
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    # A quick disk would be written to past the page cache.
    monkeypatch.setattr(DirectBuffer, "is_worth_it", property(lambda _: False))
    done = back_up(src, to=tmp_path / "out", chunk_size=4)
    judge(done.path)
    assert done.contents == expected(src)
    assert asked


@pytest.mark.parametrize("more", [{}, {"split": "64KiB"}, {"format": "tar.gz", "password": b"p"}])
def test_a_sync_that_fails_is_a_failed_run(
    src: Path, tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 105)"""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="input/output error"):
        back_up(src, to=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("number", [1, -1], ids=["part of a large file", "small files"])
@pytest.mark.parametrize("split", [None, "64KiB"])
def test_a_shortened_segment_is_noticed(
    src: Path, tmp_path: Path, kind: str, number: int, split: str | None
) -> None:
    password = FORMATS[kind].get("password")
    run, _kept, plan = begin(src, tmp_path / "out", **FORMATS[kind], split=split)
    with run:
        if password is not None:
            leave_check(run.staging, password)
        compress_batches(run.staging, range(plan.batches), password=password)
        index = read_index(run.staging, number % plan.batches)
        assert index.size > 100
        os.truncate(run.staging / "segments" / index.segment, 100)
        with (
            run.assembling() as archive,
            pytest.raises(StorageError, match=r"of \d+ bytes holds 100"),
        ):
            archive.finish(run.header(), run.owner_names())
        shutil.rmtree(run.staging / "segments")


@pytest.mark.parametrize("taken", [0, 3])
def test_a_cancel_while_the_assembler_catches_up_is_no_failure(
    src: Path, tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    run, _, plan = begin(src, tmp_path / "out", chunk_size=4)
    calls = 0
    real = ArchiveFile.append_file

    def append(self: ArchiveFile, *segment: Any) -> None:
        nonlocal calls
        if calls == taken:
            workers_done.wait()
            run.request_cancel()
        calls += 1
        real(self, *segment)

    workers_done = threading.Event()
    monkeypatch.setattr(ArchiveFile, "append_file", append)
    with run, run.assembling() as assembling:
        compress_batches(run.staging, range(plan.batches))
        workers_done.set()
        with pytest.raises(Interrupted):
            assembling.finish(run.header(), ({}, {}))
    assert not (tmp_path / "out").exists()


def test_an_assembler_that_was_called_off_says_so(src: Path, tmp_path: Path) -> None:
    run, _, _ = begin(src, tmp_path / "out", chunk_size=4)
    with run:
        assembler = Assembler(run.staging, run.staging / "archive")
        run.request_cancel()
        assembler.run(lambda: False)
        with pytest.raises(Interrupted):
            assembler.finish(run.header(), users={}, groups={})
        assembler.close()
