"""Odd places to back up from and to."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from backing_up import noise
from commands import Commands


@pytest.mark.needs_root
def test_a_full_destination_is_told_as_such_with_staging_elsewhere(
    run_command: Commands, tmp_path: Path, small_disk: Path
) -> None:
    """Exit 1 and the reason, not "stopped" (case 96)."""
    (tmp_path / "src").mkdir()
    for number in range(30):
        (tmp_path / "src" / str(number)).write_bytes(noise(1_000_000, number))
    done = run_command(
        "backup", tmp_path / "src", "--to", small_disk, "--staging", tmp_path / "staging"
    )
    assert done.rc == 1, done
    assert "no space left on the disk" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(small_disk.iterdir()) == []
    assert not (tmp_path / "staging").exists()


def test_paths_that_are_no_utf8_work_everywhere(run_command: Commands, tmp_path: Path) -> None:
    """Source, destination, job and target (cases 3, 13)."""
    source = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(source)
    with open(source + b"/a\xff", "wb") as file:
        file.write(b"content")
    done = run_command("backup", source, "--to", os.fsencode(tmp_path) + b"/d\xe9")
    assert done.rc == 0, done
    restored = run_command("restore", "latest", "--to", os.fsencode(tmp_path) + b"/r\xe9")
    assert restored.rc == 0, restored
    with open(os.fsencode(tmp_path) + b"/r\xe9/caf\xe9/a\xff", "rb") as file:
        assert file.read() == b"content"


def test_its_own_state_is_left_out_even_on_the_first_run(
    run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a").touch()
    env = {"PYBAK_HOME": str(tmp_path / "src/state")}
    done = run_command("backup", tmp_path / "src", "-o", tmp_path / "a.zip", env=env)
    assert done.rc == 0, done
    assert (tmp_path / "src/state/catalog.db").exists()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[:-1] == ["src/", "src/a"]


def test_a_catalog_that_can_not_be_used_is_a_warning(run_command: Commands, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    env = {"PYBAK_CATALOG_URL": "sqlite:////proc/no/such/catalog.db"}
    done = run_command("backup", tmp_path / "a", "-o", tmp_path / "a.zip", "--json", env=env)
    assert (done.rc, done.json["status"]) == (0, "success"), done
    assert done.stderr.startswith("pybak: warning: /proc/no/such/catalog.db: ")
    assert done.stderr.count("\n") == 1
