"""What people and scripts read of a round."""

from __future__ import annotations

from pybak.errors import LockedError
from pybak.inbox.tally import Tally
from pybak.problems import Problem
from pybak.report import failed_report
from pybak.report.inbox import InboxFile, InboxReport


def report_of(tally: Tally) -> InboxReport:
    return InboxReport.of(
        tally, run_id="id", source="/in", places=("/out", "s3://b/x"), kept=False,
        duration_seconds=1.0,
    )  # fmt: skip


def done(path: str, status: str = "done") -> InboxFile:
    return InboxFile(
        path=path, status=status, destination=f"/out/{path}.gz", size=10, stored_size=5,
        sha256="ab", duplicate_of="first" if status == "duplicate" else None,
    )  # fmt: skip


def test_the_object_for_scripts_has_all_keys() -> None:
    """(case 110)"""
    tally = Tally(results=[done("a"), done("b", "duplicate")], known=2, excluded=3)
    tally.wait(b"w", "waiting", "why")
    tally.fail(b"f", "storage", "no space")
    told = report_of(tally).to_json()
    assert told["files"] == {
        "total": 6, "done": 1, "duplicates": 1, "waiting": 1, "known": 2, "failed": 1,
        "skipped": 0, "excluded": 3,
    }  # fmt: skip
    assert (told["status"], told["also"]) == ("partial", ["s3://b/x"])
    assert told["results"][1] == {
        "path": "b", "status": "duplicate", "destination": "/out/b.gz", "size": 10,
        "stored_size": 5, "sha256": "ab", "duplicate_of": "first",
    }  # fmt: skip
    assert told["errors"] == [{"path": "f", "code": "storage", "message": "no space"}]
    assert told["waiting"] == [{"path": "w", "code": "waiting", "message": "why"}]


def test_the_summary_names_what_did_not_go_well() -> None:
    tally = Tally(results=[done(f"{number}") for number in range(25)])
    tally.results.append(done("same", "duplicate"))
    tally.fail(b"\xff", "unreadable", "permission denied")
    text = report_of(tally).to_text()
    assert text.startswith("Inbox partial: 25 files stored, 1 duplicate, 1 failed\n")
    assert "and 5 more" in text
    assert r'"\xff": permission denied' in text
    assert "same: repeats first, which lies at /out/same.gz" in text.replace("\n    ", " ") or (
        "repeats first, which lies at /out/same.gz" in text
    )
    assert "**Duplicates: 1**" in report_of(tally).to_markdown()


def test_a_round_with_nothing_to_do_is_unchanged_whatever_waits() -> None:
    tally = Tally(waiting=[Problem("a", "waiting", "young")])
    report = report_of(tally)
    assert (report.status, report.exit_code) == ("unchanged", 0)
    assert report.headline() == "Inbox: nothing to do (1 waiting)"


def test_a_round_that_an_error_ended_is_a_report_of_an_inbox() -> None:
    report = failed_report("inbox", LockedError("busy"))
    assert isinstance(report, InboxReport)
    assert (report.status, report.headline()) == ("cancelled", "Inbox cancelled: busy")
