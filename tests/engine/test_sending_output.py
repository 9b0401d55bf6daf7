"""Laying an archive down in a storage: whatever the order of things, the bytes are right."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from sent import compare, small_parts
from storage.memory import Failing, MemoryStorage, use

from pybak.backup.output import ArchiveLayout
from pybak.backup.part_sizes import PartSizes
from pybak.backup.send_pieces import StagedFiles
from pybak.backup.sender import Sender
from pybak.backup.sending import SendingOutput, Shape
from pybak.errors import ExistsError, Interrupted, StorageError
from pybak.storage import remote
from pybak.storage.bandwidth import Bandwidth
from pybak.storage.protocol import PartLimits
from pybak.storage.remote import RemoteDestination

LEAST = 500
_MIB = 1 << 20


class Notes:
    def completing(self, name: str, size: int) -> None: ...
    def completed(self, stored: object) -> None: ...


class Laid:
    """An output that sends, in a folder of its own."""

    def __init__(self, storage: Any, folder: Path, **shape: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.storage = storage
        more = {name: shape.pop(name) for name in ("held_bytes",) if name in shape}
        threads = shape.pop("threads", 3)
        self.shape = Shape("a.zip", shape.pop("payload", None), 100_000, **shape)
        self.sender = Sender(storage, StagedFiles(), threads=threads)
        self.out = SendingOutput(self.shape, self.sender, folder, **more)
        self._pick = random.Random(1)

    def file(self, data: bytes) -> None:
        path = self.folder / f"segment{os.urandom(4).hex()}"
        path.write_bytes(data)
        self.out.append_file(path, len(data), "")

    def publish(self, kinds: tuple[str, ...] = ()) -> remote.Published:
        self.out.finish()
        files = [volume.file for volume in self.out.volumes]
        place = RemoteDestination(self.storage.address, "a.zip", True, "zip")
        done = remote.publish(files, place, Notes(), kinds=kinds)
        self.out.release()
        assert os.listdir(self.folder) == []
        assert self.sender.files.bytes == 0
        for volume in done.volumes:
            compare(volume, self.storage[volume.uri.rpartition("/")[2]])
        return done

    def stored(self, done: remote.Published) -> bytes:
        return b"".join(self.storage[volume.uri.rpartition("/")[2]] for volume in done.volumes)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, 700)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = MemoryStorage(least=LEAST)
    use(monkeypatch, storage)
    return storage


@pytest.mark.parametrize("payload", [None, 64, 699, 700, 2100, 5000])
@pytest.mark.parametrize("seed", range(12))
def test_anything_laid_filled_and_taken_back_arrives_in_order(
    storage: MemoryStorage, tmp_path: Path, seed: int, payload: int | None
) -> None:
    """Against a plain model of the archive, with the starts of volumes as a layout tells them."""
    pick = random.Random(seed)
    laid = Laid(storage, tmp_path / "staging", payload=payload)
    out, model = laid.out, bytearray()
    rooms: list[tuple[int, int, int]] = []
    mark: tuple[Any, int, int] | None = None

    def some(most: int) -> bytes:
        return pick.randbytes(pick.randrange(1, most))

    for _ in range(120):
        match pick.randrange(8):
            case 0:
                data = some(900)
                out.append(data)
                model += data
            case 1 | 2:
                data = some(3000)
                laid.file(data)
                model += data
            case 3:
                chunks = [some(300) for _ in range(pick.randrange(4))]
                assert out.append_stream(iter(chunks)) == sum(map(len, chunks))
                model += b"".join(chunks)
            case 4:
                size = pick.randrange(1, 200)
                rooms.append((out.reserve(size), len(model), size))
                model += bytes(size)
            case 5 if rooms:
                number, at, size = rooms.pop(pick.randrange(len(rooms)))
                if mark is None or at >= mark[1]:
                    data = pick.randbytes(size)
                    out.fill(number, data)
                    model[at : at + size] = data
                else:
                    rooms.append((number, at, size))
            case 6:
                if mark is None:
                    mark = (out.mark(), len(model), 0)
                elif pick.random() < 0.6:
                    out.go_back(mark[0])
                    del model[mark[1] :]
                    rooms = [room for room in rooms if room[1] < mark[1]]
                    mark = (out.mark(), len(model), 0)
                else:
                    out.settle()
                    mark = None
        assert out.size == len(model)
    out.settle()
    for number, at, size in rooms:
        data = pick.randbytes(size)
        out.fill(number, data)
        model[at : at + size] = data
    if payload is not None and payload > 4096:
        layout = ArchiveLayout(tmp_path, lambda: None)
        layout.append(bytes(model))
        assert out.volume_starts(payload) == layout.volume_starts(payload)
    done = laid.publish(("md5", "sha256"))
    assert laid.stored(done) == bytes(model)
    if payload is not None:
        assert all(volume.size == payload for volume in done.volumes[:-1])
    first = storage[f"a.zip{'.001' if payload else ''}"]
    assert storage["a.zip.md5"].startswith(hashlib.md5(first).hexdigest().encode())
    assert storage.uploads == {}


def test_a_part_with_room_goes_under_the_number_that_it_has(
    storage: MemoryStorage, tmp_path: Path
) -> None:
    """The first part is the last to be sent; all others have gone."""
    laid = Laid(storage, tmp_path / "staging", threads=1)
    room = laid.out.reserve(30)
    laid.file(bytes(10_000))
    laid.sender.submit(lambda: None).result()
    (parts,) = storage.parts.values()
    assert sorted(parts) == list(range(2, 15))
    assert laid.out.staged_bytes == 10_000, "a file stays as a whole while a piece of it waits"
    laid.out.fill(room, b"h" * 30)
    done = laid.publish()
    assert laid.stored(done) == b"h" * 30 + bytes(10_000)


def test_what_is_sent_is_gone_from_the_disk(storage: MemoryStorage, tmp_path: Path) -> None:
    laid = Laid(storage, tmp_path / "staging", threads=1)
    for _ in range(20):
        laid.file(bytes(1000))
        laid.sender.submit(lambda: None).result()
        assert laid.out.staged_bytes <= 2000
    laid.publish()


def test_going_back_keeps_no_more_than_a_part_here(storage: MemoryStorage, tmp_path: Path) -> None:
    """What lies behind the mark is sent all the same, and dropped there."""
    laid = Laid(storage, tmp_path / "staging", threads=1)
    laid.file(b"a" * 1000)
    place = laid.out.mark()
    for _ in range(30):
        laid.file(b"b" * 1000)
    laid.sender.submit(lambda: None).result()
    assert laid.out.staged_bytes < 3500
    laid.out.go_back(place)
    laid.out.settle()
    laid.file(b"c" * 1000)
    done = laid.publish()
    assert laid.stored(done) == b"a" * 1000 + b"c" * 1000


def test_what_is_encrypted_is_never_encrypted_again_for_other_bytes(
    storage: MemoryStorage, tmp_path: Path
) -> None:
    """Behind a mark it waits; when too much waits, there is no going back."""
    laid = Laid(storage, tmp_path / "staging", threads=1, password=b"p", held_bytes=5000)
    laid.file(b"a" * 1000)
    place = laid.out.mark()
    laid.file(b"b" * 4000)
    assert laid.out.can_go_back(place)
    laid.out.go_back(place)
    place = laid.out.mark()
    laid.file(b"c" * 6000)
    assert not laid.out.can_go_back(place)
    laid.out.settle()
    laid.publish()


def test_a_small_archive_is_written_at_once(
    storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pybak.backup.sending.WHOLE_BYTES", 200_000)
    laid = Laid(storage, tmp_path / "staging")
    laid.file(bytes(50_000))
    done = laid.publish(("sha256",))
    assert storage.calls["begin"] == 0
    assert done.volumes[0].sha256 == hashlib.sha256(bytes(50_000)).hexdigest()
    assert storage.calls["read"] == 0


@pytest.mark.parametrize("count", [20, 50, 10_000])
def test_numbers_suffice_for_more_than_was_expected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    """Parts grow when their numbers run low."""
    storage = MemoryStorage(least=LEAST, count=count)
    use(monkeypatch, storage)
    laid = Laid(storage, tmp_path / "staging")  # 100 000 are expected
    for number in range(25):
        laid.file(bytes([number]) * 7000)
    done = laid.publish()
    assert laid.stored(done) == b"".join(bytes([number]) * 7000 for number in range(25))


def test_five_tebibytes_fit_into_ten_thousand_parts() -> None:
    limits = PartLimits(5 * _MIB, 5 << 30, 10_000)
    for total in (1, 1 << 30, 100 << 30, 1 << 40, 5 << 40):
        sizes = PartSizes(limits, total, part_bytes=16 * _MIB)
        assert sizes.size(1) >= 16 * _MIB
        assert sizes.size(1) * 8500 >= total
        left, number = total, 0
        while left > 0:
            number += 1
            left -= sizes.size(number)
        assert number <= 9_000
    assert PartSizes(limits, 1 << 30, part_bytes=16 * _MIB).size(1) == 16 * _MIB
    unexpected = PartSizes(limits, 0, part_bytes=16 * _MIB)
    assert sum(unexpected.size(number) for number in range(1, 10_001)) > 300 << 30
    with pytest.raises(StorageError, match="10000 parts"):
        unexpected.size(10_001)


def test_the_first_failure_stops_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = MemoryStorage(least=LEAST)
    storage = Failing(inner, lambda method, count: method == "send" and count > 4)
    use(monkeypatch, storage)
    stopped = threading.Event()
    laid = Laid(storage, tmp_path / "staging", threads=2)
    laid.sender._on_failure = stopped.set
    for _ in range(50):
        laid.file(bytes(1000))
    with pytest.raises(StorageError, match="the storage broke"):
        laid.out.finish()
    assert stopped.is_set()
    with pytest.raises(StorageError, match="the storage broke"):
        laid.out.check()
    laid.out.close()
    assert len(storage.fired) <= 2
    assert laid.out.abort() is None
    assert inner.uploads == {}


def test_a_stop_ends_what_is_being_sent(storage: MemoryStorage, tmp_path: Path) -> None:
    """(case 95)"""
    laid = Laid(storage, tmp_path / "staging")
    laid.sender._bandwidth = Bandwidth(100)
    laid.file(bytes(5000))
    threading.Timer(0.2, laid.out.close).start()
    with pytest.raises((Interrupted, StorageError)):
        laid.out.finish()
    assert laid.out.abort() is None
    assert storage.uploads == {}


def test_a_file_that_someone_else_made_is_not_replaced(
    storage: MemoryStorage, tmp_path: Path
) -> None:
    laid = Laid(storage, tmp_path / "staging", payload=3000)
    laid.file(bytes(10_000))
    storage.add("a.zip.001", b"theirs")
    with pytest.raises(ExistsError, match=r"a\.zip\.001: was made by someone else"):
        laid.publish()
    assert laid.out.abort() is None
    assert storage.names == ["a.zip.001"]
    assert storage["a.zip.001"] == b"theirs"
    assert storage.uploads == {}


def test_bandwidth_is_shared_by_all_threads() -> None:
    """By a clock of the test's own."""
    now = [0.0]
    bandwidth = Bandwidth(
        1000, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    for _ in range(20):
        bandwidth.take(500, lambda: None)
    assert 9.7 <= now[0] <= 10.1
