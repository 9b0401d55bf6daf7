"""Backups to a storage that are killed in the middle of a part, whole or one of their processes.

The part is held up by a proxy before Swift, so that the kill comes while it is under way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from backing_up import judge, noise, snapshot, unpack
from commands import PROJECT, Commands
from faults import Fault, FaultProxy
from s3_servers import S3Server
from storage.runs import Place, make_source, nothing_here, port_of, verified
from waiting import wait_for

pytestmark = pytest.mark.needs_component("swift")
PART = "partNumber="
_MIB = 1 << 20


@pytest.fixture(scope="module")
def small_src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def large_src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give so much that worker processes send it themselves: two large files."""
    src = tmp_path_factory.mktemp("killed") / "src"
    src.mkdir()
    for number in range(2):
        (src / f"{number}").write_bytes(noise(_MIB, number) * 64)
    return src


@pytest.fixture
def proxy(swift: S3Server, faulty: Callable[[str], FaultProxy]) -> FaultProxy:
    return faulty(swift.endpoint)


@pytest.fixture
def place(swift: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give a folder of Swift that commands find at its address, behind the proxy."""
    for name, value in swift.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    return Place(swift, proxy.endpoint)


ENGINE = """
import sys
sys.path.insert(0, sys.argv[3])
import pytest
from backing_up import back_up
from storage.runs import BY_WORKERS, small
small(pytest.MonkeyPatch())
back_up(sys.argv[1], to=sys.argv[2], **BY_WORKERS)
"""


def killed_run(src: Path, place: Place, home: Path, fault: Fault) -> None:
    """Run a backup in a process of its own, which is killed once the fault is there."""
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, src, place.address, PROJECT / "tests"],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYBAK_HOME": str(home)},
        stdin=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(lambda: fault.fired, 60, told=process.poll)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def later_run(src: Path, place: Place, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, src, place.address, PROJECT / "tests"],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYBAK_HOME": str(home)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def is_whole(name: str, place: Place, src: Path, folder: Path) -> None:
    """See that a file there is an archive of all sources."""
    archive = place.fetch(name, folder)
    judge(archive, ["unzip", "7zz"])
    assert snapshot(unpack(archive, folder / "out") / "src") == snapshot(src)
    assert verified(f"{place.address}/{name}", folder) == []


def test_a_run_that_is_killed_in_mid_part_is_cleaned_up_by_the_next(
    small_src: Path, tmp_path: Path, place: Place, proxy: FaultProxy
) -> None:
    """Its workers were sending (cases 64, 102)."""
    home = tmp_path / "home"
    fault = proxy.arm(Fault("freeze_up", "PUT", PART, skip=1, after=2 * _MIB))
    killed_run(small_src, place, home, fault)
    assert place.names() == []
    assert place.uploads() == 1
    assert len(os.listdir(home / "uploads")) == len(os.listdir(home / "staging")) == 1
    later_run(small_src, place, home)
    place.holds(1)
    nothing_here(home)
    is_whole(place.names()[0], place, small_src, tmp_path / "got")


def test_a_run_that_is_killed_at_the_end_leaves_a_whole_archive_or_none(
    small_src: Path, tmp_path: Path, place: Place, proxy: FaultProxy
) -> None:
    """The storage has completed the file, and nobody was told (case 102)."""
    home = tmp_path / "home"
    fault = proxy.arm(Fault("stall", "POST", "uploadId="))
    killed_run(small_src, place, home, fault)
    place.holds(1)
    first = place.names()
    later_run(small_src, place, home)
    place.holds(2)
    nothing_here(home)
    assert set(first) < set(place.names())
    for number, name in enumerate(place.names()):
        is_whole(name, place, small_src, tmp_path / f"got{number}")


def sender(proxy: FaultProxy, command: int) -> psutil.Process | None:
    """Give the process below the command that talks to the proxy, if there is one."""
    port = port_of(proxy.endpoint)
    for process in psutil.Process(command).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED":
                    return process
    return None


@pytest.mark.parametrize("cluster", ["helpers", pytest.param("processes", marks=pytest.mark.full)])
def test_a_process_that_is_killed_in_mid_part_costs_time_and_no_files(
    large_src: Path, tmp_path: Path, place: Place, proxy: FaultProxy, run_command: Commands,
    cluster: str,
) -> None:  # fmt: skip
    """Another does its work (cases 64, 102)."""
    home = tmp_path / "home"
    fault = proxy.arm(Fault("freeze_up", "PUT", PART, skip=1, after=2 * _MIB))
    words = ("--to", place.address, "--cluster", cluster, "--workers", "2")
    with run_command.running(
        "backup", large_src, *words, "--level", "1", env={"PYBAK_HOME": str(home)}
    ) as process:
        wait_for(lambda: fault.fired, 60, told=process.poll)
        victim = sender(proxy, process.pid)
        assert victim is not None, "the flow's own process sends"
        victim.kill()
        _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    place.holds(1)
    nothing_here(home)
    is_whole(place.names()[0], place, large_src, tmp_path / "got")
