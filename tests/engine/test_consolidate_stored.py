"""Chains in a storage consolidated: the full archive is made here, and sent there."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from consolidating import Chain, four_runs, verified
from dying import CONSOLIDATION_WRITERS, die_at
from storage.memory import MemoryStorage, use
from transferring import transfer

from pybak.errors import Interrupted, StorageError
from pybak.home import home
from pybak.options import PruneOptions
from pybak.retention.places import StoragePlace
from pybak.retention.run import PruneRun
from pybak.storage.local_folder import FolderStorage

ADDRESS = "s3://bucket/backups"
KINDS: dict[str, dict[str, Any]] = {
    "zip": {},
    "volumes": {"split": "64KiB", "checksum": ["sha256"]},
    "tar.zst": {"format": "tar.zst"},
    "wrapped": {"format": "tar.gz", "password": b"correct horse", "split": "64KiB"},
    "one wrapped": {"format": "tar", "password": b"correct horse", "checksum": ["md5"]},
}


def moved(place: Path, storage: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> Chain:
    """Make a chain of four, and move it to a storage."""
    use(monkeypatch, storage)
    chain = four_runs(place, **KINDS[kind])
    opened = {ADDRESS: storage, str(chain.job.store): FolderStorage(str(chain.job.store))}
    monkeypatch.setattr("pybak.storage.opening._open", opened.__getitem__)
    done = transfer(chain.job.url, to=ADDRESS, job=chain.job.name, move=True)
    assert done.status == "success", done
    assert not chain.job.archives
    return chain


def fetched(storage: MemoryStorage, folder: Path) -> list[Path]:
    folder.mkdir()
    for name in storage.names:
        (folder / name).write_bytes(storage[name])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_one_full_archive_takes_the_place_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    storage = MemoryStorage(ADDRESS)
    chain = moved(tmp_path, storage, monkeypatch, kind)
    before = storage.names
    with PruneRun(
        PruneOptions(keep_last=1, consolidate=True), catalog_url=chain.job.url,
        password=chain.password,
    ) as run:  # fmt: skip
        (shown,) = run.rehearse([chain.job.name]).jobs
    assert (shown.status, storage.names) == ("success", before)
    assert shown.consolidated is not None
    done = chain.prune(keep_last=1)
    assert done.status == "success", done.errors
    assert done.consolidated is not None
    assert done.consolidated.archive is not None
    folder, _, name = done.consolidated.archive.rpartition("/")
    assert folder == ADDRESS
    assert len(done.deleted) == 4
    sums = [one for one in storage.names if one.endswith((".sha256", ".md5"))]
    assert len(sums) == len(KINDS[kind].get("checksum", ()))
    assert all(one.startswith(name.removesuffix(".zip")) for one in storage.names)
    chain.check()
    assert not (home() / "staging").exists()
    assert os.listdir(home() / "uploads") == []
    assert storage.uploads == {}
    files = fetched(storage, tmp_path / "got")
    verified(next(one for one in files if one.name not in sums), chain.password)
    for one in sums:
        tool = f"{one.rpartition('.')[2]}sum"
        if shutil.which(tool):
            assert os.system(f"cd {tmp_path}/got && {tool} -c --quiet {one}") == 0
    chain.write({"later": "5"})
    chain.run()
    chain.check()


@pytest.mark.parametrize("kind", ["zip", "wrapped"])
@pytest.mark.parametrize("step", range(0, 12, 2))
def test_a_kill_at_any_step_leaves_every_listed_snapshot_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    """(case 94)"""

    class Elsewhere(FolderStorage):
        address = property(lambda _self: ADDRESS)  # type: ignore[assignment]

    (tmp_path / "bucket").mkdir()
    chain = moved(tmp_path, Elsewhere(str(tmp_path / "bucket")), monkeypatch, kind)
    child = os.fork()
    if not child:
        die_at(
            step, lambda: chain.prune(keep_last=1), writers=CONSOLIDATION_WRITERS,
            changes=[
                (StoragePlace, "delete"), *((Elsewhere, name) for name in ("complete", "put")),
            ],
        )  # fmt: skip
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, step
    chain.check()
    done = chain.prune(keep_last=1)
    assert done.status == "success", done.errors
    assert len(list((tmp_path / "bucket").glob("[!.]*"))) == 1
    assert not (home() / "staging").exists()
    assert os.listdir(home() / "uploads") == []
    chain.check()


def test_a_storage_that_takes_nothing_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 97)"""
    storage = MemoryStorage(ADDRESS)
    chain = moved(tmp_path, storage, monkeypatch, "zip")
    before = storage.names

    def refuse(*_: object) -> None:
        raise StorageError("s3://bucket/backups: access denied; grant s3:PutObject")

    monkeypatch.setattr(storage, "put", refuse)
    done = chain.prune(keep_last=1)
    assert done.status == "partial"
    assert [one.message for one in done.errors] == [
        "s3://bucket/backups: access denied; grant s3:PutObject"
    ]
    assert storage.names == before
    assert not (home() / "staging").exists()
    chain.check()


def test_a_stop_on_request_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    storage = MemoryStorage(ADDRESS)
    chain = moved(tmp_path, storage, monkeypatch, "zip")
    before = storage.names
    options = PruneOptions(keep_last=1, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url) as run:
        prepared = run.plan(chain.job.name)
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.prune(prepared)
    assert storage.names == before
    assert not (home() / "staging").exists()
    chain.check()
