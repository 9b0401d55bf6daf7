"""Whether two folders are one is found out by trying."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from storage.memory import Failing, MemoryStorage

from pybak.errors import StorageError
from pybak.storage.local_folder import FolderStorage
from pybak.storage.probe import PROBE_NAMES, Places
from pybak.storage.unfinished import clean_up

DAY_NS = 24 * 3600 * 10**9
OLD = f".pybak-probe-{7:032x}"


def test_two_paths_to_one_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "alias").symlink_to("a")
    a, b, alias = (FolderStorage(str(tmp_path / name)) for name in ("a", "b", "alias"))
    places = Places()
    assert places.are_one(a, alias)
    assert not places.are_one(a, b)
    assert places.are_one(a, a)
    assert [list((tmp_path / name).iterdir()) for name in ("a", "b")] == [[], []]


def test_a_pair_is_tried_once() -> None:
    here, there = MemoryStorage("s3://a"), MemoryStorage("s3://b")
    places = Places()
    for _ in range(3):
        assert not places.are_one(here, there)
    assert (there.calls["put"], there.calls["delete"], here.calls["put"]) == (1, 1, 0)


def test_a_probe_that_was_left_serves_again_unless_it_is_in_both() -> None:
    here, there = MemoryStorage("s3://a"), MemoryStorage("s3://b")
    there.add(OLD, OLD.encode())
    assert not Places().are_one(here, there)
    assert there.calls["put"] == 1, "only that of the test"
    here.add(OLD, OLD.encode())  # copied with all else
    assert not Places().are_one(here, there)
    assert there.calls["put"] == 2
    assert there.names == [OLD]


def test_a_probe_that_somebody_deletes_meanwhile_proves_nothing() -> None:
    here, there = MemoryStorage("s3://a"), MemoryStorage("s3://b")
    real = here.stat

    def stat(name: str) -> None:
        there.files.clear()
        assert real(name) is None

    here.stat = stat  # type: ignore[method-assign,assignment]
    with pytest.raises(StorageError, match="is gone again"):
        Places().are_one(here, there)


def test_a_source_that_takes_no_probe_or_is_gone_is_asked_only(tmp_path: Path) -> None:
    full = Failing(FolderStorage(str(tmp_path)), lambda method, _: method == "put")
    assert not Places().are_one(full, MemoryStorage())  # type: ignore[arg-type]
    assert full.fired == ["put"]
    gone = FolderStorage(str(tmp_path / "gone"))
    assert not Places().are_one(gone, MemoryStorage())


def test_probes_of_killed_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.add(OLD, OLD.encode())
    storage.add(f"{OLD}.zip", b"x")
    assert PROBE_NAMES.fullmatch(OLD)
    assert clean_up(storage, None, folder=tmp_path) == 0
    late_ns = time.time_ns() + 2 * DAY_NS
    assert clean_up(storage, None, folder=tmp_path, now_ns=late_ns) == 1
    assert storage.names == [f"{OLD}.zip"]
