"""Archives are copied and moved between storages, and what arrives is what was written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, noise
from commands import tool
from rebuilding import make_tree
from recorded import Recorded
from storage.memory import Failing, MemoryStorage, use_also
from transferring import archives_of, places_of, transfer

from pybak.catalog.locks import archives_lock
from pybak.errors import (
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    StorageError,
)
from pybak.home import home
from pybak.options import PruneOptions
from pybak.options.transfer import TransferOptions
from pybak.restore.ask import ask
from pybak.retention.run import PruneRun
from pybak.storage.body import BytesBody
from pybak.transfer import run as run_module
from pybak.transfer import streaming
from pybak.transfer.run import TransferRun
from pybak.transfer.streaming import FileAt, Stream, Tally
from pybak.verify.targets import find_targets


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    """Give a storage that is open beside all local folders."""
    storage = MemoryStorage("s3://bucket/far", least=1000)
    use_also(monkeypatch, storage)
    return storage


@pytest.fixture
def made(tmp_path: Path, url: str) -> Recorded:
    """Give three backups that build on each other."""
    tree = make_tree(tmp_path)
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    for number in (1, 2):
        (tree / f"new{number}").write_bytes(noise(3000, number))
        made.back_up(tree)
    return made


def listed(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def stored(storage: MemoryStorage) -> dict[str, bytes]:
    return {name: storage[name] for name in storage.names}


def readable(url: str) -> list[str]:
    """Give where the newest snapshot is read; every archive that it needs must be there."""
    shares = ask("latest", job="docs", at=None, catalog_url=url).shares(url)
    assert {one.trouble for one in shares} == {None}
    targets = find_targets(["latest"], job="docs", catalog_url=url)
    assert [one.name for one in targets] == [one.archive for one in shares]
    return [os.path.dirname(one.archive) for one in shares]


def nothing_left(storage: MemoryStorage) -> bool:
    notes = home() / "uploads"
    return not storage.uploads and not (notes.exists() and list(notes.iterdir()))


def test_a_job_is_copied_and_the_catalog_knows_both_places(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    before = listed(made.to)
    report = transfer(url, job="docs", to=far.address)
    assert report.status == "success"
    assert [(one.status, one.job) for one in report.archives] == [("copied", "docs")] * 3
    assert report.bytes_sent == sum(map(len, before.values()))
    assert stored(far) == before == listed(made.to)
    assert places_of(url) == [
        (str(one.path), f"{far.address}/{one.path.name}") for one in made.outcomes
    ]
    for facts in archives_of(url):
        (copy,) = facts.copies
        (volume,) = copy.volumes
        name = volume.uri.rpartition("/")[2]
        assert volume.uri == f"{far.address}/{name}"
        assert (volume.size, volume.sha256) == (len(far[name]), facts.volumes[0].sha256)
    assert nothing_left(far)
    assert readable(url) == [str(made.to)] * 3
    shutil.rmtree(made.to)
    assert readable(url) == [far.address] * 3


def test_a_second_copy_sends_nothing(made: Recorded, far: MemoryStorage, url: str) -> None:
    transfer(url, job="docs", to=far.address)
    sent = far.bytes_sent
    report = transfer(url, job="docs", to=far.address)
    assert [one.status for one in report.archives] == ["there"] * 3
    assert (report.status, report.bytes_sent, far.bytes_sent) == ("success", 0, sent)
    assert [len(places) for places in places_of(url)] == [2, 2, 2]


def test_latest_means_all_that_the_backup_needs_and_a_run_is_named_by_its_id(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    report = transfer(url, "latest", job="docs", to=far.address)
    assert len(report.archives) == 3
    first = made.outcomes[0]
    report = transfer(url, (first.report.run_id or "")[:8], to=far.address)
    assert [one.archive for one in report.archives] == [str(first.path)]


def test_a_move_leaves_the_archive_in_one_place_that_the_catalog_names(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    before = listed(made.to)
    report = transfer(url, job="docs", to=far.address, move=True)
    assert (report.status, [one.status for one in report.archives]) == ("success", ["moved"] * 3)
    assert stored(far) == before
    assert listed(made.to) == {}
    assert places_of(url) == [(f"{far.address}/{one.path.name}",) for one in made.outcomes]
    assert [one.copies for one in archives_of(url)] == [(), (), ()]
    assert [one.archive for one in made.snapshots()] == [
        f"{far.address}/{one.path.name}" for one in made.outcomes
    ]
    assert readable(url) == [far.address] * 3
    # And back again.
    report = transfer(url, job="docs", to=made.to, move=True)
    assert [one.status for one in report.archives] == ["moved"] * 3
    assert (listed(made.to), far.names) == (before, [])
    assert archives_of(url)[0].volumes[0].uri == made.outcomes[0].path.as_uri()
    assert readable(url) == [str(made.to)] * 3


def test_an_archive_that_no_catalog_knows_is_copied_and_moved(
    made: Recorded, far: MemoryStorage, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    path = made.outcomes[0].path
    data = path.read_bytes()
    report = transfer(url, path, to=far.address)
    (one,) = report.archives
    assert (one.status, one.job, one.run_id) == ("copied", None, None)
    assert stored(far) == {path.name: data}
    report = transfer(url, path, to=far.address, move=True)
    assert ([one.status for one in report.archives], report.bytes_sent) == (["moved"], 0)
    assert not path.exists()
    report = transfer(url, f"{far.address}/{path.name}", to=tmp_path / "new" / "folder", move=True)
    assert report.status == "success"
    assert (tmp_path / "new" / "folder" / path.name).read_bytes() == data
    assert far.names == []


@pytest.mark.parametrize(
    "how", [{}, {"password": PASSWORD}, {"password": PASSWORD, "format": "tar.zst"}],
    ids=["plain", "aes", "wrapped"],
)  # fmt: skip
def test_sets_go_with_their_checksum_files_and_their_first_volume_last(
    tmp_path: Path, url: str, far: MemoryStorage, how: dict[str, Any]
) -> None:
    tree = make_tree(tmp_path)
    (tree / "large").write_bytes(noise(300_000))
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree, split="64KiB", checksum=["sha256", "md5"], **how)
    (made.to / "unrelated.sha256").write_bytes(b"0  x\n")
    files = listed(made.to)
    order: list[str] = []
    make = far._make

    def noted(name: str, data: bytes) -> Any:
        order.append(name)
        return make(name, data)

    far._make = noted  # type: ignore[method-assign]
    report = transfer(url, "latest", job="docs", to=far.address)
    assert report.status == "success"
    names = [path.name for path in made.outcomes[0].files]
    assert len(names) > 3
    sums = [f"{made.outcomes[0].path.name}.{kind}" for kind in ("sha256", "md5")]
    assert order == [*names[1:], names[0], *sums]
    assert stored(far) == {name: files[name] for name in (*names, *sums)}
    report = transfer(url, "latest", job="docs", to=far.address, move=True)
    assert report.status == "success"
    assert sorted(listed(made.to)) == ["unrelated.sha256"]
    assert readable(url) == [far.address]


@pytest.mark.needs_tool("sha256sum")
def test_a_copied_checksum_file_is_right_where_it_lies(made: Recorded, tmp_path: Path) -> None:
    made.back_up(tmp_path / "docs", mode="full", checksum=["sha256"])
    transfer(made.url, "latest", job="docs", to=tmp_path / "second")
    name = f"{made.outcomes[-1].path.name}.sha256"
    code = os.system(f"cd {tmp_path}/second && {tool('sha256sum')} -c --quiet {name}")
    assert code == 0


def test_many_parts_are_sent_at_once_and_hashed_in_order(
    made: Recorded, far: MemoryStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs" / "big").write_bytes(noise(500_000, 7))
    made.back_up(tmp_path / "docs", mode="full")
    small_parts(monkeypatch)
    data = made.outcomes[-1].path.read_bytes()
    report = transfer(made.url, "latest", job="docs", to=far.address, upload_parts=3)
    assert report.status == "success"
    assert far[made.outcomes[-1].path.name] == data
    assert len(far.sizes) == -(-len(data) // 20_000)
    assert set(sorted(far.sizes)[1:]) == {20_000}
    assert 1 < far.at_once <= 3


def small_parts(patch: pytest.MonkeyPatch, memory: int = 1 << 30) -> None:
    """Have streams work with small windows and parts."""

    class Small(Stream):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, memory=memory, window=7000, part_bytes=20_000, **more)

    patch.setattr(run_module, "Stream", Small)


def test_parts_too_large_for_memory_wait_on_disk(
    made: Recorded, far: MemoryStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs" / "big").write_bytes(noise(500_000, 7))
    made.back_up(tmp_path / "docs", mode="full")
    small_parts(monkeypatch, memory=50_000)
    spilled: list[Path | None] = []
    settled = streaming._PartBody.settled

    def noted(body: Any) -> Any:
        spilled.append(body.path)
        return settled(body)

    monkeypatch.setattr(streaming._PartBody, "settled", noted)
    transfer(made.url, "latest", job="docs", to=far.address)
    assert far[made.outcomes[-1].path.name] == made.outcomes[-1].path.read_bytes()
    assert len(spilled) > 10
    assert not [path for path in spilled if path is None or path.exists()]


def test_digests_of_parts_are_compared_with_the_catalogs() -> None:
    data = noise(10_000)
    tally = Tally([3000, 3000, 4000])
    for at in range(0, len(data), 777):
        tally.update(data[at : at + 777])
    assert tally.sha256 == hashlib.sha256(data).hexdigest()
    assert tally.parts == [
        hashlib.sha256(data[start:stop]).hexdigest()
        for start, stop in ((0, 3000), (3000, 6000), (6000, 10_000))
    ]


def test_what_was_stored_in_parts_is_checked_by_parts(
    tmp_path: Path, url: str, far: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path)
    (tree / "large").write_bytes(noise(300_000))
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    data = made.outcomes[0].path.read_bytes()
    set_parts(url, data, 100_000)
    transfer(url, "latest", job="docs", to=far.address)
    (facts,) = archives_of(url)
    assert facts.volumes[0].parts
    assert facts.copies[0].volumes[0].parts == facts.volumes[0].parts
    set_parts(url, data[:-1] + b"?", 100_000)
    report = transfer(url, "latest", job="docs", to=tmp_path / "third")
    assert report.status == "failed"
    assert report.problems()[0].code == "damaged"


def set_parts(url: str, data: bytes, size: int) -> None:
    from catalogs import run_sql

    parts = [
        f'[{len(data[at : at + size])}, "{hashlib.sha256(data[at : at + size]).hexdigest()}"]'
        for at in range(0, len(data), size)
    ]
    run_sql(url, f"UPDATE volume SET sha256 = NULL, parts = '[{', '.join(parts)}]'")


def test_a_damaged_source_is_refused_and_nothing_is_left(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    path = made.outcomes[1].path
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    report = transfer(url, job="docs", to=far.address, move=True)
    assert report.status == "partial"
    assert [one.status for one in report.archives] == ["moved", "failed", "moved"]
    (problem,) = report.problems()
    assert (problem.path, problem.code) == (str(path), "damaged")
    assert "SHA-256" in problem.message
    assert path.read_bytes() == data
    assert path.name not in far.names
    assert nothing_left(far)
    assert report.exit_code == 3


def test_a_source_of_another_size_is_refused(made: Recorded, far: MemoryStorage, url: str) -> None:
    path = made.outcomes[1].path
    path.write_bytes(path.read_bytes() + b"x")
    report = transfer(url, job="docs", to=far.address)
    assert [one.status for one in report.archives] == ["copied", "failed", "copied"]
    assert "were written" in (report.archives[1].message or "")


def test_a_name_with_another_content_is_refused(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    first, second, _ = (one.path for one in made.outcomes)
    far.add(first.name, b"x" * first.stat().st_size)
    far.add(second.name, b"short")
    report = transfer(url, job="docs", to=far.address, move=True)
    assert [one.status for one in report.archives] == ["failed", "failed", "moved"]
    assert "another content" in (report.archives[0].message or "")
    assert "5 bytes instead of" in (report.archives[1].message or "")
    assert far[first.name] == b"x" * first.stat().st_size
    assert far[second.name] == b"short"
    assert first.exists()
    assert second.exists()


def test_the_same_place_under_another_address_is_no_destination(
    made: Recorded, far: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    before = listed(made.to)
    (tmp_path / "alias").symlink_to(made.to)
    report = transfer(url, job="docs", to=tmp_path / "alias", move=True)
    assert [one.status for one in report.archives] == ["there"] * 3
    assert listed(made.to) == before
    transfer(url, job="docs", to=far.address, move=True)
    again = Failing(far, lambda _method, _count: False)
    again.address = "block:same"
    use_also(monkeypatch, far, again)
    report = transfer(url, job="docs", to="block:same", move=True)
    assert report.status == "failed"
    assert "is the archive itself" in (report.archives[0].message or "")
    assert stored(far) == before


def test_a_copy_that_arrived_otherwise_is_seen_and_taken_back(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    make = far._make

    def spoiled(name: str, data: bytes) -> Any:
        return make(name, data[:-1] + b"?")

    far._make = spoiled  # type: ignore[method-assign]
    report = transfer(url, "latest", job="docs", to=far.address, move=True)
    assert report.status == "failed"
    assert "holds other bytes than were sent" in (report.archives[0].message or "")
    assert far.names == []
    assert len(listed(made.to)) == 3
    # Whoever trusts the storage does not read it back.
    read = far.bytes_read
    report = transfer(url, "latest", job="docs", to=far.address, verify=False)
    assert (report.status, far.bytes_read) == ("success", read)


@pytest.mark.parametrize("method", ["begin", "send", "complete", "put"])
@pytest.mark.parametrize("after", [False, True], ids=["not done", "answer lost"])
def test_a_failing_storage_gets_nothing_and_a_later_run_finishes(
    made: Recorded, far: MemoryStorage, url: str, monkeypatch: pytest.MonkeyPatch, method: str,
    after: bool, tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "docs" / "big").write_bytes(noise(100_000, 7))
    made.back_up(tmp_path / "docs", mode="full")
    small_parts(monkeypatch)
    before = listed(made.to)
    broken = Failing(far, lambda called, _count: called == method, after=after)
    use_also(monkeypatch, broken)
    report = transfer(url, job="docs", to=far.address, move=True)
    assert broken.fired
    failed = [one for one in report.archives if one.status == "failed"]
    assert failed
    assert {one.message for one in failed} == {"the storage broke; try later"}
    for one in failed:
        name = os.path.basename(one.archive)
        assert name not in far.names
        assert (made.to / name).read_bytes() == before[name]
    if (method, after) != ("begin", True):  # an upload that nobody knows of
        assert nothing_left(far)
    use_also(monkeypatch, far)
    report = transfer(url, job="docs", to=far.address, move=True)
    assert (report.status, stored(far), listed(made.to)) == ("success", before, {})
    readable(url)


def test_a_run_that_is_stopped_leaves_nothing(
    made: Recorded, far: MemoryStorage, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs" / "big").write_bytes(noise(100_000, 7))
    made.back_up(tmp_path / "docs", mode="full")
    small_parts(monkeypatch)
    options = TransferOptions()
    with TransferRun(["latest"], far.address, options, job="docs", catalog_url=url) as run:
        (source,) = run.find()
        run.prepare()

        def advance(_files: int, _size: int, _path: bytes) -> None:
            if far.sizes:
                run.request_cancel()

        with pytest.raises(Interrupted, match="whole where the catalog has it"):
            run.transfer(source, 0, advance)
    assert (far.names, far.uploads) == ([], {})
    assert nothing_left(far)
    assert not run.staging.exists()


def test_nothing_is_deleted_while_someone_reads(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    with archives_lock("docs", shared=True):
        with pytest.raises(LockedError):
            transfer(url, job="docs", to=far.address, move=True)
        assert transfer(url, job="docs", to=far.address).status == "success"
    with archives_lock("docs", shared=False), pytest.raises(LockedError):
        transfer(url, job="docs", to=far.address)


def test_a_dry_run_changes_nothing(made: Recorded, far: MemoryStorage, url: str) -> None:
    before = listed(made.to)
    transfer(url, made.outcomes[0].path, to=far.address)
    calls = far.calls.copy()
    report = transfer(url, job="docs", to=far.address, dry_run=True)
    assert [one.status for one in report.archives] == ["there", "copied", "copied"]
    told = "dry run: would copy 2 archives, 1 is there already; nothing was changed"
    assert told in report.headline()
    report = transfer(url, job="docs", to=made.to / "no folder", move=True, dry_run=True)
    assert [one.status for one in report.archives] == ["moved"] * 3
    assert not (made.to / "no folder").exists()
    assert listed(made.to) == before
    changing = ("put", "begin", "send", "complete", "delete", "abort")
    assert [far.calls[name] for name in changing] == [calls[name] for name in changing]


def test_what_is_not_there_is_told(made: Recorded, far: MemoryStorage, url: str) -> None:
    with pytest.raises(PlanError, match="no ARCHIVE"):
        transfer(url, to=far.address)
    with pytest.raises(NotFoundError, match="known are docs"):
        transfer(url, to=far.address, job="other")
    made.outcomes[0].path.unlink()
    with pytest.raises(NotFoundError, match="no longer there"):
        transfer(url, made.outcomes[0].path, to=far.address)
    report = transfer(url, job="docs", to=far.address)
    assert [one.status for one in report.archives] == ["failed", "copied", "copied"]
    assert report.problems()[0].code == "not_found"
    far.is_there = False
    with pytest.raises(NotFoundError, match="no such bucket"):
        transfer(url, job="docs", to=far.address)
    with pytest.raises(StorageError):
        transfer(url, job="docs", to=made.outcomes[1].path)


def test_a_move_takes_the_place_that_is_named(
    made: Recorded, far: MemoryStorage, tmp_path: Path, url: str
) -> None:
    name = made.outcomes[0].path.name
    transfer(url, job="docs", to=far.address)
    transfer(url, f"{far.address}/{name}", to=tmp_path / "third", move=True)
    assert places_of(url)[0] == (str(made.outcomes[0].path), str(tmp_path / "third" / name))
    assert name not in far.names
    assert made.outcomes[0].path.exists()


def test_bandwidth_is_bounded(
    made: Recorded, far: MemoryStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    class Counting:
        def __init__(self, rate: int) -> None:
            assert rate == 5_000_000

        def take(self, size: int, stop_if_asked: Callable[[], None]) -> None:
            stop_if_asked()
            taken.append(size)

    monkeypatch.setattr(run_module, "Bandwidth", Counting)
    report = transfer(url, job="docs", to=far.address, bandwidth_limit="5MB")
    assert sum(taken) == report.bytes_sent


def test_reading_notices_a_file_that_is_replaced(tmp_path: Path) -> None:
    storage = MemoryStorage()
    known = storage.add("a", b"x" * 100)
    storage.delete("a")
    storage.put("a", BytesBody(b"y" * 100))
    with Stream(tmp_path) as stream, pytest.raises(StorageError, match="replaced"):
        b"".join(stream.read(FileAt(storage, known)))


def test_a_transfer_works_on_both_databases(
    tmp_path: Path, far: MemoryStorage, any_catalog: str
) -> None:
    tree = make_tree(tmp_path)
    made = Recorded(any_catalog, tmp_path / "to")
    made.back_up(tree)
    (tree / "new").write_bytes(b"new")
    made.back_up(tree)
    copied = transfer(any_catalog, job="docs", to=tmp_path / "second")
    assert [one.status for one in copied.archives] == ["copied"] * 2
    moved = transfer(any_catalog, job="docs", to=far.address, move=True)
    assert [one.status for one in moved.archives] == ["moved"] * 2
    assert places_of(any_catalog) == [
        (f"{far.address}/{one.path.name}", str(tmp_path / "second" / one.path.name))
        for one in made.outcomes
    ]
    assert readable(any_catalog) == [far.address] * 2
    with PruneRun(PruneOptions(keep_last=1), catalog_url=any_catalog) as run:
        (tree / "new").unlink()
        made.back_up(tree, mode="full")
        with run.locked("docs", print):
            done = run.prune(run.plan("docs"))
    assert (done.status, len(done.deleted)) == ("success", 2)
    assert (far.names, listed(tmp_path / "second")) == ([], {})
    assert [len(one) for one in places_of(any_catalog)] == [1]


def test_what_is_there_already_is_not_counted_as_copied(
    made: Recorded, far: MemoryStorage, url: str
) -> None:
    assert transfer(url, job="docs", to=far.address).headline() == (
        "Transfer complete: 3 archives copied"
    )
    nothing = "nothing to do: 3 archives are there already"
    again = transfer(url, job="docs", to=far.address)
    assert (again.headline(), again.exit_code) == (f"Transfer: {nothing}", 0)
    rehearsed = transfer(url, job="docs", to=far.address, dry_run=True)
    assert rehearsed.headline() == f"Transfer, dry run: {nothing}"
    assert "is there already" in again.to_text()
    for dry_run in (False, True):
        itself = transfer(url, job="docs", to=made.to, dry_run=dry_run)
        assert nothing in itself.headline()
        assert itself.to_text().count("is where it lies; no second copy was made") == 3
