"""One file in a storage, read at any place."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from memory import Failing, MemoryStorage

from pybak.errors import NotFoundError, StorageError
from pybak.storage.reading import BLOCK, KEPT, WINDOW, RangeCache, StorageSource

DATA = random.Random(1).randbytes(30 << 20)


@pytest.fixture(scope="module")
def storage() -> MemoryStorage:
    made = MemoryStorage()
    made.add("big", DATA)
    made.add("small", b"0123456789")
    made.add("empty", b"")
    return made


def source(storage: Any, name: str = "big", **more: Any) -> StorageSource:
    return StorageSource(storage, name, sleep=lambda _seconds: None, **more)


def test_every_place_reads_as_it_is(storage: MemoryStorage) -> None:
    chance = random.Random(2)
    opened = source(storage)
    for _ in range(300):
        at = chance.choice([chance.randrange(len(DATA)), chance.randrange(3 * BLOCK)])
        length = chance.choice([1, 7, 512, BLOCK, BLOCK + 1, 3 << 20, 20 << 20])
        assert opened.pread(length, at) == DATA[at : at + length]


@pytest.mark.parametrize("name", ["small", "empty"])
def test_nothing_is_read_beyond_the_end(storage: MemoryStorage, name: str) -> None:
    opened = source(storage, name)
    assert opened.size == len(storage[name])
    assert opened.pread(100, 0) == storage[name]
    assert opened.pread(100, opened.size) == b""
    assert opened.pread(100, 10**9) == b""


def test_a_read_somewhere_fetches_a_block(storage: MemoryStorage) -> None:
    opened = source(storage)
    opened.pread(100, 20 * BLOCK + 5)
    assert (opened.cache.requests, opened.cache.bytes_read) == (1, BLOCK)
    opened.pread(100, 20 * BLOCK + 500)
    assert opened.cache.requests == 1


def test_the_end_is_fetched_at_once(storage: MemoryStorage) -> None:
    opened = source(storage)
    opened.pread(22, opened.size - 22)
    opened.pread(66_000, opened.size - 66_000)
    opened.pread(200_000, opened.size - 260_000)
    assert opened.cache.requests == 1


@pytest.mark.parametrize("length", [300_000, 1_000_000, 3_000_000])
def test_a_short_run_fetches_no_more_than_twice_what_it_reads(
    storage: MemoryStorage, length: int
) -> None:
    opened = source(storage)
    for at in range(0, length, 10_000):
        opened.pread(10_000, 5_000_000 + at)
    assert opened.cache.bytes_read <= 2 * length + 2 * BLOCK


def test_reading_on_takes_few_requests_and_fetches_each_byte_once(storage: MemoryStorage) -> None:
    opened = source(storage)
    got = b"".join(opened.pread(1 << 20, at) for at in range(0, len(DATA), 1 << 20))
    assert got == DATA
    assert opened.cache.bytes_read == len(DATA)
    assert opened.cache.requests < 16


def test_what_comes_next_is_fetched_while_this_is_worked_on() -> None:
    fetched = threading.Event()
    asked: list[int] = []

    class Watched(MemoryStorage):
        def read(self, name: str, offset: int, length: int, **more: Any) -> bytes:
            asked.append(offset)
            if offset >= 16 << 20:
                fetched.set()
            return super().read(name, offset, length, **more)

    storage = Watched()
    storage.add("big", DATA)
    opened = source(storage)
    at = 0
    while not fetched.is_set() and at < 16 << 20:
        opened.pread(1 << 20, at)
        at += 1 << 20
        fetched.wait(0.1)
    assert fetched.is_set()
    assert at < 16 << 20


def test_memory_is_bounded(storage: MemoryStorage) -> None:
    cache = RangeCache()
    volumes = [source(storage, cache=cache) for _ in range(3)]
    for at in range(0, len(DATA), 1 << 20):
        for opened in volumes:
            assert opened.pread(1 << 20, at) == DATA[at : at + (1 << 20)]
            assert cache._size <= KEPT + 4 * WINDOW
            assert cache._size == sum(w.size for one in volumes for w in one._windows)
    for opened in volumes:
        opened.close()
    assert cache._size == 0


def test_threads_share_one(storage: MemoryStorage) -> None:
    opened = source(storage)

    def walk(number: int) -> bool:
        start = number * (5 << 20)
        steps = range(start, start + (5 << 20), 77_777)
        return all(opened.pread(77_777, at) == DATA[at : at + 77_777] for at in steps)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(walk, range(8)))


def test_a_read_that_fails_is_tried_again(storage: MemoryStorage) -> None:
    failing = Failing(
        storage,
        lambda method, number: method == "read" and number in (2, 3),
        error=lambda: StorageError("busy", retryable=True),
    )
    opened = source(failing)
    assert opened.pread(10, 0) == DATA[:10]
    assert failing.fired == ["read", "read"]


def test_what_fails_ahead_is_fetched_by_who_needs_it() -> None:
    class Broken(MemoryStorage):
        failed = 0

        def read(self, name: str, offset: int, length: int, **more: Any) -> bytes:
            if threading.current_thread().name == "pybak-read-ahead":
                self.failed += 1
                raise StorageError("busy", retryable=True)
            return super().read(name, offset, length, **more)

    storage = Broken()
    storage.add("big", DATA)
    opened = source(storage)
    assert b"".join(opened.pread(1 << 20, at) for at in range(0, len(DATA), 1 << 20)) == DATA
    assert storage.failed


@pytest.mark.parametrize(("retryable", "tries"), [(True, 9), (False, 1)])
def test_what_can_not_be_had_is_not_asked_for_ever(
    storage: MemoryStorage, retryable: bool, tries: int
) -> None:
    failing = Failing(
        storage,
        lambda method, _: method == "read",
        error=lambda: StorageError("down", retryable=retryable),
    )
    opened = source(failing)
    for at in range(0, 50 * BLOCK, BLOCK):
        with pytest.raises(StorageError, match="down"):
            opened.pread(10, at)
    assert len(failing.fired) == tries


def test_a_body_that_is_cut_is_fetched_again() -> None:
    class Cutting(MemoryStorage):
        cuts = 2

        def read(self, *args: Any, **more: Any) -> bytes:
            data = super().read(*args, **more)
            if self.cuts:
                self.cuts -= 1
                return data[: len(data) // 2]
            return data

    storage = Cutting()
    storage.add("big", DATA)
    assert source(storage).pread(1000, 70_000) == DATA[70_000:71_000]
    assert storage.cuts == 0


def _replace(storage: MemoryStorage) -> None:
    storage.delete("a")
    storage.add("a", bytes(1 << 20))


def _remove(storage: MemoryStorage) -> None:
    storage.delete("a")


@pytest.mark.parametrize(
    ("change", "said"),
    [(_replace, "replaced"), (_remove, "s3://bucket/backups/a: is gone")],
    ids=["replaced", "removed"],
)
def test_a_file_that_changes_meanwhile_is_noticed(
    change: Callable[[MemoryStorage], None], said: str
) -> None:
    storage = MemoryStorage()
    storage.add("a", DATA[: 1 << 20])
    opened = source(storage, "a")
    opened.pread(10, 0)
    change(storage)
    with pytest.raises(StorageError, match=said):
        opened.pread(10, 5 * BLOCK)


def test_what_is_known_is_not_asked(storage: MemoryStorage) -> None:
    (known,) = source(storage).identity
    before = storage.calls["stat"]
    opened = source(storage, known=known)
    assert (opened.size, opened.identity) == (len(DATA), (known,))
    assert opened.pread(5, 3) == DATA[3:8]
    assert storage.calls["stat"] == before


def test_a_missing_file_is_told(storage: MemoryStorage) -> None:
    with pytest.raises(NotFoundError, match="s3://bucket/backups/none: no such archive"):
        source(storage, "none")


def test_forgetting_fetches_anew(storage: MemoryStorage) -> None:
    opened = source(storage)
    for _ in range(2):
        opened.pread(10, 0)
    assert opened.cache.requests == 1
    assert opened.forget()
    opened.pread(10, 0)
    assert opened.cache.requests == 2
