"""Processes that live long see what blocks say now."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from blocks import storages
from blocks.described import FolderSettings, Settings
from pybak.backup.parcels import compress_parcel
from pybak.storage.opening import forget_storages, open_storage


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give what the block `moving` says: its `path` may be changed."""
    now = {"path": str(tmp_path / "a")}

    def asked(_slug: str, _name: str) -> Settings:
        return FolderSettings(now["path"])

    monkeypatch.setattr(storages, "_asked_elsewhere", asked)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    forget_storages()
    return now


def test_a_block_that_was_edited_is_read_again_only_when_storages_are_forgotten(
    said: dict[str, str], tmp_path: Path
) -> None:
    first = open_storage("block:moving/x")
    fixed = open_storage(str(tmp_path))
    said["path"] = str(tmp_path / "b")
    assert open_storage("block:moving/x/") is first
    forget_storages()
    assert open_storage("block:moving/x").address == str(tmp_path / "b" / "x")
    assert open_storage(str(tmp_path)) is fixed
    assert first.address == str(tmp_path / "a" / "x")


def test_a_worker_reads_blocks_again_with_each_parcel(said: dict[str, str], tmp_path: Path) -> None:
    open_storage("block:moving")
    said["path"] = str(tmp_path / "b")
    with pytest.raises(msgspec.DecodeError):  # this is no parcel
        compress_parcel(b"", place=tmp_path)
    assert open_storage("block:moving").address == str(tmp_path / "b")
