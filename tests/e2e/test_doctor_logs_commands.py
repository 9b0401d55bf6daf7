"""`pybak logs` and `pybak doctor` beside runs by hand."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PROJECT, Commands


def pybak(*words: str, environ: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pybak", *words], cwd=cwd,
        env={**environ, "PYTHONPATH": str(PROJECT)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("one\n")
    return folder


def test_the_log_of_a_run_on_a_server_names_run_job_archive_and_failed_files(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    (docs / "secret\x1b[2J.txt").write_text("x")
    (docs / "secret\x1b[2J.txt").chmod(0)
    log = tmp_path / "logs" / "pybak.log"
    done = run_command(
        "backup", docs, "--to", "out", "--job", "letters", "--log-file", log, "--json",
        powerless=True,
    )  # fmt: skip
    assert done.rc == 3, done
    run_id, archive = done.json["run_id"], done.json["archive"]
    shown = pybak("logs", run_id[:8], environ=run_command.environment(), cwd=tmp_path)
    assert shown.returncode == 0, shown
    assert f"run {run_id} of job letters" in shown.stdout
    assert f"archive {archive}" in shown.stdout
    assert 'WARNING  "docs/secret\\x1b[2J.txt"' in shown.stdout or "secret\\x1b[2J.txt" in next(
        line for line in shown.stdout.splitlines() if "WARNING" in line
    )
    assert "\x1b" not in shown.stdout
    latest = pybak("logs", "latest", environ=run_command.environment(), cwd=tmp_path)
    assert latest.stdout == shown.stdout
    lines = log.read_text().splitlines()
    assert lines[0].endswith(f"INFO  run {run_id} of job letters")
    assert any("WARNING" in line and "secret" in line for line in lines)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_the_log_of_a_run_that_brought_its_own_server_is_kept_too(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    environ = run_command.environment({"PREFECT_HOME": str(tmp_path / "prefect")}, server=False)
    done = run_command(
        "backup", docs, "--to", "out", "--job", "letters", "--quiet", server=False, env=environ
    )
    assert done.rc == 0, done
    shown = pybak("logs", "--json", environ=environ, cwd=tmp_path)
    assert shown.returncode == 0, shown
    parsed = json.loads(shown.stdout)
    assert parsed["source"] == str(tmp_path / "prefect" / "prefect.db")
    assert parsed["run"]["job"] == "letters"
    assert any("of job letters" in line["text"] for line in parsed["lines"])
    # Without a server that is no problem, either.
    looked = pybak("doctor", environ=environ, cwd=tmp_path)
    assert looked.returncode == 0, looked.stdout
    assert "no Prefect server" in looked.stdout
    assert "letters: last good backup" in looked.stdout
    assert os.listdir(tmp_path / "out")
