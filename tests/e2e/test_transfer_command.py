"""`python flows/transfer.py`: what it prints, how it ends, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from backing_up import prose
from catalogs import query
from commands import Commands

from pybak.catalog.locks import archives_lock
from pybak.home import catalog_url


@pytest.fixture
def archive(tmp_path: Path, run_command: Commands) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_bytes(prose(50_000))
    done = run_command("backup", "docs", "--to", "to", "--job", "docs", "--json")
    assert done.rc == 0, done
    return Path(done.json["archive"])


def test_a_copy_is_told_and_recorded(
    archive: Path, tmp_path: Path, run_command: Commands, prefect_api: httpx.Client
) -> None:
    second = tmp_path / "second place"
    done = run_command("transfer", "latest", "--job", "docs", "--to", "second place", "--dry-run")
    assert done.rc == 0, done
    assert "dry run: would copy 1 archive" in done.stdout
    assert not second.exists()
    done = run_command("transfer", archive, "--to", "second place", "--json")
    assert done.rc == 0, done
    told = done.json
    assert (told["status"], told["moves"], told["to"]) == ("success", False, str(second))
    (one,) = told["archives"]
    assert (one["archive"], one["to"]) == (str(archive), str(second / archive.name))
    assert (one["status"], one["job"], one["bytes_sent"]) == (
        "copied", "docs", archive.stat().st_size,
    )  # fmt: skip
    assert (second / archive.name).read_bytes() == archive.read_bytes()
    rows = query(catalog_url(), "SELECT run_id, status FROM run WHERE kind = 'transfer'")
    assert rows == [(told["run_id"], "success")]
    runs = prefect_api.post(
        "/flow_runs/filter", json={"flows": {"name": {"any_": ["transfer"]}}}
    ).json()
    assert [run["state_name"] for run in runs] == ["Completed"]
    artifacts = prefect_api.post(
        "/artifacts/filter", json={"artifacts": {"key": {"any_": ["transfer-report"]}}}
    ).json()
    assert "1 archive copied" in artifacts[0]["data"]
    archive.unlink()
    assert run_command("verify", "latest", "--job", "docs").rc == 0
    assert run_command("restore", "latest", "--to", "out").rc == 0
    assert (tmp_path / "out" / "docs" / "a").read_bytes() == prose(50_000)


def test_it_ends_as_the_other_commands_do(
    archive: Path, tmp_path: Path, run_command: Commands
) -> None:
    for words, code in (
        (["--to", "x"], 2),
        ([archive], 2),
        ([tmp_path / "missing.zip", "--to", "x"], 10),
        (["--job", "unknown", "--to", "x"], 10),
        ([archive, "--to", "s3:"], 2),
    ):
        done = run_command("transfer", *words)
        assert done.rc == code, done
        assert done.stderr.startswith("pybak: "), done
    with archives_lock("docs", shared=True):
        done = run_command("transfer", archive, "--to", "x", "--move", "--json")
        assert (done.rc, done.json["status"]) == (11, "cancelled"), done
    assert archive.exists()
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    done = run_command("transfer", archive, "--to", "x", "--move", "--json")
    assert (done.rc, done.json["status"]) == (1, "failed"), done
    assert [error["code"] for error in done.json["errors"]] == ["damaged"]
    assert archive.exists()
    assert not list((tmp_path / "x").glob("*"))
