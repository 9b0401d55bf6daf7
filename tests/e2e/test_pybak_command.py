"""`pybak list` and `pybak find` on backups that were just made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backing_up import noise, prose
from commands import PROJECT, Commands

FORMATS = ["zip", "tar", "tar.zst"]


class World:
    """Backups of one folder."""

    def __init__(self, place: Path, server: str) -> None:
        self.place = place
        self.environ = {**os.environ, "PYBAK_HOME": str(place / "home"), "PYTHONPATH": str(PROJECT)}
        docs = place / "docs"
        (docs / "sub").mkdir(parents=True)
        (docs / "a.txt").write_bytes(prose(100_000))
        (docs / "sub" / "b.bin").write_bytes(noise(200_000))
        (docs / "link").symlink_to("a.txt")
        command = Commands(place, lambda: server)
        for number, format_ in enumerate(FORMATS):
            done = command(
                "backup", docs, "-o", f"x{number}.{format_}", "--job", format_, "--quiet",
                env={"PYBAK_HOME": self.environ["PYBAK_HOME"]},
            )  # fmt: skip
            assert done.rc == 0, done
        done = command(
            "backup", docs, "-o", "cut.tar.zst", "--split", "64KiB", "-l", "1", "--job", "cut",
            "--json", env={"PYBAK_HOME": self.environ["PYBAK_HOME"]},
        )  # fmt: skip
        assert done.rc == 0, done
        self.volumes = [volume["uri"] for volume in done.json["volumes"]]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pybak", *words], cwd=self.place, env=self.environ,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def parsed(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    return World(tmp_path_factory.mktemp("looked-at"), prefect_server)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_lists_the_same(world: World, format_: str) -> None:
    shown = world.parsed("list", f"x{FORMATS.index(format_)}.{format_}")
    assert (shown["format"], shown["encrypted"]) == (format_, False)
    members = {member["path"]: member for member in shown["members"]}
    assert set(members) == {"docs", "docs/a.txt", "docs/link", "docs/sub", "docs/sub/b.bin"}
    data = (world.place / "docs/a.txt").read_bytes()
    assert members["docs/a.txt"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert members["docs/a.txt"]["size"] == len(data)
    assert members["docs/link"]["link"] == "a.txt"
    status = (world.place / "docs/a.txt").stat()
    assert members["docs/a.txt"]["mode"] == f"{status.st_mode & 0o7777:04o}"
    assert members["docs/a.txt"]["mtime"].endswith("Z")
    assert members["docs/a.txt"]["mtime"].split(".")[1].rstrip("Z") == (
        f"{status.st_mtime_ns % 10**9:09d}".rstrip("0")
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_people_see_a_ratio(world: World, format_: str) -> None:
    done = world.run("list", f"x{FORMATS.index(format_)}.{format_}", "a.txt")
    assert (done.returncode, done.stderr) == (0, "")
    ratio = float(done.stdout.splitlines()[1].split()[-2])
    assert (ratio == 1.0) if format_ == "tar" else (ratio > 1.2)


def test_runs_and_latest_are_known(world: World) -> None:
    by_job = world.parsed("list", "latest", "--job", "tar")
    assert by_job["format"] == "tar"
    done = world.run("list", "latest")
    assert done.returncode == 2
    assert "tar" in done.stderr


def test_volumes_are_listed_by_any_name(world: World, tmp_path: Path) -> None:
    """(case 61)"""
    assert len(world.volumes) > 2
    whole = world.parsed("list", "cut.tar.zst")["members"]
    assert len(whole) == 5
    for name in (world.volumes[-1], world.volumes[0], "cut.tar.zst.002"):
        assert world.parsed("list", name)["members"] == whole
    folder = tmp_path / "only"
    folder.mkdir()
    for volume in world.volumes:
        path = Path(volume.removeprefix("file://"))
        shutil.copy(path, folder / path.name)
    assert world.parsed("list", str(folder))["members"] == whole
    assert world.parsed("list", "latest", "--job", "cut")["members"] == whole


def to_stdout(world: World, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run `restore.py --stdout` without any Prefect server."""
    return subprocess.run(
        [sys.executable, PROJECT / "flows/restore.py", *words, "--stdout"], cwd=world.place,
        env=world.environ, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("archive", ["x0.zip", "x1.tar", "cut.tar.zst.002"])
def test_one_file_goes_to_stdout(world: World, archive: str) -> None:
    done = to_stdout(world, archive, "--include", "/docs/sub/b.bin")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == (world.place / "docs/sub/b.bin").read_bytes()


def test_what_is_not_one_file_does_not_go_to_stdout(world: World) -> None:
    """An include that matches nothing gives 3 (case 89)."""
    for include, code in (("/docs/", 2), ("no-such", 3)):
        done = to_stdout(world, "x0.zip", "--include", include)
        assert (done.returncode, done.stdout) == (code, b""), done
        assert done.stderr.count(b"\n") == 1


def test_a_reader_of_stdout_that_leaves_is_no_trouble(world: World) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, PROJECT / "flows/restore.py", "x1.tar", "--stdout", "--include", "b.bin"],
        cwd=world.place, env=world.environ, stdout=writer, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == b""


def test_find_knows_all_backups(world: World) -> None:
    shown = world.parsed("find", "b.bin")
    names = [os.path.basename(one["archive"]) for one in shown["archives"]]
    assert names[1:] == [f"x{n}.{FORMATS[n]}" for n in range(len(FORMATS) - 1, -1, -1)]
    assert shown["total"]["members"] == len(FORMATS) + 1
    assert world.parsed("find", "b.bin", "--job", "zip")["total"]["archives"] == 1
