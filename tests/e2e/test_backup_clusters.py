"""The same backup by every kind of cluster, in few task runs, brought to the disk in order."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from backing_up import judge, noise, prose
from commands import PROJECT, Commands

FILES = 120


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give small files, and a large one of three parts."""
    folder = tmp_path_factory.mktemp("src") / "src"
    folder.mkdir()
    for number in range(FILES - 1):
        (folder / f"f{number:03d}").write_bytes(prose(2000 + number, number))
    block = prose(500_000) + noise(500_000)
    with (folder / "large").open("wb") as file:
        for _ in range(70):
            file.write(block)
    return folder


def check(done: Any, src: Path) -> Path:
    assert done.rc == 0, done
    report = done.json
    assert report["files"]["new"] == FILES
    archive = Path(report["archive"])
    judge(archive)
    with zipfile.ZipFile(archive) as file:
        for name in ("f000", "f118", "large"):
            assert file.read(f"src/{name}") == (src / name).read_bytes()
    assert os.listdir(archive.parent) == [archive.name]
    return archive


def task_runs(api: Any, destination: Path) -> list[str]:
    runs = api.post("/flow_runs/filter", json={"limit": 200}).json()
    (run,) = [run for run in runs if run["parameters"].get("to") == str(destination)]
    query = {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}

    def names() -> list[str]:
        return sorted(one["name"] for one in api.post("/task_runs/filter", json=query).json())

    found = names()
    for _ in range(20):  # task runs are written by an event queue
        time.sleep(0.2)
        if (now := names()) == found:
            break
        found = now
    return found


@pytest.mark.parametrize(
    ("cluster", "level"), [("threads", "1"), ("helpers", "2"), ("processes", "9")]
)
def test_local_clusters_make_good_archives_in_few_task_runs(
    src: Path, tmp_path: Path, run_command: Commands, prefect_api: Any, cluster: str, level: str
) -> None:
    """With -c there are many batches and no more task runs for it."""
    done = run_command(
        "backup", src, "--to", tmp_path / "out", "--cluster", cluster, "-l", level,
        "-w", "2", "-c", "1", "--json",
    )  # fmt: skip
    check(done, src)
    names = task_runs(prefect_api, tmp_path / "out")
    compress = [name for name in names if name.startswith("compress-")]
    assert 2 <= len(compress) <= 2 * 9, names
    assert len(names) <= len(compress) + 8, names


def test_a_small_backup_starts_no_cluster(
    tmp_path: Path, run_command: Commands, prefect_api: Any
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"f")
    done = run_command("backup", "src", "--to", tmp_path / "out", "--json")
    assert done.rc == 0, done
    names = task_runs(prefect_api, tmp_path / "out")
    assert [name for name in names if name.startswith("compress")] == ["compress-000"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def scheduler(prefect_server: str, tmp_path: Path) -> Iterator[str]:
    """Start a Dask scheduler and a worker, two processes; give the scheduler's address."""
    address = f"tcp://127.0.0.1:{free_port()}"
    env = os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(PROJECT)}
    common = ["--no-dashboard"]
    with contextlib.ExitStack() as stack:
        for words in (
            ["scheduler", "--host", address, *common],
            ["worker", address, "--nthreads", "2", "--no-nanny", *common],
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words], cwd=tmp_path, env=env,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield address


def test_workers_elsewhere_are_reached_by_address(
    src: Path, tmp_path: Path, run_command: Commands, scheduler: str, prefect_api: Any
) -> None:
    """A scheduler and a worker that someone else started stay when the run ends."""
    out = tmp_path / "out"
    done = run_command("backup", src, "--to", out, "--cluster", scheduler, "--json")
    check(done, src)
    assert any(name.startswith("compress-") for name in task_runs(prefect_api, out))
    with distributed.Client(scheduler, timeout=10, set_as_default=False) as client:
        assert len(client.scheduler_info()["workers"]) == 1


def test_an_address_where_nobody_answers_is_no_reason_to_fail(
    tmp_path: Path, run_command: Commands
) -> None:
    """The work is done in the flow itself."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"f")
    address = f"tcp://127.0.0.1:{free_port()}"
    done = run_command("backup", "src", "-o", "a.zip", "--cluster", address, "--json")
    assert (done.rc, done.json["files"]["new"]) == (0, 1), done
    judge(tmp_path / "a.zip", ["unzip"])


TRACED = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from backing_up import back_up
print(back_up(sys.argv[1], to=Path(sys.argv[2])).path)
"""


@pytest.mark.needs_tool("strace")
def test_an_archive_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    """fsync of the file, then its name, then fsync of the folder (case 105)."""
    (tmp_path / "f").write_bytes(b"f")
    log = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=fsync,link,linkat,rename,renameat,renameat2",
         "-o", log, sys.executable, "-c", TRACED, tmp_path / "f", tmp_path / "out",
         PROJECT / "tests"],
        check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    calls = [line for line in log.read_text().splitlines() if str(tmp_path / "out") in line]
    (archive,) = (tmp_path / "out").iterdir()
    steps = [
        "file" if re.search(r"fsync\(\d+<\S+/archive>", line)
        else "name" if re.search(rf"link(at)?\(.*/archive.*{re.escape(archive.name)}", line)
        else "folder" if re.search(rf"fsync\(\d+<{re.escape(str(archive.parent))}>", line)
        else ""
        for line in calls
    ]  # fmt: skip
    assert [step for step in steps if step] == ["file", "name", "folder"]
