"""Chains with further places consolidated: these get the full archive before the old ones go."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from consolidating import Chain, four_runs, verified
from dying import CONSOLIDATION_CHANGES, CONSOLIDATION_WRITERS, die_at
from storage.memory import Failing, MemoryStorage, use
from transferring import archives_of, places_of, transfer

from pybak.errors import StorageError
from pybak.options import PruneOptions
from pybak.retention import further
from pybak.retention.run import PruneRun
from pybak.storage.local_folder import FolderStorage

ADDRESS = "s3://far/copies"
KINDS: dict[str, dict[str, Any]] = {
    "zip": {},
    "volumes": {"format": "tar.gz", "split": "64KiB", "checksum": ["sha256"]},
    "wrapped": {"format": "tar", "password": b"correct horse"},
}


def copied(place: Path, to: str | Path, **options: Any) -> Chain:
    """Make a chain of four that has copies in a further place."""
    chain = four_runs(place, **options)
    done = transfer(chain.job.url, to=to, job=chain.job.name)
    assert done.status == "success", done
    return chain


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rehearsed(chain: Chain) -> Any:
    options = PruneOptions(keep_last=1, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url, password=chain.password) as run:
        (shown,) = run.rehearse([chain.job.name]).jobs
    return shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_further_place_has_the_full_archive_when_the_old_ones_go(
    tmp_path: Path, kind: str
) -> None:
    disk = tmp_path / "disk"
    chain = copied(tmp_path, disk, **KINDS[kind])
    assert rehearsed(chain).status == "success"
    done = chain.prune(keep_last=1)
    assert (done.status, done.errors) == ("success", ())
    assert files(disk) == files(chain.job.store)
    ((here, there),) = places_of(chain.job.url)
    assert (os.path.dirname(here), os.path.dirname(there)) == (str(chain.job.store), str(disk))
    assert os.path.basename(here) == os.path.basename(there)
    for path in chain.volumes:
        path.unlink()
    chain.check()
    verified(Path(there), chain.password)


def test_an_increment_that_is_copied_later_has_its_base_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    chain = copied(tmp_path, disk)
    chain.prune(keep_last=1)
    chain.write({"later": "5"})
    chain.run()
    newest = chain.job.snapshots[-1].archive
    assert newest is not None
    assert transfer(chain.job.url, newest, to=disk).status == "success"
    for path in chain.volumes:
        path.unlink()
    chain.check()


def test_a_storage_gets_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage(ADDRESS)
    chain = _stored(tmp_path, storage, storage, monkeypatch)
    assert chain.prune(keep_last=1).status == "success"
    (path,) = chain.volumes
    assert storage.names == [path.name]
    assert storage[path.name] == path.read_bytes()


def _stored(
    place: Path, storage: MemoryStorage, first: Any, monkeypatch: pytest.MonkeyPatch
) -> Chain:
    use(monkeypatch, first)
    monkeypatch.setattr("pybak.storage.patience.time.sleep", lambda _seconds: None)
    _open(monkeypatch, first)
    return copied(place, ADDRESS)


def _open(monkeypatch: pytest.MonkeyPatch, storage: Any) -> None:
    def opened(address: str) -> Any:
        return storage if address == ADDRESS else FolderStorage(address)

    monkeypatch.setattr("pybak.storage.opening._open", opened)


def test_a_chain_in_a_storage_has_its_copies_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, disk = MemoryStorage(ADDRESS), tmp_path / "disk"
    _open(monkeypatch, storage)
    chain = four_runs(tmp_path, **KINDS["volumes"])
    assert transfer(chain.job.url, to=ADDRESS, job="docs", move=True).status == "success"
    assert transfer(chain.job.url, to=disk, job="docs").status == "success"
    done = chain.prune(keep_last=1)
    assert (done.status, done.errors) == ("success", ())
    assert files(disk) == {name: storage[name] for name in storage.names}
    for name in storage.names:
        storage.delete(name)
    chain.check()


@pytest.mark.parametrize("methods", [("put", "begin"), ("list", "stat", "check", "put")])
def test_where_a_place_takes_nothing_all_places_keep_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...]
) -> None:
    """(case 97)"""
    storage = MemoryStorage(ADDRESS)
    chain = _stored(tmp_path, storage, storage, monkeypatch)
    before, names = files(chain.job.store), storage.names
    refusing = Failing(
        storage, lambda method, _count: method in methods,
        error=lambda: StorageError("s3://far/copies: access denied; grant s3:PutObject"),
    )  # fmt: skip
    _open(monkeypatch, refusing)
    for _ in range(2):
        done = chain.prune(keep_last=1)
        assert done.status == "partial"
        (told,) = done.errors
        assert told.message == (
            "s3://far/copies: access denied; grant s3:PutObject; nothing was consolidated, for the "
            "full archive must get to s3://far/copies too, where the chain has copies; prune again "
            "when that place is back, or make a full backup"
        )
        assert done.consolidated is None
        assert (files(chain.job.store), storage.names) == (before, names)
        assert [len(one) for one in places_of(chain.job.url)] == [2] * 4
    _open(monkeypatch, storage)
    assert chain.prune(keep_last=1).status == "success"
    assert storage.names == [path.name for path in chain.volumes]
    chain.check()


def test_a_disk_that_is_not_mounted_is_named_in_a_dry_run_too(tmp_path: Path) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    chain = copied(tmp_path, disk)
    before = files(disk)
    disk.rename(away)
    disk.mkdir()  # where it would be mounted
    for done in (rehearsed(chain), chain.prune(keep_last=1)):
        assert (done.status, done.consolidated) == ("partial", None)
        (told,) = done.errors
        assert told.message.startswith(
            f"{disk}: holds no archive of this job; is its disk mounted?; nothing was consolidated"
        )
    assert list(disk.iterdir()) == []
    disk.rmdir()
    away.rename(disk)
    assert files(disk) == before == files(chain.job.store)
    assert chain.prune(keep_last=1).status == "success"
    assert files(disk) == files(chain.job.store)


def test_every_further_place_counts_also_of_one_archive_alone(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    chain = copied(tmp_path, one)
    assert transfer(chain.job.url, chain.volumes[0], to=other).status == "success"
    assert chain.prune(keep_last=1).status == "success"
    assert files(one) == files(other) == files(chain.job.store)


def test_what_failed_in_one_place_leaves_nothing_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    storage = MemoryStorage(ADDRESS)
    chain = _stored(tmp_path, storage, storage, monkeypatch)
    assert transfer(chain.job.url, to=disk, job="docs").status == "success"
    before = files(disk)
    refusing = Failing(storage, lambda method, _count: method == "put")
    _open(monkeypatch, refusing)
    assert chain.prune(keep_last=1).status == "partial"
    assert files(disk) == files(chain.job.store) == before
    assert storage.names == sorted(before)
    assert [len(one) for one in places_of(chain.job.url)] == [3] * 4


@pytest.mark.parametrize("step", range(17))
def test_a_kill_at_any_step_leaves_every_place_whole(tmp_path: Path, step: int) -> None:
    """(case 94)"""
    disk = tmp_path / "disk"
    chain = copied(tmp_path, disk)
    child = os.fork()
    if not child:
        die_at(
            step, lambda: chain.prune(keep_last=1),
            changes=[*CONSOLIDATION_CHANGES, (FolderStorage, "put"), (FolderStorage, "complete")],
            writers=[*CONSOLIDATION_WRITERS, (further, "_write_down")],
        )  # fmt: skip
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, step
    needed = [one for one in archives_of(chain.job.url) if not one.is_leaving]
    assert all((disk / os.path.basename(one.name)).exists() for one in needed)
    chain.check()
    done = chain.prune(keep_last=1)
    assert done.status == "success", done.errors
    assert files(disk) == files(chain.job.store)
    assert len(files(disk)) == 1
    chain.check()
