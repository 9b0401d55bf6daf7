"""A storage in memory, for tests: honest about what it takes, and it counts what it is asked.

`MemoryStorage(least=..., count=...)` sets the limits of parts. Open it by its address through the
engine with `use(monkeypatch, storage)`. `Failing` stands before any storage and fails at one call.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pybak.errors import ExistsError, NotFoundError, StorageError
from pybak.storage import opening
from pybak.storage.body import BytesBody
from pybak.storage.protocol import Body, PartLimits, SentPart, Storage, Stored, Upload

_REAL_OPEN = opening._open


class MemoryStorage:
    """Files in memory under `address`. `calls` counts methods, `sizes` has those of parts sent.

    `files` and `uploads` (token to name) may be looked at; `at_once` is how many parts were being
    sent at the same time at most, `bytes_read` and `bytes_sent` count what went through.
    """

    def __init__(
        self,
        address: str = "s3://bucket/backups",
        *,
        least: int = 5 << 20,
        most: int = 5 << 30,
        count: int = 10_000,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.address = address
        self.limits = PartLimits(least, most, count)
        self.is_there = True
        self.files: dict[str, tuple[bytes, Stored]] = {}
        self.uploads: dict[str, Upload] = {}
        self.parts: dict[str, dict[int, tuple[bytes, SentPart]]] = {}
        self.calls: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.bytes_sent = self.bytes_read = self.at_once = 0
        self._sending = 0
        self._clock = clock
        self._sent_ns: dict[str, int] = {}
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> bytes:
        return self.files[name][0]

    @property
    def names(self) -> list[str]:
        return sorted(self.files)

    def check(self) -> None:
        self.calls["check"] += 1
        if not self.is_there:
            raise NotFoundError(f"{self.address}: there is no such bucket; make it first")

    def stat(self, name: str) -> Stored | None:
        self.calls["stat"] += 1
        found = self.files.get(name)
        return found[1] if found is not None else None

    def list(self) -> Iterator[Stored]:
        self.calls["list"] += 1
        with self._lock:
            yield from [stored for _, (_, stored) in sorted(self.files.items())]

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        self.calls["read"] += 1
        data, stored = self._found(name)
        if version is not None and stored.version != version:
            raise StorageError(f"{self.address}/{name}: was replaced meanwhile")
        found = data[offset : offset + length]
        with self._lock:
            self.bytes_read += len(found)
        return found

    def _found(self, name: str) -> tuple[bytes, Stored]:
        if name not in self.files:
            raise NotFoundError(f"{self.address}/{name}: there is no such file")
        return self.files[name]

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:
        self.calls["put"] += 1
        data = self._taken(body)
        with self._lock:
            self.bytes_sent += len(data)
            return self._make(name, data)

    def _make(self, name: str, data: bytes) -> Stored:
        if name in self.files:
            raise ExistsError(f"{self.address}/{name}: exists already")
        stored = Stored(name, len(data), self._clock(), f"v{next(self._tokens)}")
        self.files[name] = (data, stored)
        return stored

    @staticmethod
    def _taken(body: Body) -> bytes:
        with body.open() as source:
            data = source.read()
        assert len(data) == body.size
        assert hashlib.sha256(data).hexdigest() == body.sha256
        return data

    def begin(self, name: str) -> Upload:
        self.calls["begin"] += 1
        with self._lock:
            upload = Upload(name, f"u{next(self._tokens)}", self._clock())
            self.uploads[upload.token] = upload
            self.parts[upload.token] = {}
            self._sent_ns[upload.token] = upload.started_ns
        return upload

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        self.calls["send"] += 1
        assert 1 <= number <= self.limits.count, f"part {number}"
        assert 0 < body.size <= self.limits.most
        with self._lock:
            self._sending += 1
            self.at_once = max(self.at_once, self._sending)
        try:
            data = self._taken(body)
        finally:
            with self._lock:
                self._sending -= 1
        with self._lock:
            if upload.token not in self.uploads:
                raise StorageError(f"{self.address}/{upload.name}: no such upload")
            part = SentPart(number, len(data), body.sha256, f"e{next(self._tokens)}")
            self.parts[upload.token][number] = (data, part)
            self._sent_ns[upload.token] = self._clock()
            self.sizes.append(len(data))
            self.bytes_sent += len(data)
        return part

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        self.calls["complete"] += 1
        with self._lock:
            if upload.token not in self.uploads:
                raise StorageError(f"{self.address}/{upload.name}: no such upload")
            if upload.name in self.files:
                self._drop(upload)
                raise ExistsError(f"{self.address}/{upload.name}: exists already")
            numbers = [part.number for part in parts]
            known = self.parts[upload.token]
            if not parts or numbers != sorted(set(numbers)):
                raise StorageError(f"{self.address}/{upload.name}: parts are not in order")
            for part in parts:
                if part.number not in known or known[part.number][1] != part:
                    raise StorageError(f"{self.address}/{upload.name}: part {part.number} differs")
            if any(part.size < self.limits.least for part in parts[:-1]):
                raise StorageError(f"{self.address}/{upload.name}: a part is too small")
            stored = self._make(upload.name, b"".join(known[number][0] for number in numbers))
            self._drop(upload)
            return stored

    def _drop(self, upload: Upload) -> None:
        self.uploads.pop(upload.token, None)
        self.parts.pop(upload.token, None)

    def abort(self, upload: Upload) -> None:
        self.calls["abort"] += 1
        with self._lock:
            self._drop(upload)

    def unfinished(self) -> Iterator[Upload]:
        self.calls["unfinished"] += 1
        yield from list(self.uploads.values())

    def newest_ns(self, upload: Upload) -> int:
        self.calls["newest_ns"] += 1
        with self._lock:
            return self._sent_ns.get(upload.token, 0) if upload.token in self.uploads else 0

    def delete(self, name: str, *, version: str | None = None) -> bool:
        self.calls["delete"] += 1
        with self._lock:
            if name not in self.files:
                return False
            if version is not None and self.files[name][1].version != version:
                raise StorageError(f"{self.address}/{name}: was replaced meanwhile")
            del self.files[name]
            return True

    def close(self) -> None:
        self.calls["close"] += 1

    def add(self, name: str, data: bytes) -> Stored:
        """Have a file there that someone else put."""
        return self.put(name, BytesBody(data))


class Failing:
    """Hands everything on to `storage`, but fails at the calls that `when` says true for.

    `when(method, count)` gets the method's name and the number of that call, from 1 on over all
    methods; `after` says that the storage did what it was asked, and its answer was lost. `fired`
    tells the methods that failed.
    """

    def __init__(
        self,
        storage: Storage,
        when: Callable[[str, int], bool],
        *,
        error: Callable[[], BaseException] = lambda: StorageError("the storage broke; try later"),
        after: bool = False,
    ) -> None:
        self.storage = storage
        self.address = storage.address
        self.limits = storage.limits
        self.fired: list[str] = []
        self._when, self._error, self._after = when, error, after
        self._count = itertools.count(1)

    def __getattr__(self, method: str) -> Any:
        real = getattr(self.storage, method)
        if method in ("close", "limits", "address") or not callable(real):
            return real

        def call(*args: Any, **more: Any) -> Any:
            fails = self._when(method, next(self._count))
            if fails:
                self.fired.append(method)
            if fails and not self._after:
                raise self._error()
            result = real(*args, **more)
            if fails:
                if method in ("list", "unfinished"):
                    result = list(result)
                raise self._error()
            return result

        return call


def use(patch: pytest.MonkeyPatch, *storages: Storage | Failing) -> None:
    """Have `open_storage` give these by their addresses, and nothing else."""
    known = {storage.address: storage for storage in storages}

    def give(address: str) -> Any:
        if address in known:
            return known[address]
        raise NotFoundError(f"{address}: there is no such storage in this test")

    patch.setattr(opening, "_open", give)


def use_also(patch: pytest.MonkeyPatch, *storages: Storage | Failing) -> None:
    """Have `open_storage` give these beside local folders; other buckets are there and empty."""
    known = {storage.address: storage for storage in storages}

    def give(address: str) -> Any:
        if address in known:
            return known[address]
        return MemoryStorage(address) if address.startswith("s3:") else _REAL_OPEN(address)

    patch.setattr(opening, "_open", give)


@contextlib.contextmanager
def used(*storages: Storage | Failing) -> Iterator[None]:
    """Do as `use` does, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, *storages)
        yield
