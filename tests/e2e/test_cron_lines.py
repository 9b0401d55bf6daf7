"""The lines for cron in docs/operations.md: parsed as cron does, and run by a shell."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from commands import PROJECT
from prefect.server.schemas.schedules import CronSchedule

OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
[BLOCK] = re.findall(r"```crontab\n(.*?)```", OPERATIONS, re.S)
LINES = [line.split(None, 5) for line in BLOCK.splitlines()]


def test_there_is_one_for_each_two_minute_job() -> None:
    assert [re.findall(r"flows/(\w+)\.py", command)[0] for *_, command in LINES] == [
        "backup", "inbox",
    ]  # fmt: skip


async def _slots(fields: list[str]) -> list[datetime]:
    schedule = CronSchedule(cron=" ".join(fields), timezone="UTC")
    return list(await schedule.get_dates(40, start=datetime(2026, 1, 1, tzinfo=UTC)))


def test_they_are_due_every_two_minutes_in_turn() -> None:
    all_slots = [asyncio.run(_slots(line[:5])) for line in LINES]
    for slots in all_slots:
        times = [slot.timestamp() for slot in slots]
        steps = {later - slot for slot, later in itertools.pairwise(times)}
        assert steps == {120}
    assert not set(all_slots[0]) & set(all_slots[1])


@pytest.mark.parametrize("command", [line[5] for line in LINES], ids=["backup", "inbox"])
def test_each_command_runs_as_it_stands(command: str, prefect_server: str, tmp_path: Path) -> None:
    """In a home with the folders; only where Python is is put in, and a dry run."""
    (tmp_path / "Documents").mkdir()
    (tmp_path / "Documents" / "a.txt").write_text("a")
    (tmp_path / "pybak-inbox").mkdir()
    (tmp_path / "pybak").symlink_to(PROJECT)
    assert command.count(".venv/bin/python ") == 1
    command = command.replace(".venv/bin/python ", f"{sys.executable} ")
    command, said, log = command.partition(" 2>>")
    env = os.environ | {"HOME": str(tmp_path), "PREFECT_API_URL": prefect_server}
    done = subprocess.run(
        ["sh", "-c", f"{command} --dry-run{said}{log}"], env=env, cwd=tmp_path,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done, (tmp_path / "pybak.log").read_text())
    assert (tmp_path / "pybak.log").read_text() == ""
