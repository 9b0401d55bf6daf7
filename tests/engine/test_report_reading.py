"""What restore and verify say beside their counts: what was deleted, which part was read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pybak.errors import WrongPasswordError
from pybak.options import RestoreOptions, VerifyOptions
from pybak.options.read import percent_number
from pybak.report import (
    ArchiveCheck,
    BackupReport,
    RestoreCounts,
    RestoreReport,
    VerifyReport,
    failed_report,
)
from pybak.report.verify import Sample
from pybak.volumes.model import Volume


def test_what_was_deleted_is_counted() -> None:
    done = RestoreReport(status="success", files=RestoreCounts(restored=1), deleted=2)
    assert done.to_json()["deleted"] == 2
    assert "Deleted      2 entries not in the archive" in done.to_text()
    planned = RestoreReport(status="success", deleted=1, dry_run=True).to_text()
    assert "To delete    1 entry not in the archive" in planned
    assert "elete" not in RestoreReport(status="success").to_text()


def test_a_part_that_was_read_is_told() -> None:
    check = ArchiveCheck(
        archive="/b.zip", status="success", members=200, checked=10,
        sample=Sample(percent=5.0, slice=2, slices=20), notes=("chance chose \x1b it",),
    )  # fmt: skip
    report = VerifyReport(status="success", archives=(check,))
    (found,) = report.to_json()["archives"]
    assert found["sample"] == {"percent": 5.0, "slice": 2, "slices": 20}
    assert (found["members"], found["checked"]) == (200, 10)
    text = report.to_text().replace("\u00a0", " ")
    assert "1 archive is whole, as far as read" in text
    assert "10 of 200 members, part 3 of 20" in text
    assert "\x1b" not in text
    whole = VerifyReport(status="success", archives=(ArchiveCheck(archive="/", status="success"),))
    assert whole.to_json()["archives"][0]["sample"] is None
    assert whole.headline() == "1 archive is whole"


@pytest.mark.parametrize(
    ("given", "kept"), [("5%", "5%"), ("5", "5%"), (5, "5%"), (0.5, "0.5%"), (" 12.5 % ", "12.5%")]
)
def test_a_share_is_kept_as_text_with_its_sign(given: object, kept: str) -> None:
    sample = VerifyOptions(sample=given).sample
    assert sample == kept
    assert percent_number(kept) == float(kept[:-1])


@pytest.mark.parametrize("given", ["0", "101%", "-5", "five", "nan", "inf", "", True, "1e-9"])
def test_what_is_no_share_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        VerifyOptions(sample=given)


def test_restores_and_checks_share_their_limits() -> None:
    for options in (RestoreOptions, VerifyOptions):
        fields = options.model_fields
        assert {"max_ratio", "max_members", "password_block", "workers", "cluster"} <= set(fields)
        for given in (float("inf"), float("nan"), 0.5):
            with pytest.raises(ValidationError):
                options(max_ratio=given)


def test_what_is_deleted_is_named_to_people_up_to_a_limit_and_in_json_all() -> None:
    """(case 85)"""
    paths = tuple(f"docs/{number:02d}\x1b" for number in range(25))
    for dry_run, label in ((True, "To delete: 25"), (False, "Deleted: 25")):
        report = RestoreReport(
            status="success", deleted=25, deleted_paths=paths, dry_run=dry_run,
            files=RestoreCounts(restored=1),
        )  # fmt: skip
        text = report.to_text()
        assert label in text
        assert "docs/19" in text
        assert "docs/20" not in text
        assert "5 more" in text
        assert "\x1b" not in text + report.to_markdown()
        assert report.to_json()["deleted_paths"] == list(paths)


def _check(name: str, status: str, code: str | None = None) -> ArchiveCheck:
    return ArchiveCheck(archive=name, status=status, code=code, message=f"{name}: why")


GOOD, BAD = _check("/good", "success"), _check("/bad", "damaged")
LOCKED = _check("/locked", "failed", "wrong_password")
LOST = _check("/lost", "failed", "not_found")
DARK = _check("/dark", "failed", "storage")


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ((GOOD, BAD), 1),
        ((LOCKED, LOST, BAD), 1),
        ((LOST, LOCKED, GOOD), 12),
        ((GOOD, LOST), 10),
        ((GOOD, DARK), 1),
        ((DARK, LOST), 10),
    ],
)
def test_damage_counts_most_then_a_locked_archive_then_a_lost_one(
    checks: tuple[ArchiveCheck, ...], code: int
) -> None:
    assert VerifyReport(status="failed", archives=checks).exit_code == code


def test_each_archive_that_could_not_be_read_is_an_error_with_its_code() -> None:
    report = VerifyReport(status="failed", archives=(GOOD, LOCKED, LOST))
    errors = report.to_json()["errors"]
    assert [(one["archive"], one["path"], one["code"]) for one in errors] == [
        ("/locked", "", "wrong_password"), ("/lost", "", "not_found"),
    ]  # fmt: skip
    assert "/lost: why" in report.to_text()


def test_a_wrong_password_is_not_called_damage() -> None:
    """(case 63)"""
    for command in ("restore", "verify", "list"):
        (error,) = failed_report(command, WrongPasswordError("x.zip: no")).to_json()["errors"]
        assert error["code"] == "wrong_password"


@pytest.mark.parametrize("suffix", [".001", ".001.zip"])
def test_a_single_volume_with_a_number_is_named(suffix: str) -> None:
    volume = Volume(uri=f"file:///b/x%20y.tar{suffix}", size=1, sha256="ab" * 32)
    text = BackupReport(status="success", archive="/b/x y.tar", volumes=(volume,)).to_text()
    assert f"Volumes      1, x y.tar{suffix}\n" in text
    whole = Volume(uri="file:///b/x.zip", size=1, sha256="ab" * 32)
    text = BackupReport(status="success", archive="/b/x.zip", volumes=(whole,)).to_text()
    assert "Volumes" not in text
