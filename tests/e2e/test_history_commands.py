"""Rebuilding the catalog and restore drills as people run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from backing_up import noise, prose
from commands import PROJECT, Commands


class World:
    """Two backups of one folder, and no catalog."""

    def __init__(self, place: Path, server: str) -> None:
        self.place = place
        self.home = place / "home"
        self.command = Commands(place, lambda: server)
        docs = place / "docs"
        (docs / "sub").mkdir(parents=True)
        (docs / "a.txt").write_bytes(prose(100_000))
        (docs / "sub" / "b.bin").write_bytes(noise(200_000))
        self.runs = [self.back_up()]
        (docs / "a.txt").write_bytes(prose(110_000, 2))
        (docs / "new").write_bytes(b"new")
        self.runs.append(self.back_up("--mode", "incremental"))

    def back_up(self, *words: str) -> Any:
        done = self.run("backup", "docs", "--to", "to", "--job", "docs", "--json", *words)
        assert done.rc == 0, done
        return done.json

    def run(self, name: str, *words: str | Path) -> Any:
        return self.command(name, *words, env={"PYBAK_HOME": str(self.home)})

    def look(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "pybak", *words, "--json"], cwd=self.place,
            env={**os.environ, "PYBAK_HOME": str(self.home), "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    def told(self) -> dict[str, Any]:
        """Give what the catalog tells, but for what no archive knows."""
        snapshots = self.look("snapshots")["snapshots"]
        for one in snapshots:
            one.pop("finished")
        words = (["versions", "docs/a.txt"], ["list", "latest"], ["find", "*"], ["find", "docs"])
        return {"snapshots": snapshots, **{" ".join(line): self.look(*line) for line in words}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    made = World(tmp_path_factory.mktemp("history"), prefect_server)
    before = made.told()
    shutil.rmtree(made.home)
    done = made.run("rebuild", "to", "--json")
    assert done.rc == 0, done
    report = done.json
    assert report["status"] == "success"
    assert [run["run_id"] for run in report["runs"]] == [run["run_id"] for run in made.runs]
    assert report["catalog"] == str(made.home / "catalog.db")
    assert made.told() == before
    return made


def test_a_lost_catalog_comes_back_and_shows_the_history(world: World) -> None:
    """(case 75)"""
    shown = world.look("snapshots")["snapshots"]
    assert [one["run_id"] for one in shown] == [run["run_id"] for run in world.runs]
    assert [one["archive"] for one in shown] == [run["archive"] for run in world.runs]
    (member,) = world.look("versions", "docs/a.txt")["members"]
    assert [one["size"] for one in member["versions"]] == [100_000, 110_000]
    changes = world.look("diff", world.runs[0]["run_id"])["changes"]
    assert {one["path"]: one["change"] for one in changes} == {
        "docs/a.txt": "changed", "docs/new": "added",
    }  # fmt: skip
    members = {one["path"] for one in world.look("list", "latest")["members"]}
    assert members == {"docs", "docs/a.txt", "docs/new", "docs/sub", "docs/sub/b.bin"}


def test_a_drill_passes_and_leaves_its_evidence(world: World, prefect_server: str) -> None:
    done = world.run("drill", "--job", "docs", "--json", "--sample", "100%")
    assert done.rc == 0, done
    assert done.json["files"] == {"total": 3, "sampled": 3, "good": 3, "failed": 0}
    assert done.json["run_id"] == world.runs[1]["run_id"]


def test_a_drill_on_damage_fails_loudly(world: World, tmp_path: Path, prefect_server: str) -> None:
    """(case 76)"""
    archive = Path(world.runs[0]["archive"])
    good = archive.read_bytes()
    data = bytearray(good)
    data[data.find(noise(200_000)[5000:5100])] ^= 1
    archive.write_bytes(data)
    try:
        done = world.run("drill", "--job", "docs", "--sample", "100%")
    finally:
        archive.write_bytes(good)
    assert done.rc == 1
    assert "Drill failed: 1 of 3 files did not come back as saved" in done.stdout
    assert "docs/sub/b.bin" in done.stdout
    with httpx.Client(base_url=prefect_server) as api:
        flows = api.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["drill"]}},
                                                    "sort": "START_TIME_DESC"})  # fmt: skip
        assert flows.json()[0]["state"]["type"] == "FAILED"


@pytest.mark.parametrize(
    ("words", "code"),
    [(["rebuild"], 2), (["rebuild", "docs"], 10), (["rebuild", "no such folder"], 10),
     (["drill", "--job", "unknown"], 10), (["drill", "--sample", "0"], 2)],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(world: World, words: list[str], code: int) -> None:
    before = (world.home / "catalog.db").read_bytes()
    done = world.run(*words)
    assert (done.rc, done.stdout) == (code, ""), done
    assert done.stderr.count("\n") == 1
    assert (world.home / "catalog.db").read_bytes() == before
    shown = json.loads(world.run(*words, "--json").stdout)
    assert shown["status"] == "failed"
