"""Planning: every file in one batch, every batch in one hand, the last ones small."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pybak.backup.batches import Batch, read_batch, read_job
from pybak.backup.costs import seconds_of
from pybak.backup.hands import WAVE_SHARE, deal
from pybak.backup.parts import PART_BYTES
from pybak.backup.plan import PlanOrder, plan_backup
from pybak.clusters import DIRECT, HELPERS, PROCESSES, THREADS, choose_cluster
from pybak.entries import FILE, FOLDER, LINK, Entry, Root, write_entries

ROOTS = [Root(b"/home/me/docs", b"docs")]


def entry(number: int, size: int = 0, kind: str = FILE) -> Entry:
    return Entry(0, b"%06d" % number, kind, size, 1, 1, number, 1, 0o644, 0, 0, 1)


def plan(tmp_path: Path, entries: list[Entry], **how: object) -> tuple[object, list[Batch]]:
    write_entries(tmp_path / "kept", entries)
    settings = {
        "total_bytes": sum(one.size for one in entries if one.kind == FILE), "level": 2,
        "workers": 2,
    } | how  # fmt: skip
    order = PlanOrder(tmp_path / "kept", tuple(ROOTS), tmp_path, **settings)  # type: ignore[arg-type]
    made = plan_backup(order)
    return made, [read_batch(tmp_path, n, made.parts) for n in range(made.batches)]


def test_every_entry_is_in_one_batch_in_the_order_of_the_walk(tmp_path: Path) -> None:
    sizes = [0, 10, 3 << 20, 5 << 20, 100 << 20, 1, 2 << 20] * 30
    entries = [entry(n, size) for n, size in enumerate(sizes)]
    made, batches = plan(tmp_path, entries)
    small = [one for batch in batches if batch.part is None for one in batch.entries]
    large = [batch.entries[0] for batch in batches if batch.part and batch.part.number == 0]
    assert small == [one for one in entries if one.size <= PART_BYTES]
    assert large == [one for one in entries if one.size > PART_BYTES]
    assert (made.files, made.bytes) == (len(entries), sum(sizes))
    assert read_job(tmp_path).batches == len(batches) == made.batches
    assert all(batch.part is not None for batch in batches[: made.parts])


@pytest.mark.parametrize("size", [1, 10**9, 5 << 30])
def test_the_parts_of_a_large_file_follow_each_other(tmp_path: Path, size: int) -> None:
    size += PART_BYTES
    _, batches = plan(tmp_path, [entry(0, size)])
    at = 0
    for number, batch in enumerate(batches):
        assert batch.part is not None
        assert (batch.part.number, batch.part.runs[0][0]) == (number, at)
        assert (batch.part.total, len(batch.part.runs)) == (size, 1)
        assert batch.part.count == len(batches)
        assert 0 < batch.part.length <= PART_BYTES
        at += batch.part.length
    assert at == size


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_a_chunk_size_bounds_the_files_of_a_batch(tmp_path: Path, chunk_size: int) -> None:
    _, batches = plan(tmp_path, [entry(n) for n in range(100)], chunk_size=chunk_size)
    assert [len(batch.entries) for batch in batches][:-1] == [chunk_size] * (len(batches) - 1)
    assert len(batches) == math.ceil(100 / chunk_size)


def test_batches_are_of_some_mib_whatever_the_total(tmp_path: Path) -> None:
    _, batches = plan(tmp_path, [entry(n, 1 << 20) for n in range(2000)])
    sizes = [sum(one.size for one in batch.entries) for batch in batches]
    assert max(sizes) <= 2 * min(sizes[:-1])
    assert 4 << 20 <= max(sizes) <= 32 << 20


def test_folders_and_links_count_for_what_they_are(tmp_path: Path) -> None:
    made, batches = plan(tmp_path, [entry(0, 4096, FOLDER), entry(1, 12, LINK), entry(2, 5)])
    assert (made.folders, made.files, made.bytes, len(batches)) == (1, 2, 5, 1)


def test_folders_above_a_large_file_come_before_it_and_once(tmp_path: Path) -> None:
    """Programs like unzip set modes and times only of folders they meet before their content."""
    large = PART_BYTES + 1

    def at(path: bytes, size: int, kind: str = FILE) -> Entry:
        return Entry(0, path, kind, size, 1, 1, 1, 1, 0o755, 0, 0, 1)

    tree = [
        at(b"", 4096, FOLDER), at(b"small", 1), at(b"a", 4096, FOLDER), at(b"a/b", 4096, FOLDER),
        at(b"a/b/large1", large), at(b"a/large2", large), at(b"c", 4096, FOLDER), at(b"c/f", 1),
    ]  # fmt: skip
    made, batches = plan(tmp_path, tree)
    found = [([one.path for one in batch.entries], batch.part) for batch in batches]
    (above, no_part), *parts, (small, _) = found
    assert (above, no_part) == ([b"", b"a", b"a/b"], None)
    assert [(paths, part.number) for paths, part in parts if part] == [
        ([b"a/b/large1"], 0), ([b"a/b/large1"], 1), ([b"a/large2"], 0), ([b"a/large2"], 1),
    ]  # fmt: skip
    assert small == [b"small", b"c", b"c/f"]
    assert (made.folders, made.files, made.parts) == (4, 4, 5)


def test_in_tar_other_names_of_a_file_come_last_and_know_the_first(tmp_path: Path) -> None:
    """Only names of one inode of one device; links count among them too (cases 29, 31)."""

    def named(
        path: bytes, inode: int, *, device: int = 1, links: int = 2, kind: str = FILE
    ) -> Entry:
        return Entry(0, path, kind, 9, 1, 1, inode, device, 0o644, 0, 0, links)

    tree = [
        named(b"a", 5), named(b"b", 6, links=3), named(b"c", 5), named(b"d", 5, device=2),
        named(b"e", 6, links=3), named(b"f", 8, kind=LINK), named(b"g", 8, kind=LINK),
        named(b"h", 9), named(b"i", 6, links=3), named(b"j", 5, links=1),
        named(b"k", 5, kind=FOLDER),
    ]  # fmt: skip
    made, batches = plan(tmp_path, tree, archive_format="tar", chunk_size=3)
    paths = [one.path for batch in batches for one in batch.entries]
    assert paths == [b"a", b"b", b"d", b"f", b"h", b"j", b"k"]
    job = read_job(tmp_path)
    assert (job.batches, job.link_batches, made.batches, made.files) == (3, 2, 3, 10)
    links = [read_batch(tmp_path, 3 + n, job.parts) for n in range(2)]
    assert [
        (entry.path, first)
        for batch in links
        for entry, first in zip(batch.entries, batch.firsts, strict=True)
    ] == [(b"c", (0, b"a")), (b"e", (0, b"b")), (b"g", (0, b"f")), (b"i", (0, b"b"))]
    assert made.bytes == 9 * 5  # a, b, d, h, j


def test_in_zip_every_name_is_a_file_of_its_own(tmp_path: Path) -> None:
    tree = [Entry(0, b"%d" % n, FILE, 9, 1, 1, 5, 1, 0o644, 0, 0, 2) for n in range(2)]
    made, batches = plan(tmp_path, tree)
    assert [len(batch.entries) for batch in batches] == [2]
    assert (read_job(tmp_path).link_batches, made.bytes) == (0, 18)


def test_a_large_file_that_is_gone_or_shut_is_planned_as_it_was_listed(tmp_path: Path) -> None:
    """What is wrong with it is told when it is read (cases 44, 53)."""
    size = PART_BYTES + 1
    made, batches = plan(tmp_path, [entry(0, size)], archive_format="tar")
    assert [batch.part.data_map for batch in batches if batch.part] == [None, None]
    assert (made.parts, made.bytes) == (2, size)


@pytest.mark.parametrize(
    ("kind", "level", "at_least", "at_most"),
    [("tar", 9, 1, 3), ("zip", 1, 2, 5), ("tar.gz", 9, 30, 80), ("tar.bz2", 1, 40, 90),
     ("tar.zst", 3, 3, 9)],
)  # fmt: skip
def test_the_work_is_estimated_by_format_and_level(
    kind: str, level: int, at_least: float, at_most: float
) -> None:
    """Keys from the password cost more than the cipher, where files are many."""
    seconds = seconds_of(kind, level, files=0, size_bytes=10**9, encrypted=False)
    assert at_least < seconds < at_most
    many = [seconds_of(kind, level, files=10**5, size_bytes=0, encrypted=encrypted)
            for encrypted in (False, True)]  # fmt: skip
    assert many[1] - many[0] > 30


def test_nothing_to_do_makes_no_batch(tmp_path: Path) -> None:
    made, batches = plan(tmp_path, [])
    assert (made.hands, batches, made.cluster) == ((), [], DIRECT)


@given(batches=st.integers(0, 5000), workers=st.integers(1, 256))
def test_every_batch_is_dealt_once_to_few_hands(batches: int, workers: int) -> None:
    hands = list(deal(batches, workers))
    dealt = Counter(number for hand in hands for number in hand.batches())
    assert dealt == Counter(range(batches))
    waves = 3 + math.log(max(batches / workers, 1)) / -math.log(1 - WAVE_SHARE)
    assert len(hands) <= workers * waves
    assert all(len(hand.batches()) for hand in hands)


@given(batches=st.integers(50, 5000), workers=st.integers(1, 8))
def test_the_last_hands_are_single_batches(batches: int, workers: int) -> None:
    """So that nobody waits long for the last worker."""
    hands = list(deal(batches, workers))
    assert all(len(hand.batches()) == 1 for hand in hands[-workers:])
    assert len(hands[0].batches()) > 1


@pytest.mark.parametrize(
    ("wanted", "seconds", "locked", "workers", "fit", "chosen"),
    [
        ("auto", 0.1, 0, 2, "HP", DIRECT),
        ("auto", 5, 0.1, 2, "HP", THREADS),
        ("auto", 5, 4, 2, "HP", HELPERS),
        ("auto", 5, 4, 2, "P", THREADS),
        ("auto", 60, 50, 2, "HP", HELPERS),
        ("auto", 60, 50, 2, "P", PROCESSES),
        ("auto", 60, 50, 2, "", THREADS),
        ("auto", 60, 50, 1, "HP", THREADS),
        ("threads", 60, 50, 2, "HP", THREADS),
        ("helpers", 0.1, 0, 2, "", HELPERS),
        ("processes", 0.1, 0, 2, "", PROCESSES),
        ("tcp://h:1", 0.1, 0, 2, "HP", "tcp://h:1"),
    ],
)
def test_the_cluster_fits_the_work(
    wanted: str, seconds: float, locked: float, workers: int, fit: str, chosen: str
) -> None:
    """`fit` tells what there is memory for: helpers, a cluster's processes."""
    found = choose_cluster(
        wanted, seconds=seconds, locked_seconds=locked, workers=workers,
        processes_fit="P" in fit, helpers_fit="H" in fit,
    )  # fmt: skip
    assert found == chosen


@pytest.mark.parametrize(
    ("files", "size", "fit", "chosen"),
    [
        (20_000, 2_000, True, HELPERS),
        (20_000, 2_000, False, THREADS),
        (40, 30 << 20, True, THREADS),
    ],
)
def test_many_small_files_are_for_helpers(
    tmp_path: Path, files: int, size: int, fit: bool, chosen: str
) -> None:
    """Threads would wait for the interpreter's lock; large files do not hold it."""
    made: Any
    made, _ = plan(tmp_path, [entry(n, size) for n in range(files)], helpers_fit=fit)
    assert made.cluster == chosen


def test_all_owners_are_told_those_of_large_files_and_links_too(tmp_path: Path) -> None:
    def owned(number: int, by: int, **more: Any) -> Entry:
        return replace(entry(number, **more), uid=by, gid=by + 1)

    first = replace(owned(3, 30), links=2, inode=7)
    made, _ = plan(
        tmp_path,
        [owned(1, 10), owned(2, 20, size=PART_BYTES + 1), first, replace(first, path=b"z", uid=40)],
        archive_format="tar",
    )
    assert made.uids == (10, 20, 30, 40)  # type: ignore[attr-defined]
    assert made.gids == (11, 21, 31)  # type: ignore[attr-defined]
