"""A full archive made from a chain by copying: it holds the same, and the chain can go."""

from __future__ import annotations

import hashlib
import random
import subprocess
import zipfile
from pathlib import Path

import pytest
from backing_up import cut_files_at
from commands import tool
from consolidating import MANIFEST, Chain, four_runs, raw, verified
from jobs import Job, seen

from pybak.formats.manifest_reader import read_whole_manifest
from pybak.options import PruneOptions
from pybak.retention import merge_zip
from pybak.retention.run import PruneRun


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return four_runs(tmp_path)


def test_the_newest_snapshot_gets_a_full_archive_and_the_chain_goes(chain: Chain) -> None:
    job = chain.job
    (last,) = (one for one in job.snapshots if one.seq == 4)
    (done,) = job.prune(keep_last=1, consolidate=True).jobs
    assert done.status == "success", done.errors
    (archive,) = job.archives
    assert done.consolidated is not None
    assert done.consolidated.archive == str(archive)
    assert done.consolidated.size == archive.stat().st_size
    assert (done.consolidated.seq, len(done.deleted)) == (4, 4)
    (kept,) = job.snapshots
    assert (kept.run_id, kept.mode, kept.base_run) == (last.run_id, "full", None)
    assert (kept.full_run, kept.archive) == (last.run_id, str(archive))
    chain.check()
    with job.history() as history, history.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT DISTINCT archive_id, first_seq FROM file_version")
        assert len(rows.all()) == 1


@pytest.mark.needs_tool("unzip", "7zz")
def test_other_programs_read_it(chain: Chain, tmp_path: Path) -> None:
    chain.job.prune(keep_last=1, consolidate=True)
    (archive,) = chain.job.archives
    subprocess.run(["unzip", "-tqq", archive], check=True)
    subprocess.run([tool("7zz"), "t", archive], check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
    verified(archive)


def test_packed_bytes_are_copied_and_nothing_is_packed_anew(chain: Chain) -> None:
    before: dict[str, bytes] = {}
    for archive in chain.job.archives:
        before |= raw(archive)
    chain.job.prune(keep_last=1, consolidate=True)
    (archive,) = chain.job.archives
    after = raw(archive)
    assert after.keys() == before.keys() - {"docs/d/c", "docs/n"}
    assert all(before[name] == data for name, data in after.items())


def test_the_manifest_tells_of_the_run_as_its_own_did(chain: Chain) -> None:
    (_, _, third, fourth) = chain.job.snapshots
    before = zipfile.ZipFile(fourth.archive or "").read(MANIFEST)
    chain.job.prune(keep_last=1, consolidate=True)
    (archive,) = chain.job.archives
    old = read_whole_manifest(before)
    new = read_whole_manifest(zipfile.ZipFile(archive).read(MANIFEST))
    assert (new.head.mode, new.head.base_run) == ("full", None)
    assert (old.head.base_run, new.head.full_run) == (third.run_id, old.head.full_run)
    for name in ("run_id", "job", "seq", "created", "sources", "tags", "format"):
        assert getattr(new.head, name) == getattr(old.head, name)
    assert (new.gone, new.errors) == (old.gone, old.errors)
    assert (new.status, new.counts, new.users) == (old.status, old.counts, old.users)
    assert new.members == 9 == len([line for line in new.lines if line.path])


def test_earlier_and_later_snapshots_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    chain = four_runs(tmp_path, tag=["pin"])
    chain.options = {}
    for number in range(5, 8):
        chain.write({"b": str(number) * 100, f"new{number}": "x"})
        chain.run()
    job = chain.job
    (done,) = job.prune(keep_last=2, keep_tag=["pin"], consolidate=True).jobs
    assert done.consolidated is not None
    assert done.consolidated.seq == 6  # needs run 5; those before are kept for their tags
    assert [one.seq for one in job.snapshots] == [1, 2, 3, 4, 6, 7]
    chain.check()
    (again,) = job.prune(keep_last=2, consolidate=True).jobs
    assert again.consolidated is None  # 6 is full by now, and 7 needs it alone
    assert [one.seq for one in job.snapshots] == [6, 7]
    assert len(job.archives) == 2
    chain.check()


def test_runs_go_on_from_it(chain: Chain) -> None:
    chain.job.prune(keep_last=1, consolidate=True)
    chain.write({"after": "5"})
    chain.run()
    chain.write({"after": "6", "b": "6"})
    chain.run("differential")
    *_, fifth, sixth = chain.job.snapshots
    assert (fifth.mode, sixth.mode) == ("incremental", "differential")
    chain.check()
    (done,) = chain.job.prune(keep_last=1, consolidate=True).jobs
    assert done.consolidated is not None
    assert len(chain.job.archives) == 1
    chain.check()


def test_where_nothing_stands_in_the_way_nothing_is_made(chain: Chain) -> None:
    before = chain.job.archives
    (done,) = chain.job.prune(keep_last=4, consolidate=True).jobs
    assert done.consolidated is None
    assert chain.job.archives == before


@pytest.mark.parametrize("checksum", [[], ["sha256", "md5"]])
def test_a_dry_run_tells_what_will_come(tmp_path: Path, checksum: list[str]) -> None:
    chain = four_runs(tmp_path, checksum=checksum)
    before = chain.job.archives
    size = sum(path.stat().st_size for path in before[: 3 * (1 + len(checksum))])
    options = PruneOptions(keep_last=2, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url) as run:
        report = run.rehearse(["docs"])
        (shown,) = report.jobs
    assert chain.job.archives == before
    assert "New full     of run 3" in report.to_text()
    done = chain.prune(keep_last=2)
    assert shown.consolidated is not None
    assert (shown.consolidated.seq, shown.consolidated.archive) == (3, None)
    for kind in ("keep", "remove"):
        seqs = [[(one.seq, one.reasons) for one in getattr(of, kind)] for of in (shown, done)]
        assert seqs[0] == seqs[1]
    assert sorted(shown.deleted) == sorted(done.deleted)
    assert len(done.deleted) == 3
    assert shown.bytes_freed == done.bytes_freed == size
    chain.check()


def test_volumes_and_checksums_are_as_those_of_the_run(tmp_path: Path) -> None:
    job = Job(tmp_path)
    content = random.Random(1)
    for name in "abc":
        (job.source / name).write_bytes(content.randbytes(90_000))
    job.run("full", split="64KiB", checksum=["sha256", "md5"])
    (job.source / "b").write_bytes(content.randbytes(90_000))
    job.run(split="64KiB", checksum=["sha256", "md5"])
    state = seen(job.source)
    (done,) = job.prune(keep_last=1, consolidate=True).jobs
    assert done.status == "success", done.errors
    volumes = [path for path in job.archives if path.suffix[1:].isdigit()]
    assert len(volumes) == 5
    assert all(path.stat().st_size == 65536 for path in volumes[:-1])
    for kind in ("sha256", "md5"):
        (sums,) = job.store.glob(f"*.{kind}")
        lines = [line.split("  ") for line in sums.read_text().splitlines()]
        assert [name for _, name in lines] == [path.name for path in volumes]
        for (digest, _), path in zip(lines, volumes, strict=True):
            assert hashlib.new(kind, path.read_bytes()).hexdigest() == digest
    assert len(job.archives) == 7
    verified(volumes[0])
    _, folder = job.restore()
    assert seen(folder) == state


@pytest.mark.parametrize("split", [None, "64KiB"])
def test_many_members_are_taken_a_few_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str | None
) -> None:
    monkeypatch.setattr(merge_zip, "_AT_ONCE", 3)
    monkeypatch.setattr(merge_zip, "_SLICES", 1000)
    chain = Chain(tmp_path, split=split)
    dice = random.Random(3)
    names = [f"d{number % 7}/f{number}" for number in range(60)]
    chain.write({name: dice.randbytes(3000) for name in names})
    chain.run("full")
    chain.write({name: dice.randbytes(3000) for name in dice.sample(names, 25)})
    chain.run()
    archive = chain.consolidated()
    verified(chain.volumes[0])
    assert archive.name.endswith(".zip")
    chain.check()


def test_a_large_member_is_copied_with_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path)
    (job.source / "large").write_bytes(random.Random(2).randbytes(9 << 20) + bytes(8 << 20))
    (job.source / "small").write_text("1")
    cut_files_at(monkeypatch, 4 << 20)
    job.run("full")
    (job.source / "small").write_text("2")
    job.run()
    state = seen(job.source)
    (done,) = job.prune(keep_last=1, consolidate=True).jobs
    assert done.consolidated is not None
    (archive,) = job.archives
    verified(archive)
    _, folder = job.restore()
    assert seen(folder) == state


def test_damage_in_the_chain_changes_nothing(chain: Chain) -> None:
    first = chain.job.archives[0]
    data = bytearray(first.read_bytes())
    data[data.index(b"docs/a")] ^= 1  # a name in a local header
    first.write_bytes(data)
    before = chain.job.archives
    (done,) = chain.job.prune(keep_last=1, consolidate=True).jobs
    assert done.status == "partial"
    (problem,) = done.errors
    assert problem.code == "damaged"
    assert "docs/a has a local header that contradicts the directory" in problem.message
    assert done.consolidated is None
    assert set(chain.job.archives) <= set(before)
    assert first in chain.job.archives  # it is needed
    assert [one.seq for one in chain.job.snapshots][-1] == 4


@pytest.mark.parametrize("later", [0, 3])
def test_a_catalog_rebuilt_from_what_is_left_knows_the_same(chain: Chain, later: int) -> None:
    """Also where the run that a later one was compared with is gone. (case 75)"""
    chain.options = {"tag": ["pin"]}
    chain.write({"b": "5", "x": "5"})
    chain.run()
    chain.options = {}
    for number in range(6, 6 + later):
        chain.write({"b": str(number) * 100, "x": str(number)})
        chain.run()
    (done,) = chain.job.prune(keep_last=1, keep_tag=["pin"], consolidate=True).jobs
    assert done.consolidated is not None
    assert [one.seq for one in chain.job.snapshots] == ([5, 8] if later else [5])
    assert len(chain.job.archives) == len(chain.job.snapshots)
    chain.write({"b": "9"})
    chain.run()
    held = chain.held()
    chain.rebuild()
    assert chain.held() == held
    chain.check()
