"""Which files of a storage are meant by an address: the same as by a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from memory import Failing, MemoryStorage, use

from pybak.backup.base import ArchiveFacts
from pybak.backup.mode import missing_archives
from pybak.errors import NotFoundError, PyBakError, StorageError
from pybak.restore.snapshot import find_shares
from pybak.storage import patience
from pybak.volumes.find import find_volumes

FILES: dict[str, bytes] = {
    "whole.zip": b"PK\x03\x04whole",
    "named.tar.2024.001": b"PK\x03\x04a number is only a name here",
    **{f"set.zip.{number:03d}": b"x" * (10 if number < 12 else 3) for number in range(1, 13)},
    **{f"aes.tar.{number:03d}.zip": b"x" * 10 for number in (1, 2, 3)},
    "wrapped.tar.gz.zip": b"PK\x03\x04wrapped",
    "gap.zip.001": b"1", "gap.zip.003": b"3", "gap.zip.004": b"4",
    "short.zip.001": b"111", "short.zip.002": b"2", "short.zip.003": b"333",
    "app.log.001": b"log", "app.log.002": b"log",
    "two.tar.001": b"1", "two.tar.001.zip": b"1",
    "none.zip.001": b"",
}  # fmt: skip
NAMES = [
    "whole.zip", "named.tar.2024.001", "named.tar.2024", "set.zip", "set.zip.001", "set.zip.012",
    "set.zip.013", "aes.tar", "aes.tar.002.zip", "aes.tar.002", "wrapped.tar.gz",
    "wrapped.tar.gz.zip", "gap.zip", "gap.zip.003", "short.zip", "app.log", "app.log.002",
    "two.tar", "two.tar.001", "none.zip", "none.zip.001", "absent", "absent.zip.001",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda _seconds: None)


def storage_with(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> MemoryStorage:
    storage = MemoryStorage("s3://bucket/some/folder")
    for name, data in files.items():
        storage.add(name, data)
    # What lies deeper or elsewhere is another storage.
    above = MemoryStorage("s3://bucket/some")
    empty = [MemoryStorage(f"{storage.address}/{name}") for name in [*NAMES, "nothing"]]
    use(monkeypatch, storage, above, *empty)
    return storage


def outcome(find: Callable[[], object], place: str) -> str:
    try:
        return str(find()).replace(place, "PLACE")
    except PyBakError as error:
        return f"{type(error).__name__} {error}".replace(place, "PLACE")


@pytest.mark.parametrize("name", NAMES)
def test_an_address_means_what_a_path_means(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_with(monkeypatch, FILES)
    for file, data in FILES.items():
        (tmp_path / file).write_bytes(data)
    here = outcome(lambda: find_volumes(os.fsencode(tmp_path / name)), str(tmp_path))
    there = outcome(lambda: find_volumes(f"{storage.address}/{name}".encode()), storage.address)
    assert there == here
    assert storage.calls["list"] <= 1


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize(
    "files",
    [
        {name: data for name, data in FILES.items() if name.startswith(("set", "app"))},
        {name: data for name, data in FILES.items() if name.startswith(("aes", "whole"))},
        {name: data for name, data in FILES.items() if name.startswith(("set", "aes"))},
        {"whole.zip": b"PK"},
    ],
    ids=["one set", "wrapped set", "two sets", "no set"],
)
def test_a_folders_address_means_the_set_in_it(
    files: dict[str, bytes], end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_with(monkeypatch, files)
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    here = outcome(lambda: find_volumes(os.fsencode(tmp_path)), str(tmp_path))
    there = outcome(lambda: find_volumes(f"{storage.address}{end}".encode()), storage.address)
    assert there == here


@pytest.mark.parametrize("address", ["block:nas", "block:pybak-s3-storage/nas", "s3://bucket"])
def test_a_storage_without_a_folder_is_one(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage(address)
    storage.add("a.tar.001", b"123")
    storage.add("a.tar.002", b"1")
    use(monkeypatch, storage)
    found = find_volumes(address.encode())
    assert found.base == f"{address}/a.tar".encode()
    assert [path.decode() for path in found.paths] == [
        f"{address}/a.tar.001", f"{address}/a.tar.002",
    ]  # fmt: skip
    assert find_volumes(f"{address}/a.tar.002".encode()) == found


def test_what_is_wrong_with_a_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    broken = Failing(storage, lambda *_: True, error=lambda: StorageError("403 refused"))
    use(monkeypatch, broken)
    with pytest.raises(StorageError, match="403 refused"):
        find_volumes(b"s3://bucket/backups/a.zip")
    assert len(broken.fired) == 1
    with pytest.raises(NotFoundError, match="s3://other/x: there is no such storage"):
        find_volumes(b"s3://other/x/a.zip")


def test_many_archives_of_a_chain_are_found_by_one_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"day{number}.zip" for number in range(30)]
    storage = storage_with(monkeypatch, dict.fromkeys(names[:-1], b"PK"))
    recorded = [(f"{storage.address}/{name}", [b"a"]) for name in names]
    shares = find_shares(recorded)
    assert [share.volumes for share in shares[:-1]] == [(a.encode(),) for a, _ in recorded[:-1]]
    assert "no longer there" in str(shares[-1].trouble)
    assert storage.calls["list"] == 1
    assert storage.calls["stat"] == 0


@pytest.mark.parametrize(("count", "asked"), [(2, {"stat": 2}), (30, {"list": 1})])
def test_whether_a_bases_archives_are_there_is_asked_of_their_storage(
    count: int, asked: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many by one listing."""
    storage = storage_with(monkeypatch, {f"{n}%20.zip": b"x" * n for n in range(1, count + 1)})

    def archives(more: int = 0) -> list[ArchiveFacts]:
        return [
            ArchiveFacts(f"run {n}", [(f"{storage.address}/{n}%20.zip", n + more)])
            for n in range(1, count + 1)
        ]

    assert missing_archives(archives()) == []
    assert {name: number for name, number in storage.calls.items() if name != "put"} == asked
    assert len(missing_archives(archives(1))) == count
    storage.delete("2%20.zip")
    (problem,) = missing_archives(archives())
    assert "2%20.zip is gone" in problem.message
    use(monkeypatch, Failing(storage, lambda *_: True, error=lambda: StorageError("down")))
    assert all("can't be looked at (down)" in one.message for one in missing_archives(archives()))
