"""The catalog made anew from the archives says what the runs wrote (case 75)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, back_up, noise
from catalogs import query
from rebuilding import change, make_tree, rebuild, rows_of, states
from recorded import Recorded

from pybak.errors import NotFoundError, WrongPasswordError

HOW: list[dict[str, Any]] = [
    {},
    {"format": "tar.zst"},
    {"format": "tar"},
    {"password": PASSWORD},
    {"password": PASSWORD, "format": "tar.gz"},
    {"split": "64KiB", "format": "tar.zst", "level": 1},
    {"split": "64KiB", "password": PASSWORD, "hide_names": True},
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


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


def test_a_dry_run_lists_what_it_found_and_writes_nothing(
    tree: Path, tmp_path: Path, url: str
) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    change(tree, 1)
    made.back_up(tree)
    shutil.rmtree(tmp_path / "home")
    report = rebuild(url, tmp_path / "to", dry_run=True)
    assert [run.seq for run in report.runs] == [1, 2]
    text = report.to_text()
    assert "dry run" in text
    for number, done in enumerate(made.outcomes, 1):
        (line,) = [line for line in text.splitlines() if str(done.path) in line]
        assert f"docs {number}, " in line
        assert ("full", "incremental")[number - 1] in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("of_server", [False, True], ids=["sqlite", "postgresql"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_jobs_that_the_new_catalog_will_not_have_are_named_before(
    tree: Path, tmp_path: Path, url: str, request: pytest.FixtureRequest, *, of_server: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    if of_server:
        url = request.getfixturevalue("postgres_url")
    Recorded(url, tmp_path / "to").back_up(tree)
    odd = os.fsdecode(b"\xff music")
    other = Recorded(url, tmp_path / "elsewhere", job=odd)
    other.back_up(tree)
    change(tree, 1)
    other.back_up(tree)
    before = rows_of(url)
    report = rebuild(url, tmp_path / "to", dry_run=dry_run, replace=True)
    (job,) = report.dropped
    assert (job.job, job.backups, job.folders) == (odd, 2, (str(tmp_path / "elsewhere"),))
    assert report.to_json()["dropped"] == [
        {"job": odd, "backups": 2, "folders": [str(tmp_path / "elsewhere")]}
    ]
    text = report.to_text(200)
    assert "Jobs that the new catalog does not have: 1" in text
    assert str(tmp_path / "elsewhere") in text
    assert report.status == "success"
    assert (rows_of(url) == before) is dry_run
    both = rebuild(url, tmp_path / "to", tmp_path / "elsewhere", dry_run=dry_run, replace=True)
    assert both.dropped == ()


def test_digests_may_be_left_out(tree: Path, tmp_path: Path, url: str) -> None:
    made = Recorded(url, tmp_path / "to")
    made.back_up(tree)
    rebuild(url, tmp_path / "to", no_digests=True)
    assert query(url, "SELECT sha256 FROM volume") == [(None,)]
    (size,) = query(url, "SELECT size FROM volume")[0]
    assert size == made.outcomes[0].path.stat().st_size


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
        "status", "catalog", "kept", "runs", "dropped", "skipped", "errors", "bytes_read",
        "duration_seconds", "dry_run", "message", "notes", "stages",
    }  # fmt: skip
    assert shown["bytes_read"] == made.outcomes[0].path.stat().st_size
    assert report.to_markdown()
