"""Workers that send what they compress: stretches of batches, straight into parts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, PASSWORD, back_up, judge_outcome, noise, prose, shrink
from moving import Moving, append, rewrite
from sent import nothing_is_left, send, small_parts
from storage.memory import Failing, MemoryStorage, used

from pybak.backup import stretches as stretches_module
from pybak.backup.compress import compress_batches
from pybak.backup.run import BackupRun
from pybak.backup.stretches import read_record, read_stretches, record_path
from pybak.errors import Interrupted, StorageError
from pybak.options import BackupOptions

PART = 60_000
LEAST = 5_000
PLAIN = {name: how for name, how in FORMATS.items() if name != "tar.bz2"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    shrink(monkeypatch, part=PART)
    small_parts(monkeypatch, 12_000)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    for number in range(150):
        (src / f"f{number:03d}").write_bytes(noise(6_000, number) + prose(500, number))
    (src / "large").write_bytes(noise(3 * PART + 77))
    os.link(src / "f003", src / "linked")
    return src


def expected(src: Path) -> dict[str, bytes]:
    return {f"src/{path.name}": path.read_bytes() for path in src.iterdir()} | {"src/": b""}


HOW: dict[str, Any] = {"chunk_size": 4, "cluster": "threads"}


class Watched(MemoryStorage):
    """Tells which threads sent parts: a stretch's own are none of the run's."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.numbers: set[int] = set()

    def send(self, upload: Any, number: int, body: Any) -> Any:
        self.numbers.add(number)
        return super().send(upload, number, body)


@pytest.mark.parametrize(
    ("kind", "least"), [*((kind, LEAST) for kind in PLAIN), ("zip", 0), ("tar.zst", 1)]
)
def test_what_workers_send_makes_the_archive(
    src: Path, tmp_path: Path, kind: str, least: int
) -> None:
    """With a large file in front, and in tar a hard link behind."""
    storage = Watched(least=least)
    planned = []

    def note(run: BackupRun) -> None:
        found = read_stretches(run.staging)
        assert found is not None
        planned.extend(found.all)

    done = send(
        src, storage=storage, place=tmp_path / "got", threads=3, before_reading=note,
        **HOW, **PLAIN[kind],
    )  # fmt: skip
    judge_outcome(done)
    links = {"src/linked": b"src/f003"} if kind.startswith("tar") else {}
    assert done.contents | links == expected(src) | links
    assert done.report.files.total == 152
    assert len(planned) >= 4
    own = {number for one in planned for number in range(one.first + 1, one.end)}
    assert len(own & storage.numbers) > 30
    nothing_is_left(storage, tmp_path / "home")


def begin(src: Path, storage: Any, **more: Any) -> BackupRun:
    return BackupRun(
        [str(src)], output=None, to=storage.address, job=None,
        options=BackupOptions(workers=3, **HOW, **more),
    )  # fmt: skip


def test_stretches_cover_all_batches_once_and_become_shorter(src: Path) -> None:
    storage = MemoryStorage(least=LEAST)
    with used(storage), begin(src, storage) as run:
        run.choose_base(None)
        plan = run.plan(run.filter(run.discover()))
        found = read_stretches(run.staging)
        assert found is not None
        taken = [number for hand in plan.hands for number in hand.batches()]
        assert sorted(taken) == list(range(1, plan.batches)), "the first has only a folder"
        assert [(hand.start, hand.stop) for hand in plan.hands] == [
            (one.start, one.stop) for one in found.all
        ]
        small = [one for one in found.all if one.start >= plan.parts]
        assert small[0].start == plan.parts
        assert (small[-1].stop, found.all[0].start) == (plan.batches, 1)
        for one, other in zip(found.all, found.all[1:], strict=False):
            assert one.stop == other.start
            assert one.first < one.end <= other.first
        lengths = [one.stop - one.start for one in small]
        assert lengths[0] >= lengths[-1]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Give a folder of large files, with folders above and small ones between."""
    src = tmp_path / "src"
    for name in ("a", "b/c", "d"):
        (src / name).mkdir(parents=True)
    (src / "a" / "one").write_bytes(noise(7 * PART + 5, 1))
    (src / "b" / "c" / "two").write_bytes(noise(PART + 500, 2))
    (src / "victim").write_bytes(noise(9 * PART, 3))
    (src / "zeros").write_bytes(bytes(5 * PART))
    for number in range(30):
        (src / "d" / f"f{number}").write_bytes(noise(5_000, 100 + number))
    return src


def files(src: Path) -> dict[str, bytes]:
    return {
        f"src/{path.relative_to(src)}": path.read_bytes()
        for path in src.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("least", [0, LEAST])
def test_large_files_are_sent_by_several_workers(
    large: Path, tmp_path: Path, kind: str, least: int
) -> None:
    storage = Watched(least=least)
    planned = []
    done = send(
        large, storage=storage, place=tmp_path / "got", threads=3,
        before_reading=lambda run: planned.append(read_stretches(run.staging)),
        **HOW, **PLAIN[kind],
    )  # fmt: skip
    judge_outcome(done)
    contents = done.contents
    assert {name: contents[name] for name in files(large)} == files(large)
    of_victim = [one for one in planned[0].all if one.stop <= done.plan.parts]
    assert len(of_victim) >= 4
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("act", [append, rewrite])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_file_that_moves_between_its_stretches_is_made_once_more(
    large: Path, tmp_path: Path, kind: str, act: Callable[[Path, int], object], threads: int
) -> None:
    """Under the numbers of what was sent of it before (case 48)."""
    victim = large / "victim"
    read = Moving(victim, act, times=1)
    storage = MemoryStorage(least=LEAST)
    done = send(
        large, storage=storage, place=tmp_path / "got", read=read, threads=threads,
        **HOW, **PLAIN[kind],
    )  # fmt: skip
    assert read.done == 1
    judge_outcome(done)
    assert done.errors == {}
    contents = done.contents
    assert {name: contents[name] for name in files(large)} == files(large)
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
@pytest.mark.parametrize("after", [1, 20, 60])
def test_a_large_file_that_vanishes_between_its_stretches_is_left_out(
    large: Path, tmp_path: Path, kind: str, after: int
) -> None:
    """(case 44)"""
    victim = large / "victim"
    read = Moving(victim, lambda path, time: time == after and path.unlink(), times=after)
    storage = MemoryStorage(least=LEAST)
    done = send(
        large, storage=storage, place=tmp_path / "got", read=read, threads=1,
        **HOW, **PLAIN[kind],
    )  # fmt: skip
    judge_outcome(done)
    contents = done.contents
    assert "src/victim" not in contents
    assert {name: contents[name] for name in files(large)} == files(large)


def test_a_large_file_that_is_far_larger_by_now_finds_its_place(
    large: Path, tmp_path: Path
) -> None:
    """Made once more under few numbers, between those of others."""
    victim = large / "b" / "c" / "two"

    def grow(_run: BackupRun) -> None:
        victim.write_bytes(noise(12 * PART, 9))

    storage = MemoryStorage(least=LEAST)
    for kind in ("zip", "tar"):
        done = send(
            large, storage=storage, place=tmp_path / kind, before_reading=grow, format=kind, **HOW
        )
        judge_outcome(done)
        contents = done.contents
        assert {name: contents[name] for name in files(large)} == files(large)
        victim.write_bytes(noise(PART + 500, 2))


@pytest.mark.parametrize(
    "how", [{"split": "64KiB"}, {"format": "tar", "password": PASSWORD}, {"cluster": "auto"},
            {"bandwidth_limit": "1GB"}],
)  # fmt: skip
def test_only_plain_archives_are_sent_by_workers(
    src: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    def none(run: BackupRun) -> None:
        assert read_stretches(run.staging) is None

    storage = MemoryStorage(least=LEAST)
    done = send(src, storage=storage, place=tmp_path / "got", before_reading=none, **{**HOW, **how})
    judge_outcome(done)


def test_a_stretch_that_is_run_again_replaces_its_parts(src: Path, tmp_path: Path) -> None:
    """A worker that died in the middle of a part leaves nothing that counts (case 64)."""
    storage = MemoryStorage(least=LEAST)
    tries: list[int] = []

    def dies_once(folder: Path, numbers: range, **more: Any) -> None:
        stretch = stretches_module.stretch_from(folder, list(numbers))
        if stretch is not None:
            with pytest.MonkeyPatch.context() as patch:
                real = stretches_module._Sending.finish

                def die(self: Any, indexes: Any) -> Any:
                    real(self, indexes)
                    raise Interrupted("killed")

                patch.setattr(stretches_module._Sending, "finish", die)
                with pytest.raises(Interrupted):
                    compress_batches(folder, numbers, **more)
            assert not record_path(folder, stretch.start).exists()
            tries.append(stretch.start)
        compress_batches(folder, numbers, **more)
        compress_batches(folder, numbers, **more)  # and once more for nothing

    done = send(src, storage=storage, place=tmp_path / "got", threads=1, compress=dies_once, **HOW)
    judge_outcome(done)
    assert done.contents == expected(src)
    assert len(tries) > 2
    nothing_is_left(storage, tmp_path / "home")


def test_two_workers_at_one_stretch_do_no_harm(src: Path, tmp_path: Path) -> None:
    """The archive is right, or the run fails and leaves nothing."""

    def twice(folder: Path, numbers: range, **more: Any) -> None:
        other = threading.Thread(target=compress_batches, args=(folder, numbers), kwargs=more)
        other.start()
        compress_batches(folder, numbers, **more)
        other.join()

    storage = MemoryStorage(least=LEAST)
    try:
        done = send(src, storage=storage, place=tmp_path / "got", compress=twice, **HOW)
    except StorageError:
        assert storage.names == []
    else:
        assert done.contents == expected(src)
    nothing_is_left(storage, tmp_path / "home")


@pytest.mark.parametrize("number", [1, 5, 25])
def test_a_part_that_a_worker_can_not_send_ends_the_run(
    src: Path, tmp_path: Path, number: int
) -> None:
    inner = MemoryStorage(least=LEAST)
    seen: list[str] = []

    def fails(method: str, _: int) -> bool:
        seen.append(method)
        return method == "send" and seen.count("send") >= number

    storage = Failing(inner, fails)
    with used(storage), pytest.raises(StorageError, match="the storage broke"):
        back_up(src, to=storage.address, threads=3, **HOW)  # type: ignore[arg-type]
    assert inner.names == []
    nothing_is_left(inner, tmp_path / "home")


def test_a_cancel_stops_workers_that_send(src: Path, tmp_path: Path) -> None:
    """(case 95)"""
    storage = MemoryStorage(least=LEAST)
    with used(storage), begin(src, storage) as run:
        run.choose_base(None)
        plan = run.plan(run.filter(run.discover()))
        with run.assembling():
            for hand in plan.hands[:5]:
                compress_batches(run.staging, hand.batches())
            run.request_cancel()
            for hand in plan.hands[5:]:
                with pytest.raises(Interrupted):
                    compress_batches(run.staging, hand.batches())
    assert storage.names == []
    nothing_is_left(storage, tmp_path / "home")


def test_files_that_grow_much_still_find_a_number(src: Path, tmp_path: Path) -> None:
    """All that is too much goes into a stretch's last part."""

    def grow(run: BackupRun) -> None:
        for number in range(40, 80):
            (src / f"f{number:03d}").write_bytes(noise(50_000, number))

    storage = MemoryStorage(least=LEAST)
    done = send(
        src, storage=storage, place=tmp_path / "got", before_reading=grow, format="tar", **HOW
    )
    judge_outcome(done)
    assert done.contents["src/f050"] == noise(50_000, 50)


def test_a_worker_keeps_little_on_the_disk(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sends; and of a finished stretch only what is too small for a part."""
    monkeypatch.setattr("pybak.backup.shipping.LEAST_STAGING_LIMIT", 0)
    storage = MemoryStorage(least=LEAST)
    with used(storage), begin(src, storage, staging_limit="800kB") as run:
        run.choose_base(None)
        plan = run.plan(run.filter(run.discover()))
        found = read_stretches(run.staging)
        assert found is not None
        assert found.staged_bytes < 200_000
        with run.assembling():
            for hand in plan.hands:
                if hand.start >= plan.parts + 1:  # the first is missing: nothing is laid down
                    compress_batches(run.staging, hand.batches())
                    record = read_record(run.staging, hand.start) if hand.step == 1 else None
                    if record is not None and hand.start != found.all[0].start:
                        assert sum(one.size for one in (*record.held, *record.tail)) <= 2 * LEAST
            staged = sum(path.stat().st_size for path in (run.staging / "segments").iterdir())
            assert staged <= len(found.all) * 2 * LEAST
            run.request_cancel()
