"""Backups that go to a storage in memory, fetched from it so that other programs can judge them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backing_up import Outcome, back_up
from storage.memory import Failing, MemoryStorage, used

from pybak.volumes.model import Volume


def send(*sources: Path, storage: MemoryStorage | Failing, place: Path, **how: Any) -> Outcome:
    """Back up into `storage`; give the outcome with its files in the folder `place`.

    The digests of the report are compared with what is stored.
    """
    with used(storage):
        done = back_up(*sources, to=storage.address, **how)  # type: ignore[arg-type]
    return fetched(done, storage, place)


def fetched(done: Outcome, storage: MemoryStorage | Failing, place: Path) -> Outcome:
    """Give an outcome whose files lie in `place`, after looking at digests and sizes."""
    inner = storage.storage if isinstance(storage, Failing) else storage
    assert isinstance(inner, MemoryStorage)
    place.mkdir(exist_ok=True)
    volumes = []
    for volume in done.report.volumes:
        folder, _, name = volume.uri.rpartition("/")
        assert folder == inner.address
        data = inner[name]
        compare(volume, data)
        (place / name).write_bytes(data)
        volumes.append(msgspec.structs.replace(volume, uri=(place / name).as_uri()))
    for address in done.report.checksum_files:
        name = address.rpartition("/")[2]
        (place / name).write_bytes(inner[name])
    report = msgspec.structs.replace(done.report, volumes=tuple(volumes))
    path = place / str(done.path).rpartition("/")[2]
    return Outcome(report, path, done.plan, done.password)


def compare(volume: Volume, data: bytes) -> None:
    """See that size and digests are those of the bytes."""
    assert volume.size == len(data)
    if volume.sha256 is not None:
        assert hashlib.sha256(data).hexdigest() == volume.sha256
        assert not volume.parts
        return
    at = 0
    for part in volume.parts:
        assert hashlib.sha256(data[at : at + part.size]).hexdigest() == part.sha256
        at += part.size
    assert at == len(data)


def nothing_is_left(storage: MemoryStorage, home: Path) -> None:
    """No upload, no note, no work folder."""
    assert storage.uploads == {}
    for folder in ("uploads", "staging"):
        assert not (home / folder).exists() or os.listdir(home / folder) == []


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int = 20_000) -> None:
    """Have parts of some kB, and no archive written at once."""
    monkeypatch.setattr("pybak.backup.part_sizes.PART_BYTES", size)
    monkeypatch.setattr("pybak.backup.stretches.PART_BYTES", size)
    monkeypatch.setattr("pybak.backup.sending.WHOLE_BYTES", 0)
