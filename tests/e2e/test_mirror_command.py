"""`python flows/mirror.py`: what it prints, how it ends, and what is recorded of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import pytest
from catalogs import query
from commands import Commands
from mirroring import assert_mirrored, put
from waiting import wait_for

from pybak.catalog.locks import job_lock
from pybak.home import catalog_url


@pytest.fixture
def src(tmp_path: Path) -> Path:
    put(tmp_path / "src" / "a.txt", "a" * 1000)
    put(tmp_path / "src" / "sub" / "b", "b")
    return tmp_path / "src"


def _runs(api: httpx.Client, kind: str, **wanted: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = api.post(f"/{kind}/filter", json=wanted).json()
    return found


def test_a_mirror_is_told_and_recorded_and_a_second_one_does_nothing(
    src: Path, tmp_path: Path, run_command: Commands, prefect_api: httpx.Client
) -> None:
    done = run_command("mirror", "src", "to", "--job", "pictures", "--json")
    assert done.rc == 0, done
    first = done.json
    assert (first["status"], first["bytes_copied"], first["errors"]) == ("success", 1001, [])
    assert first["files"] == {
        "total": 2, "copied": 2, "updated": 0, "metadata": 0, "unchanged": 0, "skipped": 0,
        "failed": 0, "excluded": 0, "deleted": 0,
    }  # fmt: skip
    assert first["destination"] == str(tmp_path / "to")
    assert first["duration_seconds"] > 0
    assert_mirrored(src, tmp_path / "to")
    done = run_command("mirror", "src", "to", "--job", "pictures")
    assert done.rc == 0, done
    assert done.stdout.startswith("Mirror: unchanged, nothing to do")
    ours = {"name": {"any_": ["mirror"]}}
    runs = _runs(prefect_api, "flow_runs", flows=ours, sort="START_TIME_DESC")
    assert [run["state_name"] for run in runs[:2]] == ["Unchanged", "Completed"]
    tasks = _runs(prefect_api, "task_runs", flow_runs={"id": {"any_": [runs[0]["id"]]}})
    assert len(tasks) <= 4
    rows = query(catalog_url(), "SELECT job, status FROM run WHERE kind = 'mirror' ORDER BY seq")
    assert rows == [("pictures", "success"), ("pictures", "unchanged")]


def test_it_ends_as_the_other_commands_do(src: Path, tmp_path: Path, run_command: Commands) -> None:
    for words, code in (
        (["src"], 2),
        (["src", "to", "more"], 2),
        (["src", "src/sub"], 2),
        (["src", "s3://bucket/x"], 2),
        (["missing", "to"], 10),
        (["src", "to", "--max-delete", "many"], 2),
    ):
        done = run_command("mirror", *words)
        assert done.rc == code, done
        assert done.stderr.startswith("pybak: "), done
    assert not (tmp_path / "to").exists()
    with job_lock(str(tmp_path / "to")):
        done = run_command("mirror", "src", "to", "--job", "other", "--json")
    assert (done.rc, done.json["status"]) == (11, "cancelled"), done
    for number in range(30):
        put(tmp_path / "to" / f"extra{number}")
    done = run_command("mirror", "src", "to", "--delete", "--json")
    assert (done.rc, done.json["status"]) == (3, "partial"), done
    assert [error["code"] for error in done.json["errors"]] == ["delete_limit"]
    os.rename(src / "a.txt", tmp_path / "a.txt")
    os.rename(src / "sub", tmp_path / "sub")
    done = run_command("mirror", "src", "to", "--delete", "--json")
    assert (done.rc, done.json["status"]) == (1, "failed"), done
    assert len(os.listdir(tmp_path / "to")) == 32


def test_a_mirror_that_ends_early_says_why(
    src: Path, tmp_path: Path, run_command: Commands
) -> None:
    """A destination that can't be made; Ctrl-C while files are copied."""
    done = run_command("mirror", "src", "/proc/no-such-folder")
    assert done.rc == 1, done
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("choose a folder you can write\n")
    for number in range(5000):
        put(src / f"{number}.txt", "c" * 1000)
    with run_command.running("mirror", "src", "to", "--verify", "-w", "1") as process:
        wait_for(lambda: (tmp_path / "to").exists() or process.poll() is not None, 60, every=0.001)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert stderr.startswith("pybak: ")
    assert stderr.count("\n") == 1


def test_an_older_configuration_file_is_understood_as_it_is(
    src: Path, tmp_path: Path, run_command: Commands
) -> None:
    config = {"source": "src", "destination": "to", "processes": 3, "log_file": "copy.log"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run_command("mirror", "--config", "config.json", "--cluster", "threads", "--json")
    assert done.rc == 0, done
    assert_mirrored(src, tmp_path / "to")
    assert (tmp_path / "copy.log").stat().st_size > 0
    options = query(catalog_url(), "SELECT options FROM run WHERE kind = 'mirror'")
    assert json.loads(str(options[0][0]))["workers"] == 3
    done = run_command("mirror", "--config", "config.json", "src", "other", "--dry-run")
    assert done.rc == 0, done
    assert "copy a.txt" in done.stdout
    assert not (tmp_path / "other").exists()
