"""A worker in a container that is told to stop ends its runs first (case 95)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_for

PROJECT = Path(__file__).parents[2]

# A worker that goes at once when told, as Prefect's does, and leaves its runs to themselves.
WORKER = """
import os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
def go(*_):
    (folder / "worker-told").write_text(",".join(sorted(p.name for p in folder.glob("run-*"))))
    os._exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, go)
for n in range(2):
    subprocess.Popen([sys.executable, "-c", sys.argv[3], str(folder / f"run-{n}")])
while True:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        pass
    time.sleep(0.02)
"""
# A run that needs a moment for its own end.
RUN = """
import pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
def stop(*_):
    time.sleep(0.5)
    path.with_name(path.name + "-cancelled").write_text("")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
path.write_text("")
while True:
    time.sleep(1)
"""


@pytest.fixture
def herd(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "deployments.shepherd", *words]
        started.append(subprocess.Popen(command, cwd=PROJECT, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_runs_come_to_their_own_end_before_the_worker(
    herd: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = herd(sys.executable, "-c", WORKER, str(tmp_path), "0", RUN)
    wait_for(lambda: len(list(tmp_path.glob("run-?"))) == 2)
    process.terminate()
    assert process.wait(20) == 0
    assert (tmp_path / "worker-told").read_text() == ("run-0,run-0-cancelled,run-1,run-1-cancelled")


def test_a_second_signal_does_not_wait_for_the_worker_but_for_its_runs(
    herd: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = herd(sys.executable, "-c", WORKER, str(tmp_path), "0", RUN)
    wait_for(lambda: len(list(tmp_path.glob("run-?"))) == 2)
    process.terminate()
    time.sleep(0.1)
    process.terminate()
    assert process.wait(20) == 0
    assert (tmp_path / "worker-told").read_text() == "run-0,run-1"
    assert len(list(tmp_path.glob("run-?-cancelled"))) == 2


def test_a_worker_that_dies_takes_its_runs_along_and_gives_its_exit_code(
    herd: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    dies = WORKER.replace("while True:", "time.sleep(1); os._exit(7)\nwhile True:")
    process = herd(sys.executable, "-c", dies, str(tmp_path), "0", RUN)
    assert process.wait(20) == 7
    assert len(list(tmp_path.glob("run-?-cancelled"))) == 2


@pytest.mark.parametrize("is_told", [True, False])
def test_what_does_not_end_is_killed(
    herd: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, *, is_told: bool
) -> None:
    """Else the container would stay for ever, with nothing at work in it."""
    deaf = RUN.replace("(signal.SIGTERM, stop)", "(signal.SIGTERM, signal.SIG_IGN)")
    worker = (
        WORKER if is_told else WORKER.replace("while True:", "time.sleep(1); go()\nwhile True:")
    )
    process = herd("--patience", "0.5", sys.executable, "-c", worker, str(tmp_path), "7", deaf)
    wait_for(lambda: len(list(tmp_path.glob("run-?"))) == 2)
    if is_told:
        process.terminate()
    # One that is told may be killed while it goes.
    assert process.wait(20) in ((7, 128 + signal.SIGKILL) if is_told else (7,))


def test_the_code_of_a_command_that_a_signal_ended_is_a_shells(
    herd: Callable[..., subprocess.Popen[bytes]],
) -> None:
    assert herd("sh", "-c", "kill -9 $$").wait(20) == 128 + signal.SIGKILL
    assert herd("sh", "-c", "exit 3").wait(20) == 3
    assert herd("no-such-command-at-all").wait(20) == 127


def test_what_lost_its_parent_is_collected(
    herd: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Else each would stay as a zombie for as long as the container lives."""
    process = herd("sh", "-c", "for i in 1 2 3; do (sleep 0.5 &); done; exec sleep 30")
    wait_for(lambda: len(_children(process.pid)) == 4)
    wait_for(lambda: len(_children(process.pid)) == 1)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM


def _children(pid: int) -> list[str]:
    """Give a process's children, zombies too."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
