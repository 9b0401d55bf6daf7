"""Backups that are stopped, killed or robbed of a worker, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from backing_up import judge, prose
from commands import PROJECT, Commands
from waiting import shared, wait_for, within

SLOW = ("--level", "9", "--workers", "2")
"""With these the tree below takes some 4 s of two processors."""


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give 40 files of 4 MB; on disk they are one."""
    folder = tmp_path_factory.mktemp("big") / "src"
    folder.mkdir()
    (folder / "00").write_bytes(prose(4_000_000))
    for number in range(1, 40):
        os.link(folder / "00", folder / f"{number:02d}")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Give a destination that holds something already."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "earlier.zip").write_bytes(b"earlier")
    return folder


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], list[Any]]]:
    """Give a function that lists the processes that this test started, wherever they went."""
    mark = str(tmp_path / "mark")
    monkeypatch.setenv("TEST_MARK", mark)

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("TEST_MARK") == mark:
                    found.append(process)
        return found

    yield find
    for process in find():
        with contextlib.suppress(psutil.Error):
            process.kill()


def wait_for_work(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until some batches are finished."""

    def busy() -> bool:
        assert process.poll() is None, process.communicate()
        return len(list(out.glob(".pybak-work-*/segments/*.index"))) >= 3

    wait_for(busy, 60)


def states(api: Any, destination: Path) -> list[tuple[str, str]]:
    """Give the final states of the flow runs that wrote to `destination`."""
    runs = api.post("/flow_runs/filter", json={"limit": 200}).raise_for_status().json()
    return [
        (run["state"]["type"], run["state"]["name"])
        for run in runs
        if run["parameters"].get("to") == str(destination)
    ]


@pytest.mark.parametrize(
    ("cluster", "number", "whole_group"),
    [
        ("processes", signal.SIGINT, True),
        pytest.param("threads", signal.SIGINT, True, marks=pytest.mark.full),
        pytest.param("helpers", signal.SIGINT, True, marks=pytest.mark.full),
        ("helpers", signal.SIGTERM, False),
        ("processes", signal.SIGTERM, False),
    ],
)
def test_a_request_to_stop_ends_all_within_five_seconds(
    src: Path, out: Path, run_command: Commands, prefect_api: Any, ours: Callable[[], list[Any]],
    cluster: str, number: int, whole_group: bool,
) -> None:  # fmt: skip
    """Ctrl-C goes to the whole group, SIGTERM to the command: 130, nothing left (case 95)."""
    words = (src, "--to", out, "--cluster", cluster, *SLOW)
    with run_command.running("backup", *words) as process:
        wait_for_work(out, process)
        started = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        stdout, stderr = process.communicate(timeout=30)
        seconds = time.monotonic() - started
        assert process.returncode == 130, stderr
        assert seconds < shared(5)
        wait_for(lambda: not ours(), 1)
    assert os.listdir(out) == ["earlier.zip"]
    assert stdout == ""
    assert stderr.startswith("pybak: ")
    assert stderr.count("\n") == 1
    assert states(prefect_api, out) == [("CANCELLED", "Cancelled")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_while_prefect_starts_ends_all_too(
    src: Path, out: Path, run_command: Commands, ours: Callable[[], list[Any]], number: int
) -> None:
    """(case 95)"""
    with run_command.running("backup", src, "--to", out, server=False) as process:
        wait_for(
            lambda: any("flows.support.serve_api" in one.cmdline() for one in ours()), shared(20)
        )
        os.kill(process.pid, number)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout) == (130, ""), stderr
        assert stderr == "pybak: interrupted\n"
        wait_for(lambda: not ours(), 1)
    assert os.listdir(out) == ["earlier.zip"]


def test_signals_that_are_ignored_at_the_start_stop_nothing(
    src: Path, out: Path, run_command: Commands
) -> None:
    """As nohup has it, and the shell for what a script starts in the background."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'trap "" HUP INT; exec "$@"', "-",
         sys.executable, PROJECT / "flows/backup.py", src / "00", "--to", out,
         "--before", "kill -HUP $PPID; kill -INT $PPID"],
        env=run_command.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert len(os.listdir(out)) == 2


def test_an_ad_hoc_run_that_is_stopped_takes_its_server_along(
    src: Path, out: Path, run_command: Commands, ours: Callable[[], list[Any]]
) -> None:
    """(case 95)"""
    with run_command.running("backup", src, "--to", out, *SLOW, server=False) as process:
        wait_for_work(out, process)
        assert any("flows.support.serve_api" in one.cmdline() for one in ours())
        with within(5):
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=30)
            assert process.returncode == 130
        wait_for(lambda: not ours(), 1)
    assert os.listdir(out) == ["earlier.zip"]


@pytest.mark.parametrize("cluster", [pytest.param("helpers", marks=pytest.mark.full), "processes"])
def test_after_a_kill_the_server_goes_and_the_next_run_cleans_up(
    src: Path, out: Path, run_command: Commands, ours: Callable[[], list[Any]], cluster: str
) -> None:
    """Nothing runs on when the command is killed outright (case 93)."""
    words = (src, "--to", out, "--cluster", cluster, *SLOW)
    process = subprocess.Popen(
        # Not `running`: at its end that kills what this test wants to see going by itself.
        [sys.executable, PROJECT / "flows/backup.py", *words],
        env=run_command.environment(server=False), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        wait_for_work(out, process)
        process.kill()
        process.wait()
        wait_for(lambda: not ours(), 20)
    leftovers = list(out.glob(".pybak-work-*"))
    assert len(leftovers) == 1
    done = run_command("backup", src / "00", "--to", out, "--json")
    assert done.rc == 0, done
    assert sorted(os.listdir(out)) == sorted(["earlier.zip", Path(done.json["archive"]).name])


@pytest.mark.parametrize("cluster", ["helpers", pytest.param("processes", marks=pytest.mark.full)])
def test_a_worker_that_is_killed_costs_time_and_no_files(
    src: Path,
    out: Path,
    run_command: Commands,
    prefect_api: Any,
    ours: Callable[[], list[Any]],
    cluster: str,
) -> None:
    words = (src, "--to", out, "--cluster", cluster, *SLOW, "--json")
    with run_command.running("backup", *words) as process:
        wait_for_work(out, process)
        busy = max(
            (one for one in ours() if one.pid != process.pid),
            key=lambda one: one.cpu_times().user,
        )
        busy.kill()
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    archive = next(path for path in out.iterdir() if path.name != "earlier.zip")
    judge(archive, ["unzip"])
    assert f'"new": {len(os.listdir(src))}' in stdout
    assert states(prefect_api, out) == [("COMPLETED", "Completed")]


def test_two_ad_hoc_runs_at_once_have_a_server_each_and_leave_none(
    tmp_path: Path, out: Path, run_command: Commands, ours: Callable[[], list[Any]]
) -> None:
    """Also where neither Prefect nor the catalog has run before (case 98)."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"f")
    env = {"PREFECT_HOME": str(tmp_path / "prefect")}
    words = ("src", "--to", str(out), "--json")
    with (
        run_command.running("backup", *words, env=env, server=False) as first,
        run_command.running("backup", *words, env=env, server=False) as second,
    ):
        outcomes = [(p.communicate(timeout=90), p.returncode) for p in (first, second)]
        wait_for(lambda: not ours(), 1)
    assert [code for _, code in outcomes] == [0, 0], outcomes
    archives = [name for name in os.listdir(out) if name != "earlier.zip"]
    assert len(archives) == 2
    for name in archives:
        judge(out / name, ["unzip"])
