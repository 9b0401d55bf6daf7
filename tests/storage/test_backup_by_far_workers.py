"""Workers of a Dask cluster that see the sources and the storage, but not the run's own folders."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backing_up import judge, noise, snapshot, unpack
from commands import PROJECT, Commands
from s3_servers import S3Server
from waiting import wait_for

pytestmark = [pytest.mark.needs_component("swift"), pytest.mark.needs_root]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Cluster:
    """A scheduler and two workers; these find another disk where the run has its home."""

    def __init__(self, address: str, workers: list[subprocess.Popen[bytes]]) -> None:
        self.address = address
        self.workers = workers


@pytest.fixture
def cluster(prefect_server: str, tmp_path: Path, swift: S3Server) -> Iterator[Cluster]:
    (tmp_path / "home").mkdir()
    address = f"tcp://127.0.0.1:{free_port()}"
    env = os.environ | swift.environment() | {
        "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(PROJECT),
        "PYBAK_HOME": str(tmp_path / "home"),
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "20 s",
    }  # fmt: skip
    hide = f'mount -t tmpfs none {tmp_path}/home && exec "$@"'
    dask = [sys.executable, "-m", "dask"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    with contextlib.ExitStack() as stack:
        started = []
        for command in (
            [*dask, "scheduler", "--host", address, "--no-dashboard"],
            *(["unshare", "--mount", "sh", "-c", hide, "sh", *worker] for _ in range(2)),
        ):
            process = subprocess.Popen(
                command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield Cluster(address, started[1:])


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    (src / "big").write_bytes(noise(1 << 20) * 70)
    for number in range(100):
        (src / f"f{number:02d}").write_bytes(noise(800_000, number))
    return src


def listed(swift: S3Server, address: str) -> tuple[list[str], int]:
    """Give the names and how many uploads are open."""
    bucket = address.removeprefix("s3://").partition("/")[0]
    client = swift.client()
    names = [one["Key"] for one in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return names, len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def settles(swift: S3Server, address: str, files: int) -> list[str]:
    """Wait until so many files and no uploads are listed, for a busy Swift lists late."""

    def settled() -> bool:
        names, uploads = listed(swift, address)
        return (len(names), uploads) == (files, 0)

    wait_for(settled, 30, told=lambda: listed(swift, address), every=0.5)
    return listed(swift, address)[0]


def fetched(swift: S3Server, address: str, key: str, folder: Path) -> Path:
    folder.mkdir()
    target = folder / key.rpartition("/")[2]
    swift.client().download_file(address[5:].partition("/")[0], key, str(target))
    return target


def test_workers_send_from_their_own_hosts(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    cluster: Cluster,
) -> None:  # fmt: skip
    """Nothing but small records comes back; the report is as ever."""
    report = run_command(
        "backup", src, "--to", s3_address, "--cluster", cluster.address, "--json",
        "--workers", "2", env={"PYBAK_HOME": str(tmp_path / "home")}, timeout=270,
    ).json  # fmt: skip
    (key,) = settles(swift, s3_address, 1)
    archive = fetched(swift, s3_address, key, tmp_path / "got")
    judge(archive, ["unzip"])
    assert snapshot(unpack(archive, tmp_path / "out") / "src") == snapshot(src)
    assert report["bytes_stored"] == archive.stat().st_size
    staging = tmp_path / "home/staging"
    assert not staging.exists() or os.listdir(staging) == []


def test_a_worker_that_is_killed_costs_its_stretch_at_most(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    cluster: Cluster,
) -> None:  # fmt: skip
    """Killed in mid-part: a verified archive, or a clear failure with nothing left (case 64)."""
    words = ("backup", src, "--to", s3_address, "--cluster", cluster.address, "--workers", "2")
    with run_command.running(*words, env={"PYBAK_HOME": str(tmp_path / "home")}) as process:
        wait_for(lambda: listed(swift, s3_address)[1], 60, every=0.2)
        time.sleep(0.5)
        cluster.workers[0].send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=150)
    assert process.returncode in (0, 1), stderr
    if process.returncode:
        assert "Traceback" not in stderr
        settles(swift, s3_address, 0)
        return
    (key,) = settles(swift, s3_address, 1)
    archive = fetched(swift, s3_address, key, tmp_path / "got")
    judge(archive, ["unzip"])
    assert snapshot(unpack(archive, tmp_path / "out") / "src") == snapshot(src)
