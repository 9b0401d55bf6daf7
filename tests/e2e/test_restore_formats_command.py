"""`flows/restore.py` and `flows/verify.py` on tar, volumes and encrypted archives."""

from __future__ import annotations

from pathlib import Path

import pytest
from backing_up import noise, snapshot
from commands import Commands

SECRET = {"PYBAK_PASSWORD": "zo0-Quagga.Fjord"}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"alpha\n")
    (folder / "b.bin").write_bytes(noise(300_000))
    (folder / "sub/same.bin").hardlink_to(folder / "b.bin")
    return folder


def test_encrypted_volumes_come_back_from_any_one_of_them(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    """And with a wrong password nothing is written, nothing vouched for (cases 61, 63)."""
    output = tmp_path / "x.tar.zst"
    made = run_command("backup", docs, "-o", output, "--split", "100kB", "--json", env=SECRET)
    assert made.rc == 0, made
    target = tmp_path / "target"
    volume = tmp_path / "x.tar.zst.002.zip"
    for env in ({"PYBAK_PASSWORD": "another one"}, {}):
        for words in (("restore", volume, "--to", target), ("verify", output)):
            done = run_command(*words, env=env)
            assert done.rc == 12, done
            assert done.stderr.count("\n") == 1, done
    assert not target.exists()
    done = run_command("restore", volume, "--to", target, "--json", env=SECRET)
    assert done.rc == 0, done
    assert done.json["files"] == {"total": 3, "restored": 3, "skipped": 0, "failed": 0}
    assert done.json["archive"] == str(output)
    assert snapshot(target / "docs") == snapshot(docs)
    assert (target / "docs/b.bin").stat().st_nlink == 2
    done = run_command("verify", tmp_path / "x.tar.zst.001.zip", "--json", env=SECRET)
    assert done.rc == 0, done
    (verdict,) = done.json["archives"]
    assert (verdict["status"], verdict["members"], verdict["checked"]) == ("success", 5, 5)
    data = bytearray(volume.read_bytes())
    data[5000] ^= 1
    volume.write_bytes(data)
    done = run_command("restore", output, "--to", tmp_path / "again", env=SECRET)
    assert done.rc == 1, done
    assert "x.tar.zst.002.zip" in done.stderr
    assert not (tmp_path / "again").exists()


def test_what_is_not_in_the_archive_goes_when_asked(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    """A dry run only counts (cases 85, 86)."""
    archive, target = tmp_path / "x.tar.gz", tmp_path / "target"
    assert run_command("backup", docs, "-o", archive).rc == 0
    (target / "docs/old").mkdir(parents=True)
    (target / "mine").touch()
    words = ("restore", archive, "--to", target, "--delete", "--json")
    done = run_command(*words, "--dry-run")
    assert (done.rc, done.json["deleted"], done.json["files"]["restored"]) == (0, 1, 3), done
    assert [path.name for path in (target / "docs").iterdir()] == ["old"]
    done = run_command(*words)
    assert (done.rc, done.json["deleted"]) == (0, 1), done
    assert snapshot(target / "docs") == snapshot(docs)
    assert (target / "mine").exists()


def test_samples_go_round(run_command: Commands, docs: Path, tmp_path: Path) -> None:
    """The next part each time (case 70)."""
    archive = tmp_path / "x.tar"
    assert run_command("backup", docs, "-o", archive).rc == 0
    parts = []
    for _ in range(3):
        done = run_command("verify", archive, "--sample", "50%", "--json")
        assert done.rc == 0, done
        parts.append(done.json["archives"][0]["sample"])
    assert [part["slice"] for part in parts] == [0, 1, 0]
    done = run_command("verify", archive, "--sample", "0")
    assert done.rc == 2, done
    assert "--sample" in done.stderr
