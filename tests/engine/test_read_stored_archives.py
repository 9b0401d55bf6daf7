"""Archives in storages restored, checked and listed by their addresses."""

from __future__ import annotations

import io
import itertools
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, PASSWORD, back_up, snapshot
from memory import Failing, MemoryStorage, use
from restoring import plan, restore, tree

from pybak.errors import ArchiveError, StorageError
from pybak.formats.archive import Limits
from pybak.formats.opening import open_archive
from pybak.problems import read_problems
from pybak.restore.ask import ask
from pybak.restore.items import Item, read_batch
from pybak.restore.select import Selector
from pybak.restore.snapshot import whole
from pybak.restore.stream import restore_to_stream
from pybak.storage import patience
from pybak.storage.protocol import Stored
from pybak.verify.check import plan_verify, verify_batch
from pybak.volumes.find import find_volumes

KINDS: dict[str, dict[str, Any]] = {
    **FORMATS,
    "zip.split": {"split": "150k"},
    "tar.zst.split": {"format": "tar.zst", "split": "150k"},
    "tar.gz.wrapped": {"format": "tar.gz", "password": PASSWORD},
    "tar.zst.wrapped.split": {"format": "tar.zst", "split": "150k", "password": PASSWORD},
    "tar.split.wide": {"format": "tar", "split": "110k"},
}
CHANCE = random.Random(3)
CONTENT = {
    "docs/a.txt": b"a" * 5000,
    "docs/empty": b"",
    "docs/b.bin": CHANCE.randbytes(120_000),
    "docs/c.bin": CHANCE.randbytes(400_000),
    "more/large.bin": CHANCE.randbytes(1_400_000),
    "more/deep/d.txt": b"the end\n",
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda _seconds: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("stored") / "source"
    for name, data in CONTENT.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "link").symlink_to("docs/a.txt")
    return top


_made: dict[str, tuple[list[tuple[str, bytes]], str]] = {}


def stored(kind: str, source: Path, storage: MemoryStorage | None = None) -> MemoryStorage:
    """Give a storage with an archive of this kind in it, and nothing else."""
    if kind not in _made:
        with tempfile.TemporaryDirectory() as folder:
            done = back_up(source, to=Path(folder), **KINDS[kind])
            _made[kind] = [(f.name, f.read_bytes()) for f in done.files], done.path.name
    storage = storage or MemoryStorage()
    for name, data in _made[kind][0]:
        storage.add(name, data)
    return storage


def address(kind: str, storage: Any) -> bytes:
    """Give the archive's address without a volume's number."""
    return os.fsencode(f"{storage.address}/{_made[kind][1]}")


def password(kind: str) -> bytes | None:
    return KINDS[kind].get("password")


def files(storage: Any) -> list[bytes]:
    return [os.fsencode(f"{storage.address}/{name}") for name in storage.names]


def verify(volumes: Sequence[bytes], work: Path, password: bytes | None = None) -> list[str]:
    """Check an archive; give what is bad."""
    plan = plan_verify(volumes, work_dir=work, tasks=3, password=password)
    found = list(plan.problems)
    for batch in plan.batches:
        found += read_problems(verify_batch(batch, password=password).problems_file)
    return [f"{one.path} {one.message}" for one in found]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_restored_checked_and_listed_by_its_address(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    use(monkeypatch, storage)
    found = find_volumes(address(kind, storage))
    assert list(found.paths) == files(storage)
    done = restore(found.paths, tmp_path / "to", password=password(kind))
    assert (done.failed, done.skipped, done.problems) == (0, 0, [])
    assert snapshot(tmp_path / "to" / "source") == snapshot(source)
    assert verify(found.paths, tmp_path, password(kind)) == []
    with open_archive(found.paths, password=password(kind)) as archive:
        names = {one.name for one in archive.listing(Limits()).members}
    assert {b"source/more/large.bin", b"source/link"} <= names


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_damaged_on_its_way_is_fetched_again(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of one answer is wrong, of some answers in turn; the SDK sees nothing (case 65)."""
    storage = stored(kind, source)

    class Corrupting(MemoryStorage):
        def read(self, name: str, offset: int, length: int, **more: Any) -> bytes:
            data = storage.read(name, offset, length, **more)
            if data and next(count) == bad:
                where = int(chance.random() * len(data))
                damaged.append(where)
                return data[:where] + bytes([data[where] ^ 0x55]) + data[where + 1 :]
            return data

    faulty = Corrupting()
    faulty.files = storage.files
    use(monkeypatch, faulty)
    chance, damaged, count, bad = random.Random(kind), [], itertools.count(), -1
    volumes = find_volumes(address(kind, faulty)).paths
    assert verify(volumes, tmp_path, password(kind)) == []
    answers = next(count)
    for bad in range(0, answers, -(-answers // 6)):
        count, damaged = itertools.count(), []
        (work := tmp_path / f"work{bad}").mkdir()
        assert verify(volumes, work, password(kind)) == []
        assert damaged
        count, damaged = itertools.count(), []
        done = restore(volumes, tmp_path / f"to{bad}", password=password(kind))
        assert damaged
        assert done.problems == []
        assert snapshot(tmp_path / f"to{bad}" / "source") == snapshot(source)


@pytest.mark.parametrize("kind", ["zip", "aes", "tar.gz", "tar.zst.wrapped.split"])
def test_real_damage_is_told_all_the_same(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    name = storage.names[len(storage.names) // 2]
    data = bytearray(storage[name])
    data[len(data) // 2] ^= 1
    storage.delete(name)
    storage.add(name, bytes(data))
    use(monkeypatch, storage)
    volumes = find_volumes(address(kind, storage)).paths
    if "wrapped" in kind:
        with pytest.raises(ArchiveError, match="tampered"):
            verify(volumes, tmp_path, password(kind))
    else:
        assert verify(volumes, tmp_path, password(kind)) != []


@pytest.mark.parametrize("kind", ["zip", "tar.zst", "tar.split.wide"])
def test_reads_that_fail_are_tried_again(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    failed: set[object] = set()

    class FailingOnce(MemoryStorage):
        def read(self, *place: Any, **more: Any) -> bytes:
            self._fail(place)
            return storage.read(*place, **more)

        def stat(self, name: str) -> Stored | None:
            self._fail(name)
            return storage.stat(name)

        def list(self) -> Iterator[Stored]:
            self._fail("list")
            return storage.list()

        def _fail(self, what: object) -> None:
            if what not in failed:
                is_first = not failed  # it may tell that the address is wrong
                failed.add(what)
                if is_first:
                    return
                raise StorageError("slow down", retryable=True)

    use(monkeypatch, FailingOnce())
    volumes = find_volumes(address(kind, storage)).paths
    assert restore(volumes, tmp_path / "to").problems == []
    assert snapshot(tmp_path / "to" / "source") == snapshot(source)
    assert len(failed) > 3


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_storage_that_is_gone_fails_soon_and_clear(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    is_gone = False
    failing = Failing(
        storage,
        lambda _method, _number: is_gone,
        error=lambda: StorageError("bucket can't be reached", retryable=True),
    )
    use(monkeypatch, failing)
    paths = find_volumes(address(kind, storage)).paths
    plan = plan_verify(paths, work_dir=tmp_path, tasks=1)
    is_gone = True
    with pytest.raises(StorageError, match="bucket can't be reached"):
        verify_batch(plan.batches[0])
    assert len(failing.fired) <= 9


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_an_archive_that_is_replaced_meanwhile_is_noticed(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by one of the same length (case 63)."""
    storage = stored(kind, source)
    use(monkeypatch, storage)
    paths = find_volumes(address(kind, storage)).paths
    plan = plan_verify(paths, work_dir=tmp_path, tasks=1)
    (name,) = storage.names
    data = storage[name]
    storage.delete(name)
    storage.add(name, data)
    with pytest.raises(StorageError, match="replaced"):
        verify_batch(plan.batches[0])


def test_many_volumes_are_found_by_one_listing_and_opened_without_asking_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "tar.split.wide"
    storage = stored(kind, source)
    assert len(storage.names) > 10
    use(monkeypatch, storage)
    paths = find_volumes(address(kind, storage)).paths
    assert (storage.calls["list"], storage.calls["stat"]) == (1, 1)
    plan = plan_verify(paths, work_dir=tmp_path, tasks=4)
    for batch in plan.batches:
        verify_batch(batch)
    assert (storage.calls["list"], storage.calls["stat"]) == (2, 1)


@pytest.mark.parametrize("kind", ["zip", "aes", "tar.bz2", "tar.zst.split", "tar.gz.wrapped"])
def test_one_file_goes_to_a_stream(
    kind: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    use(monkeypatch, storage)
    for name in ("more/large.bin", "docs/a.txt"):
        out = io.BytesIO()
        report = restore_to_stream(
            [whole(find_volumes(address(kind, storage)))],
            Selector([f"source/{name}"]), out, password(kind),
        )  # fmt: skip
        assert (report.status, out.getvalue()) == ("success", CONTENT[name])


def test_what_a_person_names_is_an_address(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage = stored("zip", source)
    use(monkeypatch, storage)
    which = os.fsdecode(address("zip", storage))
    asked = ask(which, job=None, at=None, catalog_url=f"sqlite:///{tmp_path}/none.db")
    assert asked.name == which
    (share,) = asked.shares("")
    assert (share.archive, share.volumes) == (which, (os.fsencode(which),))
    assert not (tmp_path / "none.db").exists()


class Watch:
    """Notes how large files in the temporary folder become."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        self._folder = folder
        self.largest = 0

    def look(self) -> None:
        sizes = (path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        self.largest = max(self.largest, *sizes, 0)


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_no_copy_of_the_archive_is_made(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    watch = Watch(monkeypatch, temporary)

    class Watched(MemoryStorage):
        def read(self, *args: Any, **more: Any) -> bytes:
            watch.look()
            return super().read(*args, **more)

    storage = stored(kind, source, Watched())
    use(monkeypatch, storage)
    assert restore(find_volumes(address(kind, storage)).paths, tmp_path / "to").problems == []
    watch.look()
    assert tree(tmp_path / "to")
    assert 0 < watch.largest < 10_000


def test_neighbours_are_read_by_one_worker(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored("zip", source)
    use(monkeypatch, storage)
    paths = find_volumes(address("zip", storage)).paths
    made = plan(paths, tmp_path / "to", tmp_path, tasks=3)
    runs = []
    for batch in made.batches:
        offsets = [item.member.offset for item in read_batch(batch, Item)[1]]
        runs.append((min(offsets), max(offsets)))
    runs.sort()
    assert len(runs) > 1
    assert all(before[1] < after[0] for before, after in itertools.pairwise(runs))


@pytest.mark.parametrize("kind", ["zip.split"])
def test_volumes_that_are_not_needed_are_looked_at_but_not_fetched(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored(kind, source)
    fetched: dict[str, int] = {}

    class Watched(MemoryStorage):
        def read(self, name: str, offset: int, length: int, **more: Any) -> bytes:
            data = super().read(name, offset, length, **more)
            fetched[name] = fetched.get(name, 0) + len(data)
            return data

    watched = Watched()
    watched.files = storage.files
    use(monkeypatch, watched)
    paths = find_volumes(address(kind, watched)).paths
    done = restore(paths, tmp_path / "to", include=["/source/docs/a.txt"])
    assert (done.restored, done.problems) == (1, [])
    assert len(paths) > 10
    assert set(fetched) == set(watched.names)
    assert sum(size <= 8192 for size in fetched.values()) >= len(paths) - 5


def test_a_small_file_that_is_damaged_on_its_way_is_fetched_again_for_a_stream(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = stored("zip", source)
    spoiled = []

    class Corrupting(MemoryStorage):
        def read(self, name: str, offset: int, length: int, **more: Any) -> bytes:
            data = super().read(name, offset, length, **more)
            at = data.find(CONTENT["docs/c.bin"][1000:1100])
            if at < 0 or spoiled:
                return data
            spoiled.append(at)
            return data[:at] + b"X" + data[at + 1 :]

    faulty = Corrupting()
    faulty.files = storage.files
    use(monkeypatch, faulty)
    out = io.BytesIO()
    report = restore_to_stream(
        [whole(find_volumes(address("zip", faulty)))], Selector(["/source/docs/c.bin"]), out
    )
    assert spoiled
    assert (report.status, out.getvalue()) == ("success", CONTENT["docs/c.bin"])


def test_opening_wrapped_volumes_takes_little_of_each(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "tar.zst.wrapped.split"
    storage = stored(kind, source)
    use(monkeypatch, storage)
    paths = find_volumes(address(kind, storage)).paths
    before = storage.bytes_read, storage.calls["read"]
    with open_archive(paths, password=PASSWORD) as archive:
        assert archive.format == "tar.zst"
    assert storage.bytes_read - before[0] < len(paths) * 80_000
    assert storage.calls["read"] - before[1] <= 2 * len(paths) + 1


def test_a_storage_that_never_answered_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(
        MemoryStorage("s3://bucket/x"),
        lambda _method, _number: True,
        error=lambda: StorageError("bucket can't be reached", retryable=True),
    )
    use(monkeypatch, failing)
    with pytest.raises(StorageError, match="bucket can't be reached"):
        find_volumes(b"s3://bucket/x/docs.zip")
    assert len(failing.fired) == 1
