"""What the newest snapshot has a say in: differential and full runs, disks that are not mounted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, Outcome
from jobs import Job
from rebuilding import rebuild
from remembering import Memory, on_disk

from pybak.backup import content, discover, gone

Run = Callable[..., Outcome]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "src"
    (top / "a" / "deep").mkdir(parents=True)
    (top / "b").mkdir()
    for name in ("one", "a/two", "a/deep/three", "b/four"):
        (top / name).write_bytes(name.encode())
    return top


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def run(tree: Path, tmp_path: Path, memory: Memory) -> Run:
    def start(mode: str = "incremental", **more: Any) -> Outcome:
        return memory.back_up(tree, to=tmp_path / "to", mode=mode, **more)

    return start


def remember(memory: Memory, name: str, **fields: int) -> None:
    """Have the newest snapshot remember other numbers of a member."""
    fact, *rest = memory.snapshots[-1].members[name.encode()]
    known = {field: getattr(fact, field) for field in fact.__struct_fields__}
    memory.snapshots[-1].members[name.encode()] = (type(fact)(**known | fields), *rest)


def unmount(memory: Memory, folder: Path) -> None:
    """Empty a folder that the newest snapshot remembers as a mount point."""
    top = folder.parent
    name = f"{top.name}/{folder.name}"
    for here, _, files in os.walk(folder):
        for path in (here, *(os.path.join(here, file) for file in files)):
            member = os.path.relpath(path, top.parent)
            remember(memory, member, dev=top.stat().st_dev + 1)
    shutil.rmtree(folder)
    folder.mkdir()
    assert name.encode() in memory.names


# ---- differential runs


def test_a_differential_run_sees_that_all_is_as_in_the_full_one_again(
    tree: Path, memory: Memory, run: Run
) -> None:
    run()
    (tree / "new").write_bytes(b"new")
    run("differential")
    (tree / "new").unlink()
    done = run("differential")
    assert (done.report.status, done.report.history.mode) == ("success", "incremental")
    assert "not with the full one: nothing differs" in done.report.to_text()
    assert memory.contents() == on_disk(tree)
    assert run("differential").report.status == "unchanged"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_idle_differential_run_writes_nothing(
    kind: str, tree: Path, memory: Memory, run: Run
) -> None:
    run(**FORMATS[kind])
    (tree / "new").write_bytes(b"new")
    run("differential", **FORMATS[kind])
    done = run("differential", **FORMATS[kind])
    assert (done.report.status, done.report.history.mode) == ("unchanged", "differential")
    assert done.report.files.unchanged == 5


def test_a_differential_run_keeps_the_newest_of_what_it_cannot_look_at(
    tree: Path, memory: Memory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the versions of the full run, nor nothing at all (case 54)."""
    run()
    (tree / "a" / "two").write_bytes(b"second version")
    (tree / "a" / "new").write_bytes(b"new")
    run("differential")
    real = discover.open_folder

    def closed(source: bytes, path: bytes, device: int, inode: int) -> int:
        if path == b"a":
            raise PermissionError(13, "Permission denied")
        return real(source, path, device, inode)

    monkeypatch.setattr(discover, "open_folder", closed)
    (tree / "one").write_bytes(b"1")
    done = run("differential")
    assert (done.report.status, done.report.history.mode) == ("partial", "differential")
    assert [one.path for one in done.manifest.references] == ["src/a/new", "src/a/two"]
    assert memory.contents() == on_disk(tree)


def test_a_folder_that_never_could_be_read_does_not_keep_a_run_from_being_differential(
    tree: Path, memory: Memory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = discover.open_folder

    def closed(source: bytes, path: bytes, device: int, inode: int) -> int:
        if path == b"a":
            raise PermissionError(13, "Permission denied")
        return real(source, path, device, inode)

    monkeypatch.setattr(discover, "open_folder", closed)
    run()
    for number in range(2):
        (tree / str(number)).write_bytes(b"new")
        assert run("differential").manifest.head.mode == "differential"


def test_a_differential_run_keeps_the_newest_of_a_missing_source(
    tmp_path: Path, memory: Memory
) -> None:
    """(case 56)"""
    tops = [tmp_path / "x", tmp_path / "y"]
    for top in tops:
        top.mkdir()
        (top / "file").write_bytes(b"first")
    memory.back_up(*tops, to=tmp_path / "to")
    (tops[1] / "file").write_bytes(b"second version")
    memory.back_up(*tops, to=tmp_path / "to", mode="differential")
    tops[1].rename(tmp_path / "away")
    (tops[0] / "new").write_bytes(b"new")
    done = memory.back_up(*tops, to=tmp_path / "to", mode="differential")
    assert done.report.status == "partial"
    assert memory.contents()["y/file"] == b"second version"


def test_a_differential_run_keeps_the_newest_of_a_file_it_may_not_read(
    tree: Path, memory: Memory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (tree / "one").write_bytes(b"second version")
    run("differential")
    (tree / "one").write_bytes(b"can't be read now")
    (tree / "new").write_bytes(b"new")
    inode = (tree / "one").stat().st_ino
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *how, **more: os.stat(path).st_ino != inode and
        real(path, *how, **more),
    )  # fmt: skip
    # Not every system lets access() go by effective ids; the test's own function is none of them.

    def read(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            raise PermissionError(13, "Permission denied")
        return os.pread(fd, length, offset)

    assert run("differential", read=read).report.status == "partial"
    assert memory.contents()["src/one"] == b"second version"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_fails_when_it_is_packed_stays_as_the_newest_snapshot_has_it(
    kind: str, tmp_path: Path
) -> None:
    """Not as the full run had it; that is so in a rebuilt catalog too (cases 54, 75)."""
    job = Job(tmp_path / "job")
    for name in ("changed", "gone and back", "same"):
        (job.source / name).write_bytes(b"first version")
    job.run("full", **FORMATS[kind])
    (job.source / "changed").write_bytes(b"second version")
    (job.source / "gone and back").unlink()
    (job.source / "new").write_bytes(b"made since")
    job.run(**FORMATS[kind])
    for name in ("changed", "gone and back", "new", "same"):
        (job.source / name).write_bytes(b"can't be read now")

    def read(fd: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    done = job.run("differential", read=read, **FORMATS[kind])
    assert (done.report.history.mode, done.report.files.failed) == ("differential", 4)
    assert [one.path for one in done.manifest.references] == ["docs/changed", "docs/new"]
    expected = {
        "changed": b"second version", "new": b"made since", "same": b"first version",
    }  # fmt: skip

    def check() -> None:
        _, folder = job.restore()
        assert {one.name: one.read_bytes() for one in folder.iterdir()} == expected

    check()
    rebuild(job.url, job.store)
    check()


def test_a_differential_run_looks_at_each_file_once(
    tree: Path, memory: Memory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that may have changed unseen are read for the newest snapshot alone."""
    run(now=datetime.now(UTC))
    (tree / "new").write_bytes(b"new")
    run("differential", now=datetime.now(UTC))
    (tree / "newer").write_bytes(b"newer")
    looked: list[bytes] = []
    real = content.open_source

    def opened(path: bytes) -> Any:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(content, "open_source", opened)
    done = run("differential")
    assert len(looked) == len(set(looked)) == 5
    assert set(done.contents) == {"src/", "src/new", "src/newer"}
    assert memory.contents() == on_disk(tree)


def test_a_disk_mounted_since_the_full_run_is_missed_by_a_differential_one(
    tree: Path, memory: Memory, run: Run
) -> None:
    run()
    (tree / "disk").mkdir()
    (tree / "disk" / "file").write_bytes(b"on the disk")
    run("differential")
    unmount(memory, tree / "disk")
    (tree / "one").write_bytes(b"1")
    done = run("differential")
    assert done.errors == {str(tree / "disk"): "source_missing"}
    assert memory.contents()["src/disk/file"] == b"on the disk"


def test_archives_of_the_newest_snapshot_are_looked_for_too(
    tree: Path, memory: Memory, run: Run
) -> None:
    """(case 76)"""
    run()
    (tree / "new").write_bytes(b"new")
    run("differential").path.unlink()
    done = run("differential")
    assert (done.report.status, done.manifest.head.mode) == ("partial", "full")
    assert memory.contents() == on_disk(tree)


def test_a_deletion_that_a_differential_run_found_is_gone_from_the_restored_snapshot(
    tmp_path: Path,
) -> None:
    """With the catalog of a real history."""
    job = Job(tmp_path)
    (job.source / "old").write_bytes(b"old")
    job.run("full")
    (job.source / "new").write_bytes(b"new")
    job.run("differential")
    (job.source / "new").unlink()
    assert job.run("differential").report.status == "success"
    _, restored = job.restore()
    assert [path.name for path in restored.iterdir()] == ["old"]


# ---- full runs


def test_a_full_run_that_was_asked_for_tells_of_a_disk_that_is_not_mounted(
    tree: Path, memory: Memory, run: Run
) -> None:
    run()
    unmount(memory, tree / "a")
    done = run("full")
    assert (done.report.status, done.manifest.head.mode) == ("partial", "full")
    assert done.errors == {str(tree / "a"): "source_missing"}
    memory.snapshots.pop()
    assert run("full", allow_empty=True).report.status == "success"


def test_a_disk_that_is_not_mounted_is_told_until_something_changes(
    tree: Path, memory: Memory, run: Run
) -> None:
    """Also after a full run without it, of which the history knows nothing else."""
    run()
    unmount(memory, tree / "a")
    missing = {str(tree / "a"): "source_missing"}
    assert run("full").errors == missing
    idle = run()
    assert (idle.report.status, idle.errors) == ("unchanged", missing)
    for mode in ("incremental", "differential", "full", "incremental"):
        (tree / "one").write_bytes(os.urandom(8))
        done = run(mode)
        assert (done.report.status, done.errors) == ("partial", missing)
    (tree / "a" / "two").write_bytes(b"back")
    assert run().report.status == "success"
    assert run().report.exit_code == 0


def test_a_disk_that_will_not_come_back_is_told_no_more_once_that_was_said(
    tree: Path, memory: Memory, run: Run
) -> None:
    run()
    unmount(memory, tree / "a")
    run("full")
    assert run(allow_empty=True).report.status == "success"
    idle = run()
    assert (idle.report.status, idle.errors) == ("unchanged", {})


def test_a_full_run_that_is_due_waits_for_a_disk(tree: Path, memory: Memory, run: Run) -> None:
    run()
    unmount(memory, tree / "a")
    done = run(full_every="1")
    assert done.errors == {str(tree / "a"): "source_missing"}
    assert done.manifest.head.mode == "incremental"
    assert "must wait" in done.report.to_text()
    assert b"src/a/deep/three" in memory.names
    done = run(full_every="1", allow_empty=True)
    assert (done.report.status, done.manifest.head.mode) == ("success", "full")


def test_a_full_run_that_is_due_waits_for_a_missing_source(tmp_path: Path, memory: Memory) -> None:
    """(case 56)"""
    tops = [tmp_path / "x", tmp_path / "y"]
    for top in tops:
        top.mkdir()
        (top / "file").write_bytes(b"content")
    memory.back_up(*tops, to=tmp_path / "to")
    tops[1].rename(tmp_path / "away")
    done = memory.back_up(*tops, to=tmp_path / "to", full_every="1")
    assert (done.report.status, done.manifest.head.mode) == ("partial", "incremental")
    assert b"y/file" in memory.names
    (tmp_path / "away").rename(tops[1])
    done = memory.back_up(*tops, to=tmp_path / "to", full_every="1")
    assert (done.report.status, done.manifest.head.mode) == ("success", "full")


@pytest.mark.parametrize("full_every", [None, "1"])
def test_a_source_keeps_its_files_although_its_name_would_be_another_now(
    tmp_path: Path, memory: Memory, full_every: str | None
) -> None:
    """(case 56) One that came, or one that went, has its own name."""
    first, second = tmp_path / "x" / "data", tmp_path / "y" / "data"
    for top in (first, second):
        top.mkdir(parents=True)
        (top / top.parent.name).write_bytes(b"content")
    memory.back_up(first, to=tmp_path / "to")
    first.rename(tmp_path / "away")
    done = memory.back_up(first, second, to=tmp_path / "to", full_every=full_every)
    assert (done.report.status, done.manifest.head.mode) == ("partial", "incremental")
    assert memory.names >= {b"data/x", b"y/data/y"}
    (tmp_path / "away").rename(first)
    memory.back_up(first, second, to=tmp_path / "to")
    first.rename(tmp_path / "away")
    (tmp_path / "z").mkdir()
    done = memory.back_up(first, tmp_path / "z", to=tmp_path / "to", full_every=full_every)
    assert (done.report.status, done.manifest.head.mode) == ("partial", "incremental")
    assert b"x/data/x" in memory.names


def test_a_full_run_after_a_loss_of_archives_tells_of_a_disk_too(
    tree: Path, memory: Memory, run: Run
) -> None:
    first = run()
    unmount(memory, tree / "a")
    first.path.unlink()
    done = run(full_every="1")
    assert done.manifest.head.mode == "full"
    assert set(done.errors.values()) == {"storage", "source_missing"}


# ---- what is a mount point


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_a_folder_emptied_on_purpose_is_no_mount_point_though_devices_are_renumbered(
    mode: str, tree: Path, memory: Memory, run: Run
) -> None:
    run()
    for name in list(memory.names):
        remember(memory, os.fsdecode(name), dev=tree.stat().st_dev + 7)
    shutil.rmtree(tree / "a")
    (tree / "a").mkdir()
    assert run(mode).report.status == "success"
    assert memory.contents() == on_disk(tree)


def test_a_disk_that_is_mounted_and_empty_is_just_that(
    tree: Path, memory: Memory, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    unmount(memory, tree / "a")
    real = os.stat

    class Other:
        st_dev = tree.stat().st_dev + 9

    monkeypatch.setattr(
        gone, "os", type("O", (), {
            "fsdecode": os.fsdecode, "fsencode": os.fsencode,
            "stat": lambda path: Other() if path == os.fsencode(tree) else real(path),
        }),
    )  # fmt: skip
    assert run().report.status == "success"
    assert b"src/a/two" not in memory.names


def test_a_source_on_another_device_with_another_inode_lost_its_disk(
    tree: Path, memory: Memory, run: Run
) -> None:
    run()
    device, inode = tree.stat().st_dev, tree.stat().st_ino
    remember(memory, "src", dev=device + 1)
    for path in tree.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = memory.snapshots[-1]
    assert run().report.status == "success"  # its inode tells that it is the same folder
    memory.snapshots[:] = [kept]
    remember(memory, "src", dev=device + 1, inode=inode + 1)
    assert run().errors == {str(tree): "source_missing"}
    assert b"src/one" in memory.names


# ---- what is left out of the comparison


def test_without_the_ctime_another_mode_still_is_a_change(tree: Path, run: Run) -> None:
    """(case 51)"""
    run()
    (tree / "one").chmod(0o600)
    assert run(ignore_ctime=True).report.files.changed == 1
    assert run(ignore_ctime=True).report.status == "unchanged"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_without_inodes_a_name_of_another_file_still_is_a_change(
    kind: str, tree: Path, memory: Memory, run: Run
) -> None:
    """Its state in a tar archive has no size of its own."""
    os.link(tree / "one", tree / "same")
    how = FORMATS[kind] | {"ignore_inode": True, "ignore_ctime": True}
    run(**how)
    status = (tree / "same").stat()
    (tree / "same").unlink()
    (tree / "same").write_bytes(b"something else")
    os.link(tree / "same", tree / "third")
    (tree / "keeps links").hardlink_to(tree / "one")
    os.utime(tree / "same", ns=(status.st_atime_ns, status.st_mtime_ns))
    done = run(**how)
    assert done.report.files.changed == 1
    assert memory.contents() == on_disk(tree)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_without_inodes_copies_of_linked_files_are_unchanged(
    kind: str, tree: Path, run: Run
) -> None:
    os.link(tree / "one", tree / "same")
    how = FORMATS[kind] | {"ignore_inode": True, "ignore_ctime": True, "exclude": ["/old"]}
    run(**how)
    (tree / "one").rename(tree / "old")
    (tree / "same").unlink()
    shutil.copy2(tree / "old", tree / "one")
    os.link(tree / "one", tree / "same")
    assert run(**how).report.status == "unchanged"
