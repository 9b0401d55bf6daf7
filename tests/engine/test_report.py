"""What people and scripts are told about a run."""

from __future__ import annotations

import json
import os
import shlex
from datetime import UTC, datetime
from html import unescape
from typing import Any

import msgspec
import pytest

from pybak.errors import (
    ArchiveError,
    ExitCode,
    Interrupted,
    LockedError,
    NotFoundError,
    PlanError,
    PyBakError,
    SourceError,
    StorageError,
)
from pybak.problems import Problem
from pybak.report import (
    RESTORE_COMMAND,
    ArchiveCheck,
    BackupReport,
    Comparison,
    FileCounts,
    PlanSummary,
    Report,
    RestoreCounts,
    RestoreReport,
    VerifyReport,
    failed_report,
)
from pybak.report.failure import failing_as
from pybak.volumes.model import Volume, VolumePart


def problems(count: int, code: str = "unreadable") -> tuple[Problem, ...]:
    return tuple(
        Problem(f"/home/me/file-{n:02d}", code, "permission denied; run as its owner")
        for n in range(count)
    )


def backup(**changes: Any) -> BackupReport:
    values: dict[str, Any] = {
        "status": "success",
        "run_id": "5c1f",
        "archive": "/backups/docs_20261121_101500.zip",
        "volumes": (Volume(uri="/backups/docs.zip", size=213_000_000, sha256="ab" * 32),),
        "files": FileCounts(new=21_304, excluded=1204),
        "folders": 1902,
        "bytes_read": 547_123_456,
        "bytes_stored": 213_000_000,
        "duration_seconds": 1.9,
        "excluded_by": {"*.tmp": 1100, "larger than 500 MB": 104},
    }
    return BackupReport(**values | changes)


REPORTS: list[Report] = [
    backup(),
    backup(status="partial", files=FileCounts(new=5, failed=30, skipped=2), errors=problems(30)),
    backup(status="unchanged", archive=None, files=FileCounts(unchanged=9)),
    RestoreReport(status="partial", archive="/b.zip", target="/t",
                  files=RestoreCounts(restored=3, failed=1, skipped=1), errors=problems(1)),
    RestoreReport(status="success", dry_run=True),
    VerifyReport(status="failed", archives=(
        ArchiveCheck(archive="/b.zip", status="damaged", members=3, damaged=problems(1, "damaged")),
        ArchiveCheck(archive="/c.zip", status="success", members=3),
    )),
    PlanSummary(sources=("/home/me/docs", "/etc"), destination="/backups/x.zip",
                files=FileCounts(new=7, excluded=1), folders=2, bytes=10**6, batches=4,
                workers=2, engine="isal", level=2, excluded_by={"*.tmp": 1}),
    failed_report("backup", StorageError("/mnt: no space left on the disk; free some")),
    failed_report("restore", ArchiveError("/b.zip: it is cut short")),
    failed_report("verify", NotFoundError("/b.zip: no such archive")),
]  # fmt: skip


# ---- JSON


def test_a_backup_report_has_the_keys_scripts_rely_on() -> None:
    """(case 110)"""
    report = backup(
        status="partial",
        files=FileCounts(new=3, changed=2, unchanged=1, excluded=4, skipped=5, failed=6),
        errors=(Problem("/a/b", "io_error", "read error"),),
        skipped=(Problem("/a/s", "unsupported", "a socket"),),
    ).to_json()
    assert report["status"] == "partial"
    assert report["run_id"] == "5c1f"
    assert report["archive"] == "/backups/docs_20261121_101500.zip"
    assert report["volumes"] == [
        {"uri": "/backups/docs.zip", "size": 213_000_000, "sha256": "ab" * 32}
    ]
    assert report["files"] == {
        "total": 12, "new": 3, "changed": 2, "unchanged": 1,
        "excluded": 4, "skipped": 5, "failed": 6,
    }  # fmt: skip
    assert report["bytes_read"] == 547_123_456
    assert report["bytes_stored"] == 213_000_000
    assert report["duration_seconds"] == 1.9
    assert report["errors"] == [{"path": "/a/b", "code": "io_error", "message": "read error"}]


def test_an_unchanged_backup_has_no_archive() -> None:
    report = backup(status="unchanged", archive=None, volumes=(), bytes_stored=0).to_json()
    assert report["archive"] is None
    assert report["volumes"] == []


SINCE = Comparison(
    mode="incremental", base_run="0123456789abcdef", gone=3,
    base_started_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
)  # fmt: skip


def test_a_backup_tells_what_it_was_compared_with() -> None:
    report = backup(history=SINCE, files=FileCounts(new=1, changed=2, unchanged=9))
    told = report.to_json()
    assert (told["mode"], told["base_run"], told["gone"], told["full_because"]) == (
        "incremental", "0123456789abcdef", 3, [],
    )  # fmt: skip
    text = report.to_text()
    assert "1 new, 2 changed, 9 unchanged, 3 gone" in text
    assert "incremental, compared with run 01234567 of 2026-11-2" in text
    assert "Read         547 MB" in text
    # Its archive alone would give back the changes only.
    assert f"{RESTORE_COMMAND} 5c1f --to DIR" in text


def test_a_full_run_that_nobody_asked_for_says_why() -> None:
    text = backup(history=Comparison(reasons=("the first run of this job",))).to_text()
    assert "Mode         full: the first run of this job" in text
    assert "Mode" not in backup().to_text()


def test_what_fails_again_in_an_unchanged_run_is_told_again() -> None:
    report = backup(
        status="unchanged", archive=None, history=SINCE, files=FileCounts(unchanged=9, failed=2),
        errors=problems(2),
    )  # fmt: skip
    assert report.exit_code == ExitCode.PARTIAL
    assert "nothing was written; 2 files failed again" in report.headline()
    assert "file-01" in report.to_text()
    assert backup(status="unchanged", archive=None).exit_code == ExitCode.DONE


def test_a_plan_shows_mode_base_and_changes() -> None:
    plan = PlanSummary(
        sources=("/s",), destination="/to/x.zip", files=FileCounts(new=1, unchanged=4), folders=2,
        bytes=10, batches=1, workers=1, engine="isal", history=SINCE,
    )  # fmt: skip
    assert "1 new, 0 changed, 4 unchanged, 3 gone" in plan.to_text()
    assert "compared with run 01234567" in plan.to_text()
    assert plan.to_json()["base_run"] == SINCE.base_run
    nothing = msgspec.structs.replace(plan, is_unchanged=True)
    assert (nothing.status, nothing.exit_code) == ("unchanged", ExitCode.DONE)
    assert "nothing changed; nothing was written" in nothing.headline()


def test_a_volume_may_have_digests_of_its_parts() -> None:
    volume = Volume(uri="x", size=3, parts=(VolumePart(size=3, sha256="cd"),))
    assert backup(volumes=(volume,)).to_json()["volumes"] == [
        {"uri": "x", "size": 3, "parts": [{"size": 3, "sha256": "cd"}]}
    ]


def test_a_restore_report_has_the_keys_scripts_rely_on() -> None:
    report = RestoreReport(
        status="partial",
        files=RestoreCounts(restored=1, skipped=2, failed=3),
        errors=(Problem("docs/a", "damaged", "CRC-32 is wrong"),),
    ).to_json()
    assert report["status"] == "partial"
    assert report["files"] == {"total": 6, "restored": 1, "skipped": 2, "failed": 3}
    assert report["errors"] == [{"path": "docs/a", "code": "damaged", "message": "CRC-32 is wrong"}]


def test_a_verify_report_names_the_archive_and_the_member() -> None:
    """(case 59)"""
    check = ArchiveCheck(
        archive="/b.zip", status="damaged", members=9,
        damaged=(Problem("docs/a.txt", "damaged", "CRC-32 is wrong"),),
    )  # fmt: skip
    report = VerifyReport(status="failed", archives=(check,))
    found = report.to_json()["archives"][0]
    assert found["archive"] == "/b.zip"
    assert found["status"] == "damaged"
    assert found["members"] == 9
    assert found["damaged"] == ["docs/a.txt"]
    assert report.to_json()["errors"][0]["message"] == "CRC-32 is wrong"
    assert "docs/a.txt: CRC-32 is wrong" in report.to_text(80)


@pytest.mark.parametrize("report", REPORTS)
def test_every_report_is_plain_json(report: Report) -> None:
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


def test_a_dry_run_has_the_keys_of_a_backup_and_wrote_nothing() -> None:
    """(case 86)"""
    plan = next(report for report in REPORTS if isinstance(report, PlanSummary)).to_json()
    assert set(backup().to_json()) <= set(plan)
    assert plan["dry_run"] is True
    assert plan["archive"] is None
    assert plan["files"]["total"] == 7
    assert plan["plan"]["batches"] == 4


@pytest.mark.parametrize(
    ("status", "code"),
    [("success", 0), ("unchanged", 0), ("partial", 3), ("failed", 1), ("cancelled", 130)],
)
def test_the_status_decides_the_exit_code(status: str, code: int) -> None:
    assert BackupReport(status=status).exit_code == code
    assert RestoreReport(status=status).exit_code == code
    assert VerifyReport(status=status).exit_code == code


@pytest.mark.parametrize("command", ["backup", "restore", "verify"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("x: disk full"), "storage"),
        (ArchiveError("x: cut short"), "damaged"),
        (SourceError("x: no", "unreadable"), "unreadable"),
        (PlanError("--level: 12"), "usage"),
        (PyBakError("x"), "internal"),
    ],
)
def test_an_error_that_ends_a_run_is_its_report(command: str, error: PyBakError, code: str) -> None:
    report = failed_report(command, error)
    assert report.status == "failed"
    assert report.exit_code == ExitCode.FAILED
    assert report.to_json()["errors"] == [{"path": "", "code": code, "message": str(error)}]
    assert str(error) in report.to_text(200)
    assert report.to_text(200).count(str(error)) == 1


def test_a_backup_that_was_refused_is_reported_as_what_was_asked_for() -> None:
    with pytest.raises(LockedError) as caught, failing_as(job="docs", mode="incremental"):
        raise LockedError("docs: another run of this job is at work")
    told = failed_report("backup", caught.value).to_json()
    assert (told["status"], told["job"], told["mode"]) == ("cancelled", "docs", "incremental")
    assert (told["full_because"], told["errors"][0]["code"]) == ([], "locked")


def test_a_missing_source_has_its_own_code() -> None:
    report = failed_report("backup", NotFoundError("/x: no such folder"))
    assert report.to_json()["errors"][0]["code"] == "source_missing"


@pytest.mark.parametrize("error", [Interrupted("interrupted"), KeyboardInterrupt()])
def test_an_interrupted_run_is_cancelled_not_failed(error: BaseException) -> None:
    """(case 95)"""
    report = failed_report("backup", error)
    assert report.status == "cancelled"
    assert report.exit_code == 130
    assert report.to_json()["errors"] == []


# ---- text


def test_the_summary_of_a_backup_says_what_was_done_and_what_to_do_next() -> None:
    assert backup(job="docs").to_text(80).replace("\xa0", " ") == (
        "Backup of docs complete\n"
        "\n"
        "Archive      /backups/docs_20261121_101500.zip\n"
        "Files        21 304 files in 1 902 folders, 547 MB\n"
        "Stored       213 MB, ratio 2.57 (39% of the size)\n"
        "Time         1.9 s, 288 MB/s\n"
        "Excluded     1 204\n"
        "             1 100 *.tmp\n"
        "               104 larger than 500 MB\n"
        "\n"
        "Restore with: python flows/restore.py /backups/docs_20261121_101500.zip --to DIR\n"
    )


def test_failed_files_are_named_up_to_twenty_and_then_counted() -> None:
    report = backup(status="partial", files=FileCounts(new=5, failed=55), errors=problems(55))
    text = report.to_text(80)
    assert "Failed: 55" in text
    assert "/home/me/file-19" in text
    assert "/home/me/file-20" not in text
    assert "  … and 35 more\n" in text
    assert "55 files failed" in text.splitlines()[0]


def test_exactly_twenty_files_need_no_count() -> None:
    report = backup(status="partial", files=FileCounts(failed=20), errors=problems(20))
    assert "more" not in report.to_text(80)


def test_a_count_without_names_is_told_as_well() -> None:
    assert "Skipped: 7" in backup(files=FileCounts(new=1, skipped=7)).to_text(80)


def test_skipped_files_are_named_too() -> None:
    skipped = (Problem("/a/sock", "unsupported", "a socket; zip has no place for it"),)
    text = backup(files=FileCounts(new=1, skipped=1), skipped=skipped).to_text(80)
    assert "Skipped: 1\n  /a/sock: a socket; zip has no place for it" in text


def test_files_with_the_same_reason_stand_below_it() -> None:
    text = backup(status="partial", files=FileCounts(failed=2), errors=problems(2)).to_text(80)
    assert text.count("permission denied") == 1


def test_a_message_does_not_repeat_the_path_beside_it() -> None:
    problem = Problem("/a/x", "io_error", "/a/x: input/output error")
    text = backup(status="partial", files=FileCounts(failed=1), errors=(problem,)).to_text(80)
    assert "  /a/x: input/output error\n" in text


def test_a_name_in_a_report_can_not_move_the_cursor() -> None:
    """(case 7)"""
    evil = os.fsdecode(b"/a/\x1b[2J\nFailed: 0\xff")
    bad = (Problem(evil, "unreadable", f"{evil}: permission denied"),)
    reports: list[Report] = [
        backup(status="partial", archive=evil, job=evil, errors=bad, skipped=bad,
               excluded_by={evil: 1}, message=evil),
        RestoreReport(status="partial", archive=evil, target=evil, errors=bad, message=evil),
        VerifyReport(status="failed", archives=(
            ArchiveCheck(archive=evil, status="damaged", damaged=bad, message=evil),) * 2),
        PlanSummary(sources=(evil,), destination=evil, files=FileCounts(), folders=0, bytes=0,
                    batches=0, workers=1, engine="isal", job=evil, errors=bad),
        failed_report("backup", StorageError(evil)),
    ]  # fmt: skip
    for report in reports:
        for text in (report.to_text(80), report.to_markdown()):
            assert "\x1b" not in text
            assert "\nFailed: 0" not in text
            text.encode()


def test_the_next_step_can_be_pasted_into_a_shell() -> None:
    text = backup(archive="/back ups/it's.zip").to_text(80)
    command = text.splitlines()[-1].removeprefix("Restore with: ")
    assert shlex.split(command) == [
        "python", "flows/restore.py", "/back ups/it's.zip", "--to", "DIR",
    ]  # fmt: skip


def test_nothing_to_restore_from_gives_no_next_step() -> None:
    assert "Restore with" not in backup(status="unchanged", archive=None).to_text(80)
    assert "Restore with" not in failed_report("backup", PlanError("x")).to_text(80)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_every_report_has_a_text_at_every_width(report: Report, width: int) -> None:
    text = report.to_text(width)
    assert text.endswith("\n")
    assert "\n\n\n" not in text
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_an_archive_larger_than_its_files_is_no_strange_percentage() -> None:
    text = backup(bytes_read=12, bytes_stored=120).to_text(80)
    assert "ratio 0.10" in text
    assert "%" not in text


def test_an_empty_backup_divides_by_nothing() -> None:
    text = backup(files=FileCounts(), bytes_read=0, bytes_stored=0, duration_seconds=0.0).to_text()
    assert "0 files" in text
    assert "ratio" not in text


# ---- Markdown


@pytest.mark.parametrize("report", REPORTS)
def test_every_row_of_a_table_has_two_cells(report: Report) -> None:
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert rows
    assert all(row.count("|") == 3 for row in rows)


def test_a_name_in_markdown_is_neither_markup_nor_html() -> None:
    name = "/a/<script>|*b* [x](http://y)"
    text = backup(
        status="partial", archive=name, errors=(Problem(name, "unreadable", "no"),)
    ).to_markdown()
    table = text.split("```")[0]
    assert "<script>" not in table
    assert "[x]" not in table
    assert name in unescape(table)
