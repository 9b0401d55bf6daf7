"""Incremental and differential backups: what is new, changed and gone, and what is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, back_up, judge_outcome, noise, prose, shrink, snapshot
from remembering import Memory, counts, on_disk

from pybak.backup import compare
from pybak.backup.run import BackupRun
from pybak.options import BackupOptions
from pybak.report import PlanSummary


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "src"
    (top / "a" / "deep").mkdir(parents=True)
    (top / "b").mkdir()
    for number, name in enumerate(["one", "a/two", "a/deep/three", "b/four"]):
        (top / name).write_bytes(prose(3000, number))
    (top / "link").symlink_to("one")
    return top


@pytest.fixture
def memory() -> Memory:
    return Memory()


def age(path: Path) -> None:
    """Give a file another time, as an edit does."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_007))


# ---- what differs


@pytest.mark.parametrize("kind", list(FORMATS))
def test_the_first_run_is_full_and_says_why(tree: Path, tmp_path: Path, memory: Memory, kind: str):
    done = memory.back_up(tree, to=tmp_path / "to", **FORMATS[kind])
    assert counts(done.report) == (5, 0, 0, 0)
    assert done.report.history.mode == "full"
    assert done.manifest.head.mode == "full"
    assert "first run" in done.report.to_text()


@pytest.mark.parametrize("kind", list(FORMATS))
def test_an_incremental_archive_holds_what_is_new_and_changed(
    tree: Path, tmp_path: Path, memory: Memory, kind: str
):
    """It is an archive like any other, and says what is gone (case 110)."""
    memory.back_up(tree, to=tmp_path / "to", **FORMATS[kind])
    (tree / "new").write_bytes(b"new")
    (tree / "one").write_bytes(b"another one")
    (tree / "b" / "four").unlink()
    done = memory.back_up(tree, to=tmp_path / "to", **FORMATS[kind])
    judge_outcome(done)
    assert counts(done.report) == (1, 1, 3, 0)
    assert done.report.history.gone == 1
    assert set(done.contents) == {"src/", "src/b/", "src/new", "src/one"}
    head = done.manifest.head
    assert (head.mode, head.seq) == ("incremental", 2)
    assert head.base_run == head.full_run == memory.snapshots[0].run_id
    assert done.manifest.gone == ["src/b/four"]
    assert done.manifest.status == "success"
    assert done.manifest.counts["changed"] == 1
    assert memory.contents() == on_disk(tree)


def test_without_a_history_a_run_is_full_and_says_why(tree: Path, tmp_path: Path):
    done = back_up(tree, to=tmp_path / "to", mode="incremental")
    assert done.report.history.mode == "full"
    assert done.report.files.new == 5
    assert "can't be read" in done.report.to_text()


def test_nothing_new_writes_nothing(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    before = sorted((tmp_path / "to").iterdir())
    done = memory.back_up(tree, to=tmp_path / "to")
    report = done.report
    assert (report.status, report.archive, report.exit_code) == ("unchanged", None, 0)
    assert counts(report) == (0, 0, 5, 0)
    assert report.to_json()["volumes"] == []
    assert done.plan.batches == 0
    assert sorted((tmp_path / "to").iterdir()) == before


def test_a_differential_run_compares_with_the_newest_full_one(
    tree: Path, tmp_path: Path, memory: Memory
):
    to = tmp_path / "to"
    memory.back_up(tree, to=to)
    (tree / "x").write_bytes(b"x")
    first = memory.back_up(tree, to=to, mode="differential")
    (tree / "y").write_bytes(b"y")
    second = memory.back_up(tree, to=to, mode="differential")
    assert first.report.files.new == 1
    assert second.report.files.new == 2
    assert second.manifest.head.base_run == memory.snapshots[0].run_id
    assert {"src/x", "src/y"} <= set(second.contents)
    assert memory.contents() == on_disk(tree)


def test_a_full_run_takes_everything_again(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    done = memory.back_up(tree, to=tmp_path / "to", mode="full")
    assert counts(done.report) == (5, 0, 0, 0)
    assert done.manifest.gone == []
    assert done.manifest.head.base_run is None


def edit_in_secret(path: Path) -> None:
    """Other content of the same length under the same time: only the ctime tells."""
    status = path.stat()
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(255 - byte for byte in data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file with the same content and time; the old one keeps its inode busy."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    os.link(path, path.parent.parent / "kept")
    copy.rename(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "below").write_bytes(b"below")


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[int, ...]]] = {
    "content": (lambda path: path.write_bytes(b"other"), (0, 1, 4, 0)),
    "time": (age, (0, 1, 4, 0)),
    "time set back": (lambda path: os.utime(path, (1000, 1000)), (0, 1, 4, 0)),
    "content under the same time": (edit_in_secret, (0, 1, 4, 0)),
    "mode": (lambda path: path.chmod(0o600), (0, 1, 4, 0)),
    "another inode": (replace, (0, 1, 4, 0)),
    "a folder instead": (to_folder, (1, 0, 4, 0)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_whatever_gives_it_away(
    what: str, tree: Path, tmp_path: Path, memory: Memory
):
    """(cases 51, 52)"""
    change, expected = CHANGES[what]
    memory.back_up(tree, to=tmp_path / "to")
    change(tree / "a" / "two")
    (tree / "kept").unlink(missing_ok=True)
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == expected
    assert memory.contents() == on_disk(tree)


def test_a_file_in_place_of_a_folder_takes_all_below_it_along(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    shutil.rmtree(tree / "a")
    (tree / "a").write_bytes(b"a file")
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == (0, 1, 3, 0)
    assert sorted(done.manifest.gone) == ["src/a/deep", "src/a/deep/three", "src/a/two"]
    assert done.report.history.gone == 2
    assert memory.contents() == on_disk(tree)


def test_ignoring_the_ctime_takes_the_times_word_for_it(tree: Path, tmp_path: Path, memory: Memory):
    """(case 51)"""
    memory.back_up(tree, to=tmp_path / "to")
    edit_in_secret(tree / "one")
    (tree / "b").chmod(0o700)
    done = memory.back_up(tree, to=tmp_path / "to", ignore_ctime=True)
    assert set(done.contents) == {"src/b/"}
    age(tree / "one")
    assert memory.back_up(tree, to=tmp_path / "to", ignore_ctime=True).report.files.changed == 1


def test_ignoring_inodes_takes_a_copy_for_the_file(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    replace(tree / "a" / "two")
    done = memory.back_up(
        tree, to=tmp_path / "to", ignore_inode=True, ignore_ctime=True, exclude=["/kept"]
    )
    assert done.report.status == "unchanged"


def test_checksums_find_what_no_time_tells(tree: Path, tmp_path: Path, memory: Memory):
    memory.back_up(tree, to=tmp_path / "to")
    edit_in_secret(tree / "one")
    done = memory.back_up(tree, to=tmp_path / "to", ignore_ctime=True, checksum_compare=True)
    assert counts(done.report) == (0, 1, 4, 0)
    assert "src/one" in done.contents
    again = memory.back_up(tree, to=tmp_path / "to", checksum_compare=True)
    assert again.report.status == "unchanged"
    assert again.report.bytes_read == 4 * 3000


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_checksums_of_parts_and_of_sparse_files_are_compared_too(
    kind: str, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    shrink(monkeypatch, part=60_000)
    top = tmp_path / "src"
    top.mkdir()
    (top / "large").write_bytes(noise(200_000, 1))
    with (top / "sparse").open("wb") as file:
        for at in (0, 1 << 20, 3 << 20):
            file.seek(at)
            file.write(noise(50_000, at))
        file.truncate(4 << 20)
    how: dict[str, Any] = {"to": tmp_path / "to", "checksum_compare": True, "ignore_ctime": True}
    memory.back_up(top, **how, **FORMATS[kind])
    assert memory.back_up(top, **how, **FORMATS[kind]).report.status == "unchanged"
    for name in ("large", "sparse"):
        status = (top / name).stat()
        with (top / name).open("r+b") as file:
            file.seek(20_000)
            file.write(b"bit rot")
        os.utime(top / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        done = memory.back_up(top, **how, **FORMATS[kind])
        assert counts(done.report) == (0, 1, 1, 0), name
        assert memory.contents() == on_disk(top)


# ---- racy files


def test_a_file_that_was_touched_while_it_was_read_is_compared_by_content(
    tree: Path, tmp_path: Path, memory: Memory
):
    """The clock may not tick between the read and the change (case 52)."""
    early = datetime.now(UTC) - timedelta(hours=1)  # all files are newer than this run
    memory.back_up(tree, to=tmp_path / "to", now=early)
    (tree / "link").unlink()  # what has no content is taken again
    same = memory.back_up(tree, to=tmp_path / "to")
    assert counts(same.report) == (0, 0, 4, 0)
    assert same.report.bytes_read == 4 * 3000
    # A change that leaves no trace in the times, as they were recorded.
    name = b"src/one"
    fact, recorded, archive = memory.snapshots[-1].members[name]
    edit_in_secret(tree / "one")
    status = (tree / "one").stat()
    seen = type(fact)(**{f: getattr(fact, f) for f in fact.__struct_fields__} | {
        "ctime_ns": status.st_ctime_ns})  # fmt: skip
    memory.snapshots[-1].members[name] = (seen, recorded, archive)
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == (0, 1, 3, 0)
    assert memory.contents() == on_disk(tree)


def test_no_change_is_missed_right_after_a_run(tmp_path: Path, memory: Memory):
    """By the real clock, with the time put back each time (cases 51, 52)."""
    top = tmp_path / "src"
    top.mkdir()
    (top / "file").write_bytes(b"%05d" % 0)
    os.utime(top / "file", ns=(10**18, 10**18))
    for number in range(1, 30):
        memory.back_up(top, to=tmp_path / "to", now=datetime.now(UTC))
        with (top / "file").open("r+b") as file:
            file.write(b"%05d" % number)
        os.utime(top / "file", ns=(10**18, 10**18))
        memory.back_up(top, to=tmp_path / "to", now=datetime.now(UTC))
        assert memory.contents()["src/file"] == b"%05d" % number


def test_a_link_that_may_have_been_replaced_unseen_is_taken_again(
    tree: Path, tmp_path: Path, memory: Memory
):
    early = datetime.now(UTC) - timedelta(hours=1)
    memory.back_up(tree, to=tmp_path / "to", now=early)
    assert set(memory.back_up(tree, to=tmp_path / "to").contents) == {"src/link"}
    assert memory.back_up(tree, to=tmp_path / "to").report.status == "unchanged"


def test_a_file_that_moved_while_it_was_read_is_taken_again(
    tree: Path, tmp_path: Path, memory: Memory
):
    """(case 48)"""
    times = [0]

    def read(fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        if os.fstat(fd).st_ino == (tree / "one").stat().st_ino:
            times[0] += 1
            os.utime(tree / "one", ns=(10**18, 10**18 + times[0]))
        return data

    first = memory.back_up(tree, to=tmp_path / "to", read=read)
    assert counts(first.report) == (4, 0, 0, 1)
    assert first.records["src/one"].changed
    assert first.manifest.status == "partial"
    assert [code for _, code, _ in first.manifest.errors] == ["changed"]
    done = memory.back_up(tree, to=tmp_path / "to")
    assert counts(done.report) == (0, 1, 4, 0)
    assert memory.back_up(tree, to=tmp_path / "to").report.status == "unchanged"


# ---- folders


def test_a_folder_whose_time_alone_moved_is_no_reason_for_an_archive(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "b" / "passing").touch()
    (tree / "b" / "passing").unlink()
    assert memory.back_up(tree, to=tmp_path / "to").report.status == "unchanged"
    (tree / "one").write_bytes(b"1")
    done = memory.back_up(tree, to=tmp_path / "to")
    assert set(done.contents) == {"src/one", "src/b/"}


def test_a_folder_with_another_mode_and_an_empty_one_are_changes(
    tree: Path, tmp_path: Path, memory: Memory
):
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "b").chmod(0o700)
    assert set(memory.back_up(tree, to=tmp_path / "to").contents) == {"src/b/"}
    (tree / "empty").mkdir()
    done = memory.back_up(tree, to=tmp_path / "to")
    assert set(done.contents) == {"src/", "src/empty/"}
    assert counts(done.report) == (0, 0, 5, 0)
    (tree / "empty").rmdir()
    done = memory.back_up(tree, to=tmp_path / "to")
    assert done.manifest.gone == ["src/empty"]
    assert done.report.history.gone == 0


# ---- hard links


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.zst"])
def test_names_of_one_file_change_together(kind: str, tree: Path, tmp_path: Path, memory: Memory):
    os.link(tree / "one", tree / "b" / "same")
    how = FORMATS[kind]
    memory.back_up(tree, to=tmp_path / "to", **how)
    assert memory.back_up(tree, to=tmp_path / "to", **how).report.status == "unchanged"
    os.link(tree / "one", tree / "a" / "third")
    done = memory.back_up(tree, to=tmp_path / "to", **how)
    assert counts(done.report) == (1, 2, 4, 0)
    (tree / "one").write_bytes(b"new content")
    done = memory.back_up(tree, to=tmp_path / "to", **how)
    assert counts(done.report) == (0, 3, 4, 0)
    judge_outcome(done)
    assert memory.contents() == on_disk(tree)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_new_name_of_a_file_that_is_not_in_the_archive_holds_the_content(
    kind: str, tree: Path, tmp_path: Path, memory: Memory
):
    how = FORMATS[kind] | {"ignore_ctime": True}
    memory.back_up(tree, to=tmp_path / "to", **how)
    os.link(tree / "one", tree / "b" / "same")
    done = memory.back_up(tree, to=tmp_path / "to", **how)
    judge_outcome(done)
    assert done.contents["src/b/same"] == (tree / "one").read_bytes()
    assert "src/one" not in done.contents
    assert memory.contents() == on_disk(tree)


def test_racy_names_of_one_file_share_one_verdict(tree: Path, tmp_path: Path, memory: Memory):
    os.link(tree / "one", tree / "b" / "same")
    (tree / "link").unlink()
    early = datetime.now(UTC) - timedelta(hours=1)
    memory.back_up(tree, to=tmp_path / "to", now=early, format="tar")
    same = memory.back_up(tree, to=tmp_path / "to", format="tar")
    assert same.report.status == "unchanged"
    edit_in_secret(tree / "one")
    for name in (b"src/one", b"src/b/same"):
        fact, recorded, archive = memory.snapshots[-1].members[name]
        fields = {field: getattr(fact, field) for field in fact.__struct_fields__}
        fields["ctime_ns"] = (tree / "one").stat().st_ctime_ns
        memory.snapshots[-1].members[name] = (type(fact)(**fields), recorded, archive)
    done = memory.back_up(tree, to=tmp_path / "to", format="tar")
    assert counts(done.report) == (0, 2, 3, 0)
    assert memory.contents() == on_disk(tree)


# ---- dry runs


def test_a_dry_run_tells_the_same_counts_and_writes_nothing(
    tree: Path, tmp_path: Path, memory: Memory
):
    """(case 86)"""

    def rehearse() -> PlanSummary:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        options = BackupOptions(mode="incremental")
        with BackupRun(
            [str(tree)], output=None, to=str(tmp_path / "to"), job=None, options=options,
            scratch=scratch,
        ) as run:  # fmt: skip
            run.choose_base(memory)
            kept = run.filter(run.discover())
            return run.plan_summary(run.plan(kept), kept)

    assert rehearse().history.reasons == ("the first run of this job",)
    memory.back_up(tree, to=tmp_path / "to")
    (tree / "new").write_bytes(b"new")
    (tree / "one").write_bytes(b"other")
    (tree / "b" / "four").unlink()
    before = snapshot(tmp_path / "to")
    plan = rehearse()
    assert snapshot(tmp_path / "to") == before
    done = memory.back_up(tree, to=tmp_path / "to")
    assert plan.files == done.report.files
    assert (plan.history, plan.bytes) == (done.report.history, done.report.bytes_read)
    assert "1 new, 1 changed, 3 unchanged, 1 gone" in plan.to_text()
    nothing = rehearse()
    assert (nothing.status, nothing.batches) == ("unchanged", 0)


# ---- cancelling


def test_a_comparison_stops_when_it_is_asked_to(
    tree: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    """(case 95)"""
    from pybak.errors import Interrupted

    memory.back_up(tree, to=tmp_path / "to")
    monkeypatch.setattr(compare, "_LOOK_EVERY", 1)
    filtered = compare.pack_states

    def stop(states: Any) -> Any:
        runs[0].request_cancel()
        return filtered(states)

    runs: list[Any] = []
    begin = memory.begin
    monkeypatch.setattr(memory, "begin", lambda run: (runs.append(run), begin(run)))
    monkeypatch.setattr(compare, "pack_states", stop)
    with pytest.raises(Interrupted):
        memory.back_up(tree, to=tmp_path / "to")
