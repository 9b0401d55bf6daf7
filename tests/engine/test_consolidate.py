"""A full archive made from a chain by copying: it holds the same, and the chain can go."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from commands import tool
from jobs import Job, Tree, seen
from sqlalchemy.engine.default import DefaultDialect

from pybak.catalog import removal, replacing
from pybak.formats.manifest_reader import read_whole_manifest
from pybak.options import VerifyOptions
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild.run import RebuildRun
from pybak.retention import files
from pybak.storage import local
from pybak.verify.check import verify_batch
from pybak.verify.run import VerifyRun
from pybak.volumes.find import find_volumes

MANIFEST = ".pybak/manifest.jsonl.gz"


class Chain:
    """Four runs: a full one and three that build on it, with what each must restore to."""

    def __init__(self, place: Path, **options: Any) -> None:
        self.job = Job(place)
        self.options = options
        self.states: list[Tree] = []
        source = self.job.source
        self.run(full={"a": "1", "b": "1" * 5000, "d/c": "1", "d/e": "1"}, mode="full")
        os.symlink("a", source / "link")
        self.run(full={"b": "2" * 5000, "n": "2", "caf\udce9": "2"})
        (source / "d/c").unlink()
        self.run(full={"d/x": "3"}, empty=True)
        (source / "n").unlink()
        self.run(full={"b": "4" * 9000})

    def run(self, *, full: dict[str, str], mode: str = "incremental", empty: bool = False) -> None:
        for name, text in full.items():
            path = self.job.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if empty:
            (self.job.source / "empty").mkdir()
        made = self.job.run(mode, **self.options)
        assert made.report.status == "success", made.report.errors
        self.states.append(seen(self.job.source))

    def check(self) -> None:
        """See that every snapshot that is listed restores to what it was."""
        by_seq = dict(enumerate(self.states, 1))
        for snapshot in self.job.snapshots:
            report, folder = self.job.restore(snapshot.run_id)
            assert report.status == "success", report.errors
            assert seen(folder) == by_seq[snapshot.seq]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def verified(path: Path) -> None:
    """Read an archive through, structure, checksums and digests."""
    with VerifyRun(VerifyOptions(workers=1)) as run:
        found = find_volumes(os.fsencode(path))
        plan = run.plan(found, 0)
        results = [verify_batch(batch) for batch in plan.batches]
        done = run.check(found, 0, plan, results)
    assert (done.status, done.message, done.damaged) == ("success", None, ())


def raw(path: Path) -> dict[str, bytes]:
    """Give the packed bytes of each member but the manifest."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            if info.filename != MANIFEST:
                file.seek(info.header_offset + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                file.seek(name + extra, os.SEEK_CUR)
                found[info.filename] = file.read(info.compress_size)
    return found


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
    with job.history._database.reading() as connection:
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
    chain = Chain(tmp_path, tag=["pin"])
    chain.options = {}
    for number in range(5, 8):
        chain.run(full={"b": str(number) * 100, f"new{number}": "x"})
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
    chain.run(full={"after": "5"})
    chain.run(full={"after": "6", "b": "6"}, mode="differential")
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


def test_a_dry_run_tells_what_will_come(chain: Chain) -> None:
    from pybak.options import PruneOptions
    from pybak.retention.run import PruneRun

    before = chain.job.archives
    options = PruneOptions(keep_last=2, consolidate=True)
    with PruneRun(options, catalog_url=chain.job.url) as run:
        report = run.rehearse(["docs"])
        (shown,) = report.jobs
    assert chain.job.archives == before
    assert "New full     of run 3" in report.to_text()
    (done,) = chain.job.prune(keep_last=2, consolidate=True).jobs
    assert shown.consolidated is not None
    assert (shown.consolidated.seq, shown.consolidated.archive) == (3, None)
    for kind in ("keep", "remove"):
        seqs = [[(one.seq, one.reasons) for one in getattr(of, kind)] for of in (shown, done)]
        assert seqs[0] == seqs[1]
    assert len(shown.deleted) == 2  # and that of run 3, in the end
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


def test_a_large_member_is_copied_with_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybak.backup import plan

    job = Job(tmp_path)
    (job.source / "large").write_bytes(random.Random(2).randbytes(9 << 20) + bytes(8 << 20))
    (job.source / "small").write_text("1")
    monkeypatch.setattr(plan, "PART_BYTES", 4 << 20)
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


@pytest.mark.parametrize("options", [{"format": "tar.zst"}, {"password": b"secret"}])
def test_what_has_no_members_to_copy_is_told_and_the_rest_is_done(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    job = Job(tmp_path)
    for number in range(4):
        (job.source / "a").write_text(str(number))
        (job.source / f"b{number}").write_text("x")
        if number == 2:
            (job.source / "b1").unlink()
        if number == 3:
            (job.source / "b2").write_text("y")
        job.run("full" if not number else "incremental", **options)
    (done,) = job.prune(keep_last=1, consolidate=True).jobs
    assert done.status == "partial"
    assert done.consolidated is None
    (problem,) = done.errors
    assert "only plain ZIP archives can be consolidated" in problem.message
    assert len(done.deleted) == 2


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
    assert "is not where the directory says; check it with verify" in problem.message
    assert done.consolidated is None
    assert set(chain.job.archives) <= set(before)
    assert first in chain.job.archives  # it is needed
    assert [one.seq for one in chain.job.snapshots][-1] == 4


@pytest.mark.parametrize("step", range(12))
def test_a_kill_at_any_step_leaves_every_listed_snapshot_whole(chain: Chain, step: int) -> None:
    """(case 94)"""
    child = os.fork()
    if not child:
        _killed_at(chain, step)
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, step
    chain.check()
    (done,) = chain.job.prune(keep_last=1, consolidate=True).jobs
    assert done.status == "success", done.errors
    assert len(chain.job.archives) == 1
    assert not list(chain.job.store.glob(".*"))
    chain.check()


def _killed_at(chain: Chain, step: int) -> None:
    """Consolidate, and die by SIGKILL before the `step`th change to storage or catalog."""
    left = step
    is_writing = False

    def count() -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def before(name: str, module: Any, act: Any) -> None:
        original = getattr(module, name)

        def wrapper(*given: Any, **more: Any) -> Any:
            act()
            return original(*given, **more)

        setattr(module, name, wrapper)

    def begin() -> None:
        nonlocal is_writing
        is_writing = True

    def commit() -> None:
        nonlocal is_writing
        if is_writing:
            count()
        is_writing = False

    try:
        from pybak.retention import consolidate

        for module in (replacing, consolidate):
            for name in ("enter_unfinished", "replace_archive"):
                before(name, module, begin)
        for name in ("mark_deleting", "finish_removal"):
            before(name, removal, begin)
        before("do_commit", DefaultDialect, commit)
        before("_unlink", files, count)
        before("publish", local, count)
        before("_sync_folder", local, count)
        chain.job.prune(keep_last=1, consolidate=True)
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


@pytest.mark.parametrize("later", [0, 3])
def test_a_catalog_rebuilt_from_what_is_left_knows_the_same(chain: Chain, later: int) -> None:
    """Also where the run that a later one was compared with is gone. (case 75)"""
    chain.options = {"tag": ["pin"]}
    chain.run(full={"b": "5", "x": "5"})
    chain.options = {}
    for number in range(6, 6 + later):
        chain.run(full={"b": str(number) * 100, "x": str(number)})
    (done,) = chain.job.prune(keep_last=1, keep_tag=["pin"], consolidate=True).jobs
    assert done.consolidated is not None
    assert [one.seq for one in chain.job.snapshots] == ([5, 8] if later else [5])
    assert len(chain.job.archives) == len(chain.job.snapshots)
    chain.run(full={"b": "9"})
    held = {one.run_id: _held(chain, one.run_id) for one in chain.job.snapshots}
    for path in Path(chain.job.home).glob("catalog.db*"):
        path.unlink()
    with RebuildRun([str(chain.job.store)], RebuildOptions(), catalog_url=chain.job.url) as run:
        steps = run.read()
        run.write(steps, run.describe(steps))
    assert {one.run_id: _held(chain, one.run_id) for one in chain.job.snapshots} == held
    chain.check()


def _held(chain: Chain, run_id: str) -> tuple[object, ...]:
    (snapshot,) = chain.job.history.find(run_id)
    members = {
        one.path: (one.kind, one.size, one.mtime_ns, one.sha256, one.first_seq)
        for one in chain.job.history.versions(snapshot)
    }
    return (snapshot.status, snapshot.mode, snapshot.base_run, snapshot.seq, members)
