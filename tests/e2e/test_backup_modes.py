"""Backups that save what changed, through the command: what it says, and what Prefect sees."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import Commands

from pybak.options import BackupOptions

INCREMENTAL = ("--job", "docs", "--mode", "incremental", "--json")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "old").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "old/c.txt"):
        (folder / name).write_text(f"{name}\n" * 50)
    return folder


def newest_run(api: httpx.Client) -> dict[str, Any]:
    """Give the flow run that began last."""
    runs = api.post("/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
    return dict(runs[0])


def task_names(api: httpx.Client, flow_run_id: str) -> list[str]:
    query = {"task_runs": {"flow_run_id": {"any_": [flow_run_id]}}, "limit": 200}
    found: list[str] = []
    for _ in range(8):  # task runs are written by an event queue
        time.sleep(0.25)
        found = sorted(one["name"] for one in api.post("/task_runs/filter", json=query).json())
    return found


def test_a_chain_of_runs_saves_what_changed(
    run_command: Commands, docs: Path, tmp_path: Path, prefect_api: httpx.Client
) -> None:
    """Nothing new costs four called tasks and no archive (case 110)."""
    to = tmp_path / "to"
    words = (docs, "--to", to, *INCREMENTAL)
    first = run_command("backup", *words).json
    assert (first["mode"], first["files"]["new"]) == ("full", 3)
    assert first["full_because"] == ["the first run of this job"]

    again = run_command("backup", *words)
    assert again.rc == 0
    assert (again.json["status"], again.json["archive"], again.json["volumes"]) == (
        "unchanged", None, [],
    )  # fmt: skip
    assert again.json["files"]["unchanged"] == again.json["files"]["total"] == 3
    assert len(os.listdir(to)) == 1
    run = newest_run(prefect_api)
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Unchanged")
    assert task_names(prefect_api, run["id"]) == [
        "discover", "filter", "plan", "record-metadata",
    ]  # fmt: skip

    (docs / "a.txt").write_text("other\n")
    (docs / "d.txt").write_text("new\n")
    (docs / "b.txt").unlink()
    plan = run_command("backup", *words, "--dry-run").json
    assert plan["dry_run"]
    assert (plan["mode"], plan["base_run"], plan["gone"]) == ("incremental", first["run_id"], 1)
    done = run_command("backup", *words)
    assert done.json["status"] == "success", done
    counts = {"total": 3, "new": 1, "changed": 1, "unchanged": 1, "failed": 0}
    for told in (plan, done.json):
        assert counts.items() <= told["files"].items()
    assert done.json["gone"] == 1
    assert done.json["base_run"] == first["run_id"]

    restored = run_command("restore", "latest", "--job", "docs", "--to", tmp_path / "back")
    assert restored.rc == 0, restored
    names = sorted(path.name for path in (tmp_path / "back" / "docs").iterdir())
    assert names == ["a.txt", "d.txt", "old"]
    assert (tmp_path / "back" / "docs" / "a.txt").read_text() == "other\n"
    assert (tmp_path / "back" / "docs" / "old" / "c.txt").exists()


def test_an_archive_that_was_taken_away_makes_a_full_run_that_says_so(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    """(case 76)"""
    to = tmp_path / "to"
    words = (docs, "--to", to, *INCREMENTAL)
    first = run_command("backup", *words).json
    Path(first["archive"]).unlink()
    done = run_command("backup", *words)
    assert done.rc == 3
    assert (done.json["status"], done.json["mode"]) == ("partial", "full")
    assert [(one["path"], one["code"]) for one in done.json["errors"]] == [
        (first["archive"], "storage")
    ]
    assert (done.json["files"]["new"], done.json["files"]["failed"]) == (3, 0)


def test_the_form_in_the_prefect_ui_offers_the_modes() -> None:
    schema = BackupOptions.model_json_schema()["properties"]
    assert schema["mode"]["enum"] == ["full", "incremental", "differential"]
    for name in ("full_every", "ignore_ctime", "checksum_compare", "allow_empty", "tag", "wait"):
        assert schema[name]["title"]


def test_moved_files_are_stored_once_and_come_back(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    words = (docs, "--to", tmp_path / "to", *INCREMENTAL)
    run_command("backup", *words)
    (docs / "old").rename(docs / "moved")
    done = run_command("backup", *words, "--dedupe").json
    assert (done["status"], done["files"]["new"]) == ("success", 1)
    assert (done["duplicates"], done["duplicate_bytes"]) == (1, 50 * len("old/c.txt\n"))
    restored = run_command("restore", "latest", "--job", "docs", "--to", tmp_path / "back")
    assert restored.rc == 0
    assert (tmp_path / "back" / "docs" / "moved" / "c.txt").read_text() == "old/c.txt\n" * 50
    assert not (tmp_path / "back" / "docs" / "old").exists()
    alone = run_command("restore", done["archive"], "--to", tmp_path / "alone", "--json")
    assert alone.rc == 3
    assert "as docs/old/c.txt" in alone.json["errors"][0]["message"]
