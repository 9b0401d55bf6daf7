"""A backup of a job that another run holds says so: refused or waiting, to people and scripts."""

from __future__ import annotations

import json
import os
import selectors
import time
from pathlib import Path

from commands import Commands

from pybak.catalog.locks import job_lock

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
