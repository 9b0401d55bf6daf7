"""What people name as a place: an address that is known, or a path, and never silently a folder."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pybak.backup.copies import CopyPlace
from pybak.errors import PlanError
from pybak.options.read import RestoreOptions
from pybak.options.rebuild import RebuildOptions
from pybak.options.transfer import TransferOptions
from pybak.paths import user_path
from pybak.portable import from_portable, to_portable
from pybak.rebuild.run import RebuildRun
from pybak.restore.ask import ask
from pybak.restore.run import RestoreRun
from pybak.storage import local
from pybak.storage.opening import check_address, open_storage, split
from pybak.transfer.run import TransferRun

UNKNOWN = [
    "S3://bucket/x", "GS://bucket", "Block:x", "S3:x", "BLOCK:pybak-s3-storage/x",
    "gcs://bucket/x", "azure://container", "sftp://host/x", "https://host/x", "s3a://bucket",
    "FILE:///x", "file://host/x", "S3://bucket/\udcff",
]  # fmt: skip
_URL = "sqlite:///nowhere/catalog.db"
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the current folder, which stays empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_address_of_a_kind_that_is_not_known_is_never_a_folder(text: str, here: Path) -> None:
    calls = [
        lambda: local.choose(None, text, job=None, now=_NOW, suffix="zip", create=True),
        lambda: local.choose(text, None, job=None, now=_NOW, suffix="zip", create=True),
        lambda: CopyPlace(text),
        lambda: ask(text, job=None, at=None, catalog_url=_URL),
        lambda: RebuildRun([text], RebuildOptions(), catalog_url=_URL),
        lambda: RestoreRun(here / "a.zip", text, RestoreOptions()),
        lambda: TransferRun(["latest"], text, TransferOptions(), job="j", catalog_url=_URL),
        lambda: to_portable(text),
        lambda: open_storage(text),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(PlanError, match="no such kind of storage; write s3://") as caught:
            call()
        assert "\n" not in str(caught.value), number
    assert os.listdir(here) == []


def test_what_is_told_of_an_unknown_address_has_no_password() -> None:
    with pytest.raises(PlanError) as caught:
        check_address("https://me:HUNTER2@host/x?sig=HUNTER2")
    assert "HUNTER2" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://bucket/x\udcff", "gs://b/\udcff", "block:x/\udcff"])
def test_a_name_in_a_storage_that_is_no_utf8_is_refused_and_no_path(text: str, here: Path) -> None:
    for call in (to_portable, check_address, open_storage, split):
        with pytest.raises(PlanError, match="UTF-8"):
            call(text)
    assert os.listdir(here) == []


def test_an_address_is_no_local_path(here: Path) -> None:
    with pytest.raises(PlanError, match="local"):
        RestoreRun(here / "a.zip", "s3://bucket/x", RestoreOptions())
    assert os.listdir(here) == []


@pytest.mark.parametrize("name", ["sftp:", "S3:x", "s3:x", "Block:x"])
def test_a_folder_that_is_called_like_an_address_is_named_by_its_path(
    name: str, here: Path
) -> None:
    found = local.choose(None, f"./{name}", job=None, now=_NOW, suffix="zip", create=True)
    assert found.folder == here / name
    assert (here / name).is_dir()


def test_paths_with_colons_and_dots_stay_paths(here: Path) -> None:
    for text in ("c:x", "a/b://c", "./sftp://h", "12:30", "x:", "file:x"):
        assert check_address(text) == text
        assert user_path(text) == (here / text)


def test_a_path_as_a_uri_is_that_path_wherever_it_is_named(here: Path) -> None:
    assert user_path((here / "a b").as_uri()) == here / "a b"
    assert local.choose(
        None, (here / "a b").as_uri(), job=None, now=_NOW, suffix="zip", create=True
    ).folder == (here / "a b")


def test_a_name_that_is_no_utf8_below_the_home_folder_is_found_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert from_portable(to_portable("~/x\udcff")) == "/home/someone/x\udcff"
