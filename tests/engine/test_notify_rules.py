"""Which runs are worth a mail, and what is remembered of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pybak.errors import Interrupted, LockedError, StorageError
from pybak.notify.ending import Ending, is_busy, report_of
from pybak.notify.past import Past, PastFile
from pybak.notify.rules import Decision, decide
from pybak.notify.wanted import When
from pybak.problems import Problem
from pybak.report import BackupReport, FileCounts

NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
FILE = Problem("/home/ann/a", "unreadable", "permission denied")
OTHER = Problem("/home/ann/b", "unreadable", "permission denied")


def _ending(status: str, *errors: Problem, at: datetime = NOW, **more: object) -> Ending:
    report = BackupReport(status=status, files=FileCounts(failed=len(errors)), errors=errors)
    return Ending("backup", "docs", "nas", at, at, report, **more)  # type: ignore[arg-type]


def _stopped(error: BaseException) -> Ending:
    return Ending("backup", "docs", "nas", NOW, NOW, report_of("backup", error), is_busy(error))


FAILED = Ending("backup", "docs", "nas", NOW, NOW, report_of("backup", StorageError("no space")))


@pytest.mark.parametrize(
    ("ending", "always", "on_change", "on_problem"),
    [
        (_ending("success"), True, True, False),
        (_ending("unchanged"), True, False, False),
        (_ending("partial", FILE), True, True, True),
        (_ending("unchanged", FILE), True, True, True),
        (FAILED, True, True, True),
        (_stopped(Interrupted("interrupted")), True, True, False),
        (_stopped(KeyboardInterrupt()), True, True, False),
        (_stopped(LockedError("another run is at work")), True, False, False),
    ],
    ids=[
        "success", "unchanged", "partial", "failing again", "failed", "interrupted", "ctrl-c",
        "locked",
    ],
)  # fmt: skip
def test_the_rule_decides_about_a_run_after_a_good_one(
    ending: Ending, always: bool, on_change: bool, on_problem: bool
) -> None:
    wanted: dict[When, bool] = {
        "always": always, "on-change": on_change, "on-problem": on_problem
    }  # fmt: skip
    assert {when: decide(when, ending, Past()).is_due for when in wanted} == wanted


def _after(when: When, *endings: Ending) -> list[Decision]:
    past, decisions = Past(), []
    for number, ending in enumerate(endings):
        at = NOW + timedelta(minutes=2 * number)
        decisions.append(decide(when, replace(ending, ended_at=at), past))
        past = decisions[-1].past
    return decisions


@pytest.mark.parametrize("when", ["on-change", "on-problem"])
@pytest.mark.parametrize("good", ["success", "unchanged"])
def test_the_first_good_run_after_a_problem_says_so(when: When, good: str) -> None:
    first, second, again, quiet = _after(when, FAILED, FAILED, _ending(good), _ending("unchanged"))
    assert first.is_due
    assert not first.is_good_again
    assert not second.is_due
    assert again.is_due
    assert again.is_good_again
    assert again.times == 2
    assert again.since == NOW.isoformat()
    assert not quiet.is_due


def test_a_problem_that_stays_the_same_is_told_once_a_day() -> None:
    past = Past()
    due = []
    for minutes in range(0, 3 * 24 * 60, 30):
        decision = decide(
            "on-problem", replace(FAILED, ended_at=NOW + timedelta(minutes=minutes)), past
        )
        past = decision.past
        due += [minutes] if decision.is_due else []
    assert due == [0, 24 * 60, 2 * 24 * 60]
    assert past.times == 3 * 48
    assert past.since == NOW.isoformat()


def test_another_problem_is_news_once_an_hour_and_is_not_forgotten_until_then() -> None:
    same, other = _ending("unchanged", FILE), _ending("unchanged", OTHER)
    told = _after("on-problem", same, *[other] * 60)
    assert [2 * n for n, decision in enumerate(told) if decision.is_due] == [0, 60]


def test_problems_that_change_at_every_run_are_mailed_once_an_hour() -> None:
    files = [
        _ending("partial", Problem(f"/tmp{n}", "unreadable", "permission denied"))
        for n in range(90)
    ]
    turns = [FAILED, _ending("partial", FILE)] * 45
    for runs, due in ((files, [0, 60, 120]), (turns, [0, 62, 124])):
        told = _after("on-problem", *runs)
        assert [2 * n for n, decision in enumerate(told) if decision.is_due] == due


def test_a_file_that_fails_again_beside_a_change_is_the_same_problem_but_a_change() -> None:
    runs = (_ending("partial", FILE), _ending("unchanged", FILE), _ending("partial", FILE))
    assert [d.is_due for d in _after("on-problem", *runs)] == [True, False, False]
    assert [d.is_due for d in _after("on-change", *runs)] == [True, False, True]


def test_a_run_that_was_stopped_changes_nothing_of_what_is_known() -> None:
    stopped = _stopped(Interrupted("interrupted"))
    told = _after("on-problem", FAILED, stopped, FAILED, _ending("success"))
    assert [d.is_due for d in told] == [True, False, False, True]


def test_all_is_well_again_is_told_until_it_could_be() -> None:
    before = decide("on-problem", FAILED, Past()).past
    good = decide("on-problem", _ending("success"), before)
    assert good.past == Past()
    assert decide("on-problem", _ending("success"), good.unsent).is_good_again


def test_what_can_t_be_kept_at_home_is_kept_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    folder, past = tmp_path / "notices", Past("failed:1", NOW.isoformat(), NOW.isoformat(), 3)
    folder.write_text("")
    memory = PastFile(folder, "backup", "docs")
    memory.write(past)
    assert memory.read() == past
    assert PastFile(tmp_path / "other", "backup", "docs").read() == Past()
    [there] = (tmp_path / "tmp").iterdir()
    assert there.stat().st_mode & 0o777 == 0o700
    folder.unlink()
    memory.write(Past())
    assert memory.read() == Past()
    assert list(there.iterdir()) == []
    there.chmod(0o777)
    folder.chmod(0o755)
    (there / "x").write_text("")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(OSError, match="File exists"):
        memory.write(past)


def test_a_mail_that_could_not_be_written_is_due_again() -> None:
    first = decide("on-problem", FAILED, Past())
    again = decide("on-problem", FAILED, first.unsent)
    assert again.is_due
    assert again.times == 2


def test_what_was_told_is_kept_for_each_job_and_kind(tmp_path: Path) -> None:
    docs = PastFile(tmp_path / "notices", "backup", "docs/\udcff\n")
    assert docs.read() == Past()
    past = Past("failed:1", NOW.isoformat(), NOW.isoformat(), 3)
    docs.write(past)
    assert docs.read() == past
    assert PastFile(tmp_path / "notices", "verify", "docs/\udcff\n").read() == Past()
    assert PastFile(tmp_path / "notices", "backup", "photos").read() == Past()
    [path] = (tmp_path / "notices").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[]", '{"problem": 5, "times": 1}', '{"problem": "x"}', "\xff"]
)
def test_what_can_t_be_read_counts_as_all_is_well(tmp_path: Path, content: str) -> None:
    memory = PastFile(tmp_path, "backup", "docs")
    memory.write(Past("x", times=1))
    [path] = tmp_path.iterdir()
    path.write_bytes(content.encode("latin-1"))
    assert memory.read() == Past()


@pytest.mark.parametrize(
    "told_at", ["nonsense", "2026-11-21T10:00:00", "2036-11-21T10:00:00+00:00"]
)
def test_a_time_that_makes_no_sense_does_not_silence_a_problem(told_at: str) -> None:
    before = decide("on-problem", FAILED, Past()).past
    assert decide("on-problem", FAILED, replace(before, told_at=told_at)).is_due
