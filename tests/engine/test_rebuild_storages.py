"""The catalog made anew from archives in storages, and from the same ones in two places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, noise
from rebuilding import change, make_tree, rebuild, rows_of, states
from recorded import Recorded
from storage.memory import Failing, MemoryStorage, use_also
from transferring import archives_of, places_of, transfer

from pybak.errors import NotFoundError, StorageError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    """Give a storage that is open beside all local folders."""
    storage = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, storage)
    return storage


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"format": "tar.zst"},
        {"split": "64KiB", "password": PASSWORD, "hide_names": True},
    ],
    ids=["zip", "tar.zst", "volumes"],
)
def test_a_catalog_of_a_storage_is_what_the_runs_wrote(
    tmp_path: Path, url: str, far: MemoryStorage, how: dict[str, Any]
) -> None:
    """(case 75)"""
    tree = make_tree(tmp_path)
    (tree / "large").write_bytes(noise(150_000))
    made = Recorded(url, far.address)  # type: ignore[arg-type]
    made.back_up(tree, checksum=["sha256"], **how)
    for number in (1, 2):
        change(tree, number)
        made.back_up(tree, **how)
    far.add("notes.txt", b"not an archive")
    before = rows_of(url)
    assert {row[2].rpartition("/")[0] for row in before["volume"]} == {far.address}
    report = rebuild(url, far.address, password=how.get("password"))  # type: ignore[arg-type]
    assert (report.status, report.errors, report.dropped) == ("success", (), ())
    assert [one.path for one in report.skipped] == [f"{far.address}/notes.txt"]
    assert len(report.runs) == 3
    assert rows_of(url) == before
    assert made.back_up(tree, **how).report.status == "unchanged"


def test_without_digests_only_the_file_lists_are_read(
    tmp_path: Path, url: str, far: MemoryStorage
) -> None:
    tree = make_tree(tmp_path)
    (tree / "large").write_bytes(noise(3_000_000))
    made = Recorded(url, far.address)  # type: ignore[arg-type]
    made.back_up(tree)
    far.bytes_read = 0
    rebuild(url, far.address, no_digests=True)  # type: ignore[arg-type]
    assert far.bytes_read < 600_000
    assert [one[4] for one in rows_of(url)["volume"]] == ["None"]


def test_one_archive_of_a_storage_may_be_named(
    tmp_path: Path, url: str, far: MemoryStorage
) -> None:
    made = Recorded(url, far.address)  # type: ignore[arg-type]
    made.back_up(make_tree(tmp_path))
    made.back_up(tmp_path / "docs", mode="full")
    name = str(made.outcomes[0].report.archive)
    report = rebuild(url, name)  # type: ignore[arg-type]
    assert [one.archive for one in report.runs] == [name]
    with pytest.raises(NotFoundError):
        rebuild(url, "s3://bucket/far/nothing.zip")  # type: ignore[arg-type]


def test_a_storage_that_fails_leaves_the_catalog_as_it_was(
    tmp_path: Path, url: str, far: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recorded(url, far.address)  # type: ignore[arg-type]
    made.back_up(make_tree(tmp_path))
    before = rows_of(url)
    broken = Failing(far, lambda called, count: called == "read" and count > 3)
    use_also(monkeypatch, broken)
    with pytest.raises((StorageError, NotFoundError), match="the storage broke"):
        rebuild(url, far.address)  # type: ignore[arg-type]
    assert broken.fired
    assert rows_of(url) == before


def test_the_same_archives_in_two_places_are_copies(
    tmp_path: Path, url: str, far: MemoryStorage
) -> None:
    tree = make_tree(tmp_path)
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    transfer(url, job="docs", to=far.address)
    before, known, places = rows_of(url), archives_of(url), places_of(url)
    assert {len(one) for one in places} == {2}
    report = rebuild(url, tmp_path / "to", far.address)  # type: ignore[arg-type]
    assert (report.status, report.skipped, len(report.runs)) == ("success", (), 2)
    assert [one.copies for one in report.runs] == [one[1:] for one in places]
    assert rows_of(url) == before
    assert places_of(url) == places
    assert [one.copies for one in archives_of(url)] == [one.copies for one in known]
    # The first that is named is the first place.
    rebuild(url, far.address, tmp_path / "to")  # type: ignore[arg-type]
    assert places_of(url) == [one[::-1] for one in places]


def test_an_archive_that_is_only_in_the_second_place_is_there_too(
    tmp_path: Path, url: str, far: MemoryStorage
) -> None:
    tree = make_tree(tmp_path)
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    held = states(url)
    transfer(url, job="docs", to=far.address)
    made.outcomes[0].path.unlink()
    rebuild(url, tmp_path / "to", far.address)  # type: ignore[arg-type]
    assert states(url) == held
    assert [len(one) for one in places_of(url)] == [1, 2]


def test_another_archive_of_the_same_run_is_no_copy(tmp_path: Path, url: str) -> None:
    tree = make_tree(tmp_path)
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    path = made.outcomes[0].path
    (tmp_path / "second").mkdir()
    shutil.copy(path, tmp_path / "second" / path.name)
    shutil.copy(path, tmp_path / "second" / "again.zip")
    report = rebuild(url, tmp_path / "to", tmp_path / "second")
    assert [Path(one.path).name for one in report.skipped] == [path.name]
    assert places_of(url) == [(str(path), str(tmp_path / "second" / "again.zip"))]
