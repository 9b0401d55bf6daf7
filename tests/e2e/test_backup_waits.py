"""A backup of a job that another run holds says so: refused or waiting, to people and scripts."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

from backing_up import prose
from commands import PROJECT, Commands
from waiting import wait_for

from pybak.catalog.locks import job_lock

ON_PATH = {"PYTHONPATH": str(PROJECT)}
_SECONDS = 60.0


def test_a_job_at_work_is_refused_or_waited_for_in_a_line(
    run_command: Commands, tmp_path: Path
) -> None:
    """(case 98)"""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_bytes(b"a")
    words = (tmp_path / "docs", "--to", "to", "--job", "papers", "--mode", "incremental", "--json")
    with job_lock("papers") as lock:
        assert lock.is_safe
        refused = run_command("backup", *words)
        assert refused.rc == 11, refused
        told = refused.json
        assert (told["status"], told["job"], told["mode"]) == (
            "cancelled", "papers", "incremental",
        )  # fmt: skip
        waiting = run_command.running("backup", *words, "--wait")
        with waiting as process:
            assert process.stderr is not None
            line = first_line(process.stderr.fileno())
            lock_holder = f"pybak: waiting for process {os.getpid()}, since 2"
            assert line.startswith(lock_holder), line
            assert line.endswith(" (papers: another run of this job is at work)\n")
            assert process.poll() is None
            assert not list(tmp_path.glob("to/*"))
            process.kill()
    done = run_command("backup", *words, "--wait")
    assert (done.rc, done.stderr) == (0, ""), done
    assert json.loads(done.stdout)["status"] == "success"


def test_a_run_at_work_is_shown_as_such(run_command: Commands, tmp_path: Path) -> None:
    """Who holds the lock of its job tells that it is alive."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_bytes(prose(10_000_000) * 20)
    words = (tmp_path / "docs", "-o", "a.tar.bz2", "-l", "9", "-w", "1", "--job", "papers")

    def shown() -> list[str]:
        command = [sys.executable, "-m", "pybak", "status", "--json"]
        done = subprocess.run(command, env=os.environ | ON_PATH, stdout=subprocess.PIPE)
        found = json.loads(done.stdout or b"{}")
        return [job["state"] for job in found.get("jobs", [])]

    with run_command.running("backup", *words) as process:
        states = wait_for(shown, told="the job")
        assert process.poll() is None  # it is still at work
        assert states == ["running"]


def first_line(fd: int) -> str:
    """Read the first line that comes."""
    found = b""
    deadline = time.monotonic() + _SECONDS
    with selectors.DefaultSelector() as ready:
        ready.register(fd, selectors.EVENT_READ)
        while not found.endswith(b"\n") and time.monotonic() < deadline:
            if ready.select(1.0):
                byte = os.read(fd, 1)
                if not byte:
                    break
                found += byte
    return found.decode()
