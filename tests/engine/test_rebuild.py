"""The catalog made anew from the archives says what the runs wrote (case 75)."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, back_up, noise, prose
from catalogs import query
from recorded import Recorded

from pybak.catalog.engine import Database
from pybak.catalog.history import History
from pybak.catalog.locks import job_lock
from pybak.errors import (
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    StorageError,
    WrongPasswordError,
)
from pybak.options.rebuild import RebuildOptions
from pybak.rebuild import run as rebuild_run
from pybak.rebuild.run import RebuildRun
from pybak.report.rebuild import RebuildReport

# Everything that storage can tell. Numbers of rows are compared by what they stand for.
ROWS = {
    "archive": "SELECT run_id, job, name, format, encrypted, size, members, created_at, state "
    "FROM archive ORDER BY id",
    "volume": "SELECT a.run_id, v.number, v.uri, v.size, v.sha256, v.parts FROM volume v "
    "JOIN archive a ON a.id = v.archive_id ORDER BY a.run_id, v.number",
    "file_version": "SELECT j.name, v.path, v.kind, v.size, v.mtime_ns, v.ctime_ns, v.inode, "
    "v.device, v.mode, v.uid, v.gid, v.changed, v.sha256, v.parts, a.run_id, v.first_seq, "
    "v.gone_seq FROM file_version v JOIN archive a ON a.id = v.archive_id "
    "JOIN job j ON j.id = v.job_id ORDER BY j.name, v.path, v.first_seq",
    "file_error": "SELECT run_id, path, code, message FROM file_error ORDER BY run_id, path, code",
    "run": "SELECT run_id, seq, kind, job, status, started_at, archive, counts, mode, base_run, "
    "full_run, tags FROM run WHERE is_snapshot ORDER BY job, seq",
}


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: [tuple(map(str, row)) for row in query(url, text)] for table, text in ROWS.items()
    }


def rebuild(
    url: str, *places: Path, password: bytes | None = None, now: datetime | None = None,
    **options: Any,
) -> RebuildReport:  # fmt: skip
    """Do what the flow does."""
    with RebuildRun(
        [os.fspath(place) for place in places], RebuildOptions(**options), catalog_url=url, now=now
    ) as run:
        steps = run.read(password)
        if run.options.dry_run:
            return run.report(steps, {})
        volumes = run.describe(steps)
        run.write(steps, volumes)
        return run.report(steps, volumes)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "docs"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "deep").mkdir()
    for number, name in enumerate(["a", "b", "sub/c", "sub/deep/d"]):
        (top / name).write_bytes(prose(3000, number))
    (top / "link").symlink_to("a")
    (top / os.fsdecode(b"odd\xff\n\\")).write_bytes(b"odd")
    return top


def change(tree: Path, number: int) -> None:
    """Make a file, change one, remove one, swap one for a folder."""
    (tree / f"new{number}").write_bytes(noise(500, number))
    (tree / "a").write_bytes(prose(3000 + number, 50 + number))
    if number == 2:
        (tree / "b").unlink()
        shutil.rmtree(tree / "sub" / "deep")
        (tree / "sub" / "deep").write_bytes(b"a file now")
    if number == 3:
        (tree / "new2").unlink()
        (tree / "sub" / "c").chmod(0o600)
        (tree / "b").write_bytes(b"back")


HOW: list[dict[str, Any]] = [
    {},
    {"format": "tar.zst"},
    {"format": "tar"},
    {"password": PASSWORD},
    {"password": PASSWORD, "format": "tar.gz"},
    {"split": "64KiB", "format": "tar.zst", "level": 1},
    {"split": "64KiB", "password": PASSWORD, "hide_names": True},
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: "-".join(map(str, how.values())) or "zip")
def test_the_rebuilt_catalog_is_the_old_one(
    tree: Path, tmp_path: Path, url: str, how: dict[str, Any]
) -> None:
    """(case 75)"""
    (tree / "large").write_bytes(noise(150_000))
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree, **how)
    for number in (1, 2, 3):
        change(tree, number)
        made.back_up(tree, tag=["daily", f"t{number}"], **how)
    assert made.back_up(tree, **how).report.status == "unchanged"
    change(tree, 4)
    made.back_up(tree, mode="differential", **how)
    made.back_up(tree, mode="full", **how)
    other = Recorded(url, tmp_path / "to", job="other job")
    other.back_up(tree / "sub", **how)
    before = rows_of(url)
    assert {len(rows) > 0 for name, rows in before.items() if name != "file_error"} == {True}
    report = rebuild(url, tmp_path / "to", password=how.get("password"))
    assert (report.status, report.errors, report.skipped) == ("success", (), ())
    assert len(report.runs) == 7
    after = rows_of(url)
    for table, rows in before.items():
        assert after[table] == rows, table
    # The next run goes on from there.
    assert made.back_up(tree, **how).report.status == "unchanged"


def test_errors_and_a_partial_run_come_back(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree, tmp_path / "no such folder")
    assert made.outcomes[0].report.status == "partial"
    before = rows_of(url)
    assert len(before["file_error"]) == 1
    rebuild(url, tmp_path / "to")
    assert rows_of(url) == before


def test_postgresql_is_rebuilt_in_one_transaction_if_that_is_asked_for(
    tree: Path, tmp_path: Path, postgres_url: str
) -> None:
    made = Recorded(postgres_url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    before = rows_of(postgres_url)
    with pytest.raises(PlanError, match="holds 2 runs; give --replace"):
        rebuild(postgres_url, tmp_path / "to")
    report = rebuild(postgres_url, tmp_path / "to", replace=True)
    assert (report.status, report.kept) == ("success", None)
    assert rows_of(postgres_url) == before
    assert made.back_up(tree).report.status == "unchanged"


def test_a_rebuild_that_fails_leaves_postgresql_as_it_was(
    tree: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 94)"""
    made = Recorded(postgres_url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(postgres_url)
    fail_in_the_middle(monkeypatch)
    with pytest.raises(StorageError):
        rebuild(postgres_url, tmp_path / "to", replace=True)
    assert rows_of(postgres_url) == before


def fail_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    write = rebuild_run.write_step

    def failing(*words: Any) -> None:
        write(*words)
        raise StorageError("the disk went away")

    monkeypatch.setattr(rebuild_run, "write_step", failing)


def test_a_rebuild_that_fails_leaves_the_file_as_it_was(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 94)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    fail_in_the_middle(monkeypatch)
    with pytest.raises(StorageError):
        rebuild(url, tmp_path / "to")
    assert rows_of(url) == before
    assert not [name for name in os.listdir(tmp_path / "home") if ".new-" in name]


def test_a_stopped_rebuild_changes_nothing(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 95)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    with RebuildRun([str(tmp_path / "to")], RebuildOptions(), catalog_url=url) as run:
        steps = run.read()
        run.request_cancel()
        with pytest.raises(Interrupted):
            run.describe(steps)
        with pytest.raises(Interrupted):
            run.write(steps, {})
    assert rows_of(url) == before


def test_a_rebuild_can_be_stopped_while_it_writes(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    with RebuildRun([str(tmp_path / "to")], RebuildOptions(), catalog_url=url) as run:
        steps = run.read()
        volumes = run.describe(steps)
        write = rebuild_run.write_step

        def stopping(*words: Any) -> str | None:
            run.request_cancel()
            return write(*words)

        monkeypatch.setattr(rebuild_run, "write_step", stopping)
        with pytest.raises(Interrupted):
            run.write(steps, volumes)
    assert rows_of(url) == before
    assert not [name for name in os.listdir(tmp_path / "home") if ".new-" in name]


def test_what_a_killed_rebuild_left_goes_after_a_day(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 93)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    old, young = (tmp_path / "home" / f"catalog.db.new-{name}" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    rebuild(url, tmp_path / "to")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("step", ["_settle", "_held", "_move_side_files", "_name_old", "replace"])
def test_a_kill_while_catalogs_are_swapped_leaves_a_whole_one(
    tree: Path, tmp_path: Path, url: str, step: str
) -> None:
    """(case 94)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    child = os.fork()
    if child == 0:
        try:
            from pybak.rebuild import swap

            def die(*_words: Any) -> None:
                os._exit(9)

            if step == "replace":
                swap.os = type("os", (), {**vars(os), "replace": staticmethod(die)})  # type: ignore[assignment]
            else:
                setattr(swap, step, die)
            rebuild(url, tmp_path / "to")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert rows_of(url) == before
    assert rebuild(url, tmp_path / "to").status == "success"
    assert rows_of(url) == before


# ---- the old file


def test_the_old_catalog_is_kept_beside_the_new_one(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(url)
    now = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
    report = rebuild(url, tmp_path / "to", now=now)
    kept = tmp_path / "home" / f"catalog.db.old-{now.astimezone():%Y%m%d_%H%M%S}"
    assert report.kept == str(kept)
    assert report.catalog == str(tmp_path / "home" / "catalog.db")
    assert rows_of(f"sqlite:///{kept}") == before
    again = rebuild(url, tmp_path / "to", now=now)
    assert again.kept == f"{kept}_2"
    assert rows_of(url) == before


def leave_log(other: Path, catalog: Path) -> None:
    """Lay a log that SQLite would take in beside a file that it was not made for."""
    database = sqlite3.connect(other)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE stranger (x)")
    database.executemany("INSERT INTO stranger VALUES (?)", [("x" * 3000,)] * 50)
    database.commit()
    # From here on the first page, by which SQLite knows a database, is in the file alone.
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.execute("UPDATE stranger SET x = ?", ("y" * 3000,))
    database.commit()
    for ending in ("-wal", "-shm"):
        shutil.copy(f"{other}{ending}", f"{catalog}{ending}")
    database.close()


@pytest.mark.parametrize("what", ["missing", "empty", "garbage", "cut", "log of another"])
def test_a_catalog_that_is_lost_or_damaged_is_replaced(
    tree: Path, tmp_path: Path, url: str, what: str
) -> None:
    """(case 75)"""
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    before = rows_of(url)
    path = tmp_path / "home" / "catalog.db"
    data = path.read_bytes()
    if what == "missing":
        shutil.rmtree(tmp_path / "home")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "garbage":
        path.write_bytes(b"no database\n" * 1000)
    elif what == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(b"no database\n" * 1000)
        leave_log(tmp_path / "other.db", path)
    report = rebuild(url, tmp_path / "to")
    assert report.status == "success"
    assert (report.kept is None) == (what == "missing")
    assert rows_of(url) == before
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_catalog_that_is_in_use_stays(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 98)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    database = Database(url)
    before = rows_of(url)
    monkeypatch.setattr("pybak.rebuild.swap._WAIT_SECONDS", 0.2)
    with database.transaction(), pytest.raises(LockedError, match="has the catalog open"):
        rebuild(url, tmp_path / "to")
    with pytest.raises(LockedError):  # idle connections are kept open
        rebuild(url, tmp_path / "to")
    database.close()
    assert rows_of(url) == before
    names = os.listdir(tmp_path / "home")
    assert not [name for name in names if ".new-" in name or ".old-" in name]


def test_a_swap_that_fails_leaves_the_catalog_as_it_was(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 96)"""
    from pybak.rebuild import swap

    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)

    def full(*_words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(swap, "_name_old", full)
    with pytest.raises(StorageError, match="the old catalog is as it was"):
        rebuild(url, tmp_path / "to")
    assert rows_of(url) == before
    assert query(url, "PRAGMA journal_mode") == [("wal",)]
    assert [n for n in os.listdir(tmp_path / "home") if ".new-" in n or ".old-" in n] == []


def test_a_job_that_is_at_work_keeps_its_catalog(tree: Path, tmp_path: Path, url: str) -> None:
    """(case 98)"""
    Recorded(url, tmp_path / "to").back_up(tree)
    with job_lock("docs"), pytest.raises(LockedError, match="docs"):
        rebuild(url, tmp_path / "to")
    assert rebuild(url, tmp_path / "to").status == "success"


def test_a_link_to_the_catalog_stays_one(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    before = rows_of(url)
    path, real = tmp_path / "home" / "catalog.db", tmp_path / "elsewhere.db"
    path.rename(real)
    path.symlink_to(real)
    rebuild(url, tmp_path / "to")
    assert path.is_symlink()
    assert rows_of(url) == before


# ---- what is not there


def states(url: str) -> dict[str, dict[bytes, tuple[Any, ...]]]:
    """Give every snapshot's members by the id of its run."""
    database = Database(url)
    history = History(database)
    try:
        return {
            one.run_id: {v.path: (v.kind, v.size, v.sha256) for v in history.versions(one)}
            for one in history.snapshots()
        }
    finally:
        database.close()


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink()


def test_archives_that_were_pruned_are_not_missed(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    (tree / "stays").write_bytes(b"from the second run on")
    made.back_up(tree)
    # The third archive holds only what the fourth has anew or lacks.
    (tree / "a").write_bytes(b"third")
    (tree / "short lived").write_bytes(b"x")
    made.back_up(tree)
    (tree / "a").write_bytes(b"fourth")
    (tree / "short lived").unlink()
    made.back_up(tree)
    (tree / "b").write_bytes(b"fifth")
    made.back_up(tree)
    before = states(url)
    gone = made.outcomes[2]
    remove(gone.files)
    report = rebuild(url, tmp_path / "to")
    assert (report.status, len(report.runs)) == ("success", 4)
    after = states(url)
    assert after == {run: held for run, held in before.items() if run != gone.report.run_id}
    assert [one.seq for one in made.snapshots()] == [1, 2, 4, 5]


def test_a_lost_archive_is_named_and_what_is_there_is_recorded(
    tree: Path, tmp_path: Path, url: str
) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    (tree / "only here").write_bytes(b"second")
    made.back_up(tree)
    (tree / "b").write_bytes(b"third")
    made.back_up(tree)
    before = states(url)
    remove(made.outcomes[1].files)
    report = rebuild(url, tmp_path / "to")
    assert report.status == "partial"
    (error,) = report.errors
    assert error.path == str(made.outcomes[2].path)
    assert error.message.startswith("1 file of 7 files can't be restored from this run")
    third = made.outcomes[2].report.run_id or ""
    expected = {name: held for name, held in before[third].items() if name != b"docs/only here"}
    found = states(url)[third]
    # The folder is as an earlier archive has it.
    assert {name: held for name, held in found.items() if name != b"docs"} == {
        name: held for name, held in expected.items() if name != b"docs"
    }
    assert [one.status for one in made.snapshots()] == ["success", "partial"]


def test_a_lost_full_archive_is_named(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    change(tree, 2)
    made.back_up(tree)
    remove(made.outcomes[0].files)
    report = rebuild(url, tmp_path / "to")
    assert report.status == "partial"
    assert len(report.errors) == 2
    assert {error.code for error in report.errors} == {"storage"}
    held = states(url)[made.outcomes[2].report.run_id or ""]
    assert {b"docs/a", b"docs/new1", b"docs/new2"} < set(held)
    assert b"docs/b" not in held


def test_what_is_no_archive_of_ours_is_listed_and_left_out(
    tree: Path, tmp_path: Path, url: str
) -> None:
    to = tmp_path / "to"
    made = Recorded(url, to)
    made.back_up(tree, checksum=["sha256"])
    before = rows_of(url)
    (to / "notes.txt").write_bytes(b"no archive")
    (to / "empty").touch()
    shutil.make_archive(str(to / "foreign"), "zip", tree / "sub")
    shutil.make_archive(str(to / "foreign"), "gztar", tree / "sub")
    shutil.copy(made.outcomes[0].path, to / "zcopy.zip")
    (to / "folder").mkdir()
    (to / ".hidden.zip").write_bytes(b"PK")
    report = rebuild(url, to)
    assert report.status == "success"
    assert {os.path.basename(one.path): one.code for one in report.skipped} == {
        "notes.txt": "not_ours", "empty": "not_ours", "foreign.zip": "not_ours",
        "foreign.tar.gz": "not_ours", "zcopy.zip": "copy",
    }  # fmt: skip
    assert rows_of(url) == before
    # One archive may be named by itself.
    assert len(rebuild(url, made.outcomes[0].path).runs) == 1


def test_damaged_archives_and_incomplete_sets_are_errors(
    tree: Path, tmp_path: Path, url: str
) -> None:
    to = tmp_path / "to"
    (tree / "large").write_bytes(noise(300_000))
    made = Recorded(url, to)
    made.back_up(tree)
    made.back_up(tree, mode="full", split="64KiB")
    made.back_up(tree, mode="full", format="tar.zst")
    made.back_up(tree, mode="full")
    made.outcomes[1].files[1].unlink()
    cut = made.outcomes[2].path
    cut.write_bytes(cut.read_bytes()[:-2000])
    bad = made.outcomes[3].path
    bad.write_bytes(bad.read_bytes()[:-500])
    report = rebuild(url, to)
    assert report.status == "partial"
    assert [run.run_id for run in report.runs] == [made.outcomes[0].report.run_id]
    assert report.skipped == ()
    codes = {os.path.basename(one.path).split(".", 1)[1]: one.code for one in report.errors}
    assert codes == {"zip.001": "not_found", "tar.zst": "damaged", "zip": "damaged"}


def test_a_password_is_asked_for_before_anything_is_changed(
    tree: Path, tmp_path: Path, url: str
) -> None:
    """(case 63)"""
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    made.back_up(tree, mode="full", password=PASSWORD, format="tar.zst")
    before = rows_of(url)
    with pytest.raises(WrongPasswordError, match="PYBAK_PASSWORD"):
        rebuild(url, tmp_path / "to")
    assert rows_of(url) == before
    report = rebuild(url, tmp_path / "to", password=b"another")
    assert (report.status, len(report.runs)) == ("partial", 1)
    assert [one.code for one in report.errors] == ["wrong_password"]
    assert rebuild(url, tmp_path / "to", password=PASSWORD).status == "success"
    assert rows_of(url) == before


def test_tampering_with_a_wrapper_is_seen(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    (tree / "large").write_bytes(noise(300_000))
    made.back_up(tree, password=PASSWORD, format="tar.zst")
    (file,) = made.outcomes[0].files
    data = bytearray(file.read_bytes())
    data[20_000] ^= 1
    file.write_bytes(data)
    with pytest.raises(NotFoundError, match="no archive could be read"):
        rebuild(url, tmp_path / "to", password=PASSWORD)


def test_no_archive_at_all_changes_nothing(tmp_path: Path, url: str, tree: Path) -> None:
    Recorded(url, tmp_path / "to").back_up(tree)
    before = rows_of(url)
    (tmp_path / "nothing").mkdir()
    for place in (tmp_path / "nothing", tmp_path / "no such folder", tree):
        with pytest.raises(NotFoundError):
            rebuild(url, place)
    assert rows_of(url) == before


def test_a_dry_run_tells_and_writes_nothing(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    shutil.rmtree(tmp_path / "home")
    report = rebuild(url, tmp_path / "to", dry_run=True)
    assert [run.seq for run in report.runs] == [1]
    assert "dry run" in report.to_text()
    assert not (tmp_path / "home").exists()


def test_digests_may_be_left_out(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    rebuild(url, tmp_path / "to", no_digests=True)
    assert query(url, "SELECT sha256 FROM volume") == [(None,)]
    (size,) = query(url, "SELECT size FROM volume")[0]
    assert size == made.outcomes[0].path.stat().st_size


# ---- manifests of the first version, and numbers given twice


def old_archive(tree: Path, to: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an archive with a manifest as the first version wrote it."""
    import msgspec

    from pybak.backup.run import BackupRun
    from pybak.formats import manifest

    class Header(msgspec.Struct, frozen=True, kw_only=True):
        pybak_manifest: int
        run_id: str
        job: str
        mode: str
        format: str
        created: str
        sources: list[str]
        program: str
        split: int | None = None

    header = BackupRun.header
    trailer = manifest.Trailer

    def old_header(run: BackupRun) -> Any:
        new = header(run)
        fields = {name: getattr(new, name) for name in Header.__struct_fields__}
        return Header(**fields | {"pybak_manifest": 1, "created": new.created[:19] + "+00:00"})

    pack_line = manifest.pack_line

    def old_line(line: Any) -> bytes:
        if isinstance(line, trailer):
            old = {"members": line.members, "users": line.users, "groups": line.groups}
            return manifest.pack_lines(msgspec.json.encode(old).decode() + "\n")
        return pack_line(line)

    with monkeypatch.context() as patch:
        patch.setattr(BackupRun, "header", old_header)
        patch.setattr(manifest, "pack_line", old_line)
        now = datetime.now(UTC) + timedelta(minutes=number)
        return back_up(tree, to=to, job="docs", now=now).path


def test_archives_of_the_first_version_are_numbered_by_their_time(
    tree: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 73)"""
    to = tmp_path / "to"
    paths = [old_archive(tree, to, number, monkeypatch) for number in (1, 2)]
    paths[0].rename(to / "z.zip")  # names do not tell the order
    report = rebuild(url, to)
    assert [(os.path.basename(run.archive), run.seq) for run in report.runs] == [
        ("z.zip", 1), (paths[1].name, 2),
    ]  # fmt: skip
    assert [run.status for run in report.runs] == ["success", "success"]
    made = Recorded(url, to)
    made.now += timedelta(minutes=5)
    done = made.back_up(tree)
    assert done.report.status == "unchanged"
    change(tree, 1)
    made.back_up(tree)
    before = rows_of(url)
    rebuild(url, to)
    assert rows_of(url) == before


def test_numbers_that_were_given_twice_are_given_anew(tree: Path, tmp_path: Path, url: str) -> None:
    """A catalog was lost, and the job went on as if it had no history."""
    to = tmp_path / "to"
    first = Recorded(url, to)
    first.back_up(tree)
    change(tree, 1)
    first.back_up(tree)
    shutil.rmtree(tmp_path / "home")
    second = Recorded(url, to)
    second.now = first.now + timedelta(hours=1)
    second.back_up(tree)
    change(tree, 2)
    second.back_up(tree)
    report = rebuild(url, to)
    assert report.status == "success"
    assert [run.seq for run in report.runs] == [1, 2, 3, 4]
    ids = [done.report.run_id for done in (*first.outcomes, *second.outcomes)]
    assert [run.run_id for run in report.runs] == ids
    found = states(url)
    assert b"docs/b" in found[ids[2] or ""]
    assert b"docs/b" not in found[ids[3] or ""]


def test_the_report_says_what_was_found(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    report = rebuild(url, tmp_path / "to")
    text = report.to_text()
    assert text.startswith("Catalog rebuilt\n")
    assert "1 run, 1 job, 9 file versions" in text.replace("\N{NO-BREAK SPACE}", " ")
    shown = report.to_json()
    assert set(shown) == {
        "status", "catalog", "kept", "runs", "skipped", "errors", "bytes_read",
        "duration_seconds", "dry_run", "message",
    }  # fmt: skip
    assert shown["bytes_read"] == made.outcomes[0].path.stat().st_size
    assert report.to_markdown()
