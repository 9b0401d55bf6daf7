"""Which mode a run has in the end, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from remembering import Memory, Remembered, on_disk

from pybak.backup.base import ArchiveFacts
from pybak.backup.mode import DIFFERENTIAL, FULL, INCREMENTAL, choose_mode
from pybak.options import BackupOptions
from pybak.options.backup import parse_full_every
from pybak.report import FileCounts
from pybak.units import parse_duration

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Base(Remembered):
    facts: Sequence[ArchiveFacts] = ()

    def archives(self) -> Sequence[ArchiveFacts]:
        return self.facts


def base(
    *, runs: int = 0, age: timedelta = timedelta(), facts: Sequence[ArchiveFacts] = ()
) -> Base:
    made = Base("r1", 1, FULL, NOW - age, "r1", NOW - age, {}, runs)
    made.facts = facts
    return made


def test_a_full_run_is_compared_with_nothing() -> None:
    chosen = choose_mode(FULL, base(), full_every=None, now=NOW)
    assert (chosen.mode, chosen.base, chosen.reasons) == (FULL, None, ())


@pytest.mark.parametrize("wanted", [INCREMENTAL, DIFFERENTIAL])
def test_a_run_has_the_mode_that_was_asked_for(wanted: str) -> None:
    earlier = base()
    chosen = choose_mode(wanted, earlier, full_every=None, now=NOW)
    assert (chosen.mode, chosen.base, chosen.reasons) == (wanted, earlier, ())


def test_a_first_run_is_full_by_itself() -> None:
    chosen = choose_mode(INCREMENTAL, None, full_every="30", now=NOW)
    assert (chosen.mode, chosen.base) == (FULL, None)
    assert chosen.reasons == ("the first run of this job",)


@pytest.mark.parametrize(("runs", "is_full"), [(0, False), (1, False), (2, True), (3, True)])
def test_of_every_three_runs_one_is_full(runs: int, is_full: bool) -> None:
    chosen = choose_mode(INCREMENTAL, base(runs=runs), full_every="3", now=NOW)
    assert (chosen.mode == FULL) is is_full
    assert bool(chosen.reasons) is is_full


@pytest.mark.parametrize(
    ("age", "is_full"),
    [
        (timedelta(days=6, hours=23), False), (timedelta(days=7), True),
        (timedelta(days=400), True), (timedelta(days=-6), False), (timedelta(days=-400), True),
    ],
)  # fmt: skip
def test_a_full_run_is_due_when_the_last_is_old_or_of_a_time_to_come(
    age: timedelta, is_full: bool
) -> None:
    chosen = choose_mode(DIFFERENTIAL, base(age=age), full_every="7d", now=NOW)
    assert (chosen.mode == FULL) is is_full


@pytest.mark.parametrize("text", ["1", "30", " 7d ", "1y6mo", "24h"])
def test_how_often_is_a_number_or_a_time(text: str) -> None:
    expected: Any = int(text) if text.strip().isdigit() else parse_duration(text)
    assert parse_full_every(text) == expected
    assert BackupOptions(full_every=text).full_every == text


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "often", "", "7 dogs", "9" * 30, "٣"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        BackupOptions(full_every=text)


def test_a_number_in_a_file_is_taken_as_it_is() -> None:
    assert BackupOptions.model_validate({"full_every": 30}).full_every == "30"


def test_archives_that_are_not_in_place_are_named(tmp_path: Path) -> None:
    """(case 76)"""
    for name, size in (("good", 5), ("short", 3)):
        (tmp_path / name).write_bytes(b"x" * size)
    facts = [
        ArchiveFacts(f"/to/{name}.zip", [(str(tmp_path / name), 5)])
        for name in ("good", "short", "gone")
    ]
    chosen = choose_mode(INCREMENTAL, base(facts=facts), full_every=None, now=NOW)
    assert (chosen.mode, chosen.base) == (FULL, None)
    assert [(p.path, p.code) for p in chosen.problems] == [
        ("/to/short.zip", "storage"), ("/to/gone.zip", "storage"),
    ]  # fmt: skip
    assert "3 bytes, 5 were written" in chosen.problems[0].message
    assert "is gone" in chosen.problems[1].message
    assert chosen.reasons == ("2 archives of earlier runs not in place",)


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_storage_that_was_altered_makes_a_full_run_that_is_partial(
    how: str, tmp_path: Path
) -> None:
    """Before anything is written, and every file is saved (case 76)."""
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    (top / "file").write_bytes(b"1")
    memory.back_up(top, to=tmp_path / "to")
    (top / "more").write_bytes(b"2")
    second = memory.back_up(top, to=tmp_path / "to")
    victim = second.path
    if how == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1])
    done = memory.back_up(top, to=tmp_path / "to")
    assert (done.report.status, done.report.exit_code) == ("partial", 3)
    assert done.report.files == FileCounts(new=2)
    assert done.errors == {str(victim): "storage"}
    assert done.manifest.head.mode == "full"
    assert memory.contents() == on_disk(top)
    assert "not in place" in done.report.to_text()
    again = memory.back_up(top, to=tmp_path / "to")
    assert again.report.status == "unchanged"


def test_a_policy_makes_full_runs_in_between(tmp_path: Path) -> None:
    top, memory = tmp_path / "src", Memory()
    top.mkdir()
    modes = []
    for number in range(7):
        (top / str(number)).write_bytes(b"x")
        done = memory.back_up(top, to=tmp_path / "to", full_every="3")
        modes.append(done.manifest.head.mode[0])
        assert memory.contents() == on_disk(top)
    assert "".join(modes) == "fiifiif"
