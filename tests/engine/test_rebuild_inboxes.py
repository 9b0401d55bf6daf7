"""A rebuild keeps what the old catalog knows of inboxes, for no archive tells it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from catalogs import query
from inboxes import STAMP, Inbox, killed_before_stored, sha256
from rebuilding import make_tree, rebuild, rows_of
from recorded import Recorded

from pybak.errors import Interrupted
from pybak.rebuild import run as rebuild_run
from pybak.rebuild.run import RebuildRun

ROWS = (
    "SELECT j.name, p.id, p.run_id, p.path, p.size, p.mtime_ns, p.ctime_ns, p.inode, p.device, "
    "p.mode, p.sha256, p.destination, p.also, p.name, p.name_key, p.format, p.encrypted, "
    "p.stored_size, p.stored_sha256, p.state, p.duplicate_of, p.kept, p.processed_at "
    "FROM processed_file p JOIN job j ON j.id = p.job_id ORDER BY p.id"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def url_of(inbox: Inbox) -> str:
    return f"sqlite:///{inbox.catalog}"


def back_up(url: str, tree: Path, to: Path) -> None:
    """Make a backup, so that there is something to rebuild from."""
    Recorded(url, to).back_up(tree)


def test_what_inboxes_kept_is_not_stored_again_after_a_rebuild(
    inbox: Inbox, tree: Path, tmp_path: Path, any_catalog: str
) -> None:
    inbox.put("a", b"one")
    inbox.put("odd\udcff\\", b"two")
    inbox.put("same", b"one")
    assert inbox.round(catalog_url=any_catalog, keep=True).files.done == 2
    stored = inbox.stored
    back_up(any_catalog, tree, tmp_path / "to")
    # In the new catalog file this job comes first: jobs have other numbers there.
    files, backups = query(any_catalog, ROWS), rows_of(any_catalog)
    assert {row[-4] for row in files} == {"done", "duplicate"}
    report = rebuild(any_catalog, tmp_path / "to", replace=True)
    assert (report.status, report.notes) == ("success", ())
    assert query(any_catalog, ROWS) == files
    assert rows_of(any_catalog) == backups
    again = inbox.round(catalog_url=any_catalog, keep=True)
    assert (again.files.done, again.files.known) == (0, 3)
    inbox.put("more")
    assert inbox.round(catalog_url=any_catalog, keep=True).files.done == 1
    assert len(inbox.stored) == len(stored) + 1


def test_what_a_killed_round_left_is_settled_after_a_rebuild(
    inbox: Inbox, tree: Path, tmp_path: Path
) -> None:
    back_up(url_of(inbox), tree, tmp_path / "to")
    inbox.put("a", b"one")
    killed_before_stored(inbox)
    rebuild(url_of(inbox), tmp_path / "to")
    assert inbox.rows("state") == [("made",)]
    inbox.round()
    assert (inbox.left, inbox.stored) == ([], [f"a_{STAMP}.gz"])
    assert inbox.rows("state, sha256") == [("done", sha256(b"one"))]


def test_a_catalog_of_before_there_were_inboxes_has_nothing_to_carry_over(
    inbox: Inbox, tree: Path, tmp_path: Path
) -> None:
    back_up(url_of(inbox), tree, tmp_path / "to")
    with sqlite3.connect(inbox.catalog) as database:
        database.execute("DROP TABLE processed_file")
    database.close()
    report = rebuild(url_of(inbox), tmp_path / "to")
    assert (report.status, report.notes, inbox.rows()) == ("success", (), [])


def test_rows_that_can_not_all_be_read_are_left_and_the_report_says_so(
    inbox: Inbox, tree: Path, tmp_path: Path
) -> None:
    back_up(url_of(inbox), tree, tmp_path / "to")
    inbox.put("a", b"one")
    inbox.put("b", b"two")
    inbox.round(keep=True)
    before = rows_of(url_of(inbox))
    with sqlite3.connect(inbox.catalog) as database:
        database.execute("UPDATE processed_file SET job_id = 99 WHERE path = 'b'")
    database.close()
    report = rebuild(url_of(inbox), tmp_path / "to")
    (note,) = report.notes
    assert note.startswith("the old catalog can't be read (job 99 has no name): what inboxes did")
    assert note in " ".join(report.to_text().split())
    assert report.to_json()["notes"] == [note]
    assert report.status == "success"
    assert inbox.rows() == []
    assert rows_of(url_of(inbox)) == before


def test_a_rebuild_can_be_stopped_while_it_carries_over(
    inbox: Inbox, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(url_of(inbox), tree, tmp_path / "to")
    inbox.put("a", b"one")
    inbox.round(keep=True)
    before = inbox.rows()
    real = rebuild_run.carry_over
    runs: list[RebuildRun] = []
    enter = RebuildRun.__enter__
    monkeypatch.setattr(RebuildRun, "__enter__", lambda run: runs.append(run) or enter(run))

    def stopping(*words: object) -> str | None:
        runs[0].request_cancel()
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(rebuild_run, "carry_over", stopping)
    with pytest.raises(Interrupted, match="the catalog is as it was"):
        rebuild(url_of(inbox), tmp_path / "to")
    assert inbox.rows() == before
