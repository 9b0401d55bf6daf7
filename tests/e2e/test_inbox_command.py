"""`python flows/inbox.py`: what it prints, how it ends, and what is recorded of it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from catalogs import query
from commands import PROJECT, Commands, tool
from inboxes import files_in
from waiting import wait_for

from pybak.catalog.locks import job_lock
from pybak.home import catalog_url

AT_ONCE = ("--settle", "0s")
STAMPED = re.compile(r"(.+)_\d{8}_\d{6}\.gz")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


def contents(target: Path) -> dict[str, bytes]:
    found = {}
    for name in files_in(target):
        match = STAMPED.fullmatch(name)
        assert match is not None, name
        found[match[1]] = gzip.decompress((target / name).read_bytes())
    return found


def flow_run_of(api: httpx.Client, run_id: str) -> Any:
    ((flow_run,),) = query(catalog_url(), f"SELECT flow_run FROM run WHERE run_id = '{run_id}'")
    return api.get(f"/flow_runs/{flow_run}").json()


def task_runs(api: httpx.Client, flow_run: str) -> list[str]:
    wanted = {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}
    return sorted(run["name"] for run in api.post("/task_runs/filter", json=wanted).json())


def test_a_round_is_told_and_recorded_and_an_idle_one_costs_little(
    source: Path, target: Path, run_command: Commands, prefect_api: httpx.Client
) -> None:
    for name, content in {"a.csv": b"first", "sub/b.csv": b"second", "c.csv": b"first"}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    done = run_command("inbox", source, target, *AT_ONCE, "--json")
    assert done.rc == 0, done
    told = done.json
    assert (told["status"], told["files"]["done"], told["files"]["duplicates"]) == ("success", 2, 1)
    assert told["files"]["total"] == 3
    assert contents(target) == {"a.csv": b"first", "sub/b.csv": b"second"}
    assert files_in(source) == []
    assert {(one["path"], one["status"]) for one in told["results"]} == {
        ("a.csv", "done"), ("sub/b.csv", "done"), ("c.csv", "duplicate"),
    }  # fmt: skip
    flow_run = flow_run_of(prefect_api, told["run_id"])
    assert (flow_run["state_name"], flow_run["state_type"]) == ("Completed", "COMPLETED")
    artifacts = prefect_api.post(
        "/artifacts/filter", json={"artifacts": {"key": {"any_": ["inbox-report"]}}}
    ).json()
    assert "2 files stored, 1 duplicate" in artifacts[0]["data"]
    idle = run_command("inbox", source, target, "--json")
    assert (idle.rc, idle.json["status"]) == (0, "unchanged"), idle
    flow_run = flow_run_of(prefect_api, idle.json["run_id"])
    assert flow_run["state_name"] == "Unchanged"
    # They are recorded a moment later.
    expected = ["record-metadata", "scan-inbox"]
    wait_for(lambda: task_runs(prefect_api, flow_run["id"]) == expected)


def test_many_files_cost_few_task_runs(
    source: Path, target: Path, run_command: Commands, prefect_api: httpx.Client
) -> None:
    for number in range(3000):
        (source / f"{number}").write_bytes(b"%d" % number)
    done = run_command("inbox", source, target, *AT_ONCE, "-w", "2", "--json")
    assert (done.rc, done.json["files"]["done"]) == (0, 3000), done
    assert len(files_in(target)) == 3000
    flow_run = flow_run_of(prefect_api, done.json["run_id"])
    assert len(task_runs(prefect_api, flow_run["id"])) <= 2 * 4 + 4


def test_names_from_a_configuration_file_are_no_options(
    tmp_path: Path, run_command: Commands
) -> None:
    """(case 13)"""
    source, target = tmp_path / "-p in", tmp_path / "--to here"
    source.mkdir()
    (source / "-rf *").write_bytes(b"first")
    config = {"source": "-p in", "destination": "--to here", "settle": "0s"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run_command("inbox", "--config", "config.json", cwd=tmp_path)
    assert done.rc == 0, done
    assert contents(target) == {"-rf *": b"first"}
    (source / "again").write_bytes(b"second")
    done = run_command("inbox", *AT_ONCE, "--", "-p in", "--to here", cwd=tmp_path)
    assert done.rc == 0, done
    assert contents(target) == {"-rf *": b"first", "again": b"second"}


def test_it_ends_as_the_other_commands_do(
    source: Path, target: Path, run_command: Commands, tmp_path: Path
) -> None:
    (source / "a").write_bytes(b"x")
    for words, code in (
        ([source], 2),
        ([source, target, "third"], 2),
        ([source, source / "sub"], 2),
        ([source, target, "--every", "5s"], 2),
        ([source, target, "--settle", "soon"], 2),
        ([tmp_path / "missing", target], 10),
        ([source, "s4://bucket"], 2),
    ):
        done = run_command("inbox", *words)
        assert done.rc == code, done
        assert done.stderr.startswith("pybak: "), done
    dry = run_command("inbox", source, target, *AT_ONCE, "--dry-run")
    assert (dry.rc, "would take 1 file" in dry.stdout) == (0, True), dry
    with job_lock(f"inbox {os.path.realpath(source)}"):
        done = run_command("inbox", source, target, "--json")
        assert (done.rc, done.json["status"]) == (11, "cancelled"), done
    broken = {"PYBAK_CATALOG_URL": f"sqlite:///{source}"}
    done = run_command("inbox", source, target, *AT_ONCE, env=broken)
    assert (done.rc, done.stderr.count("\n")) == (1, 1), done
    lockless = tmp_path / "home"
    lockless.mkdir()
    (lockless / "locks").write_bytes(b"where the folder of locks should be")
    done = run_command("inbox", source, target, *AT_ONCE, env={"PYBAK_HOME": str(lockless)})
    assert (done.rc, "nothing was taken" in done.stderr) == (1, True), done
    assert (files_in(source), target.exists()) == (["a"], False)


@pytest.mark.needs_tool("7zz")
def test_a_password_encrypts_and_shows_nowhere(
    source: Path, target: Path, tmp_path: Path, run_command: Commands
) -> None:
    (source / "a").write_bytes(b"first")
    secret = "a very secret password"
    done = run_command("inbox", source, target, *AT_ONCE, "--json", env={"PYBAK_PASSWORD": secret})
    assert done.rc == 0, done
    (name,) = files_in(target)
    assert name.endswith(".gz.zip")
    subprocess.run(
        [tool("7zz"), "x", f"-p{secret}", f"-o{tmp_path / 'box'}", target / name], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (inner,) = files_in(tmp_path / "box")
    assert inner == name.removesuffix(".zip")
    assert gzip.decompress((tmp_path / "box" / inner).read_bytes()) == b"first"
    assert secret not in done.stdout + done.stderr
    assert secret not in str(query(catalog_url(), "SELECT * FROM run"))


def lines_of_the_migration_page() -> list[str]:
    text = (PROJECT / "docs" / "migration.md").read_text()
    return [line for line in text.splitlines() if line.startswith("python flows/inbox.py")]


@pytest.mark.parametrize("line", lines_of_the_migration_page())
def test_each_line_of_the_migration_page_empties_an_inbox(
    line: str, tmp_path: Path, run_command: Commands
) -> None:
    (tmp_path / "letters").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "letters" / name).write_bytes(b"Dear Ada")
    done = run_command("inbox", *shlex.split(line)[2:], "--json", cwd=tmp_path)
    assert (done.rc, done.json["files"]["done"], done.json["files"]["duplicates"]) == (0, 1, 1)
    (name,) = files_in(tmp_path / "backups")
    assert name.endswith(".gz.zip" if "-p" in line.split() else ".gz")
    left = ["a.txt", "b.txt"] if "--keep" in line else []
    assert files_in(tmp_path / "letters") == left
    for folder in ("stick", "same"):
        assert len(files_in(tmp_path / folder)) == (folder in line)


def test_watching_takes_what_comes_until_it_is_stopped(
    source: Path, target: Path, run_command: Commands
) -> None:
    """Also in the middle of a round."""
    many = {f"many {number:04d}": b"%d" % number for number in range(2000)}
    words = (source, target, *AT_ONCE, "--watch", "--every", "1s")
    with run_command.running("inbox", *words) as process:
        for name in ("a", "b"):
            (source / name).write_bytes(name.encode())
            wait_for(lambda: files_in(source) == [])
        for name, content in many.items():
            (source / name).write_bytes(content)
        wait_for(lambda: any(target.glob("many *")))
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    left = {name: (source / name).read_bytes() for name in files_in(source)}
    assert contents(target) | left == {"a": b"a", "b": b"b", **many}
    assert contents(target).keys().isdisjoint(left)
    lines = stdout.splitlines()
    assert sum("Inbox complete: 1 file stored" in line for line in lines) == 2, stdout


def test_a_command_that_is_killed_is_settled_by_the_next(
    source: Path, target: Path, run_command: Commands
) -> None:
    """(case 93)"""
    given = {f"{number:04d}": os.urandom(20_000) for number in range(400)}
    for name, content in given.items():
        (source / name).write_bytes(content)
    with run_command.running("inbox", source, target, *AT_ONCE, "--level", "9") as process:
        wait_for(lambda: target.exists() and any(target.iterdir()))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    done = run_command("inbox", source, target, *AT_ONCE, "--json")
    assert done.rc == 0, done
    assert files_in(source) == []
    assert contents(target) == given
