"""Other formats, passwords and volumes by the command, in clusters, on odd and full places."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from backing_up import judge, noise, prose, run_tool, snapshot, unpack, unwrapped
from commands import Commands

PASSWORD = "quite a long pass phrase"
MB = 1_000_000


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give small files, a hard link, a FIFO, and a large file of three parts."""
    folder = tmp_path_factory.mktemp("src") / "src"
    folder.mkdir()
    for number in range(50):
        (folder / f"f{number:03d}").write_bytes(prose(2000 + number, number))
    os.link(folder / "f001", folder / "g001")
    (folder / "link").symlink_to("f001")
    os.mkfifo(folder / "fifo")
    text = prose(50_000)
    with (folder / "large").open("wb") as file:
        for number in range(80):
            file.write(text + noise(950_000, number))
    return folder


def volumes(done: Any) -> list[Path]:
    return [
        Path(os.fsdecode(unquote_to_bytes(urlsplit(volume["uri"]).path)))
        for volume in done.json["volumes"]
    ]


def joined(paths: list[Path], target: Path, password: str | None = None) -> Path:
    with target.open("wb") as out:
        for path in paths:
            if password is not None:
                out.write(unwrapped(path, password.encode())[1])
            else:
                out.write(path.read_bytes())
    return target


def task_runs(api: Any, output: Path) -> list[str]:
    runs = api.post("/flow_runs/filter", json={"limit": 200}).json()
    (run,) = [run for run in runs if run["parameters"].get("output") == str(output)]
    query = {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}
    return sorted(one["name"] for one in api.post("/task_runs/filter", json=query).json())


def same_tree(src: Path, archive: Path, target: Path) -> None:
    wanted = {b"src/" + path: what for path, what in snapshot(src).items()}
    found = snapshot(unpack(archive, target, "tar"))
    found.pop(b"src")
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.tar", "tar"), ("a.tgz", "tar.gz"), ("a.tar.bz2", "tar.bz2"), ("a.TZST", "tar.zst")],
)
def test_the_output_s_ending_is_the_format(
    tmp_path: Path, run_command: Commands, name: str, kind: str
) -> None:
    """What tar keeps and zip does not is in it, and nothing is said to be lost."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "f").write_bytes(b"content")
    os.link(folder / "f", folder / "g")
    os.mkfifo(folder / "fifo")
    done = run_command("backup", "src", "-o", name, "--json")
    assert done.rc == 0, done
    assert (done.json["lost"], done.json["skipped"], done.json["files"]["new"]) == ({}, [], 3)
    listed = run_tool("tar", "-tvf", tmp_path / name)
    assert "src/g link to src/f" in listed or "src/f link to src/g" in listed
    assert done.json["format"] == kind


@pytest.mark.needs_tool("tar", "zstd", "sha256sum")
def test_encrypted_volumes_are_made_side_by_side(
    src: Path, tmp_path: Path, run_command: Commands, prefect_api: Any
) -> None:
    """By worker processes, which get the password without anybody seeing it."""
    output = tmp_path / "out/a.tar.zst"
    done = run_command(
        "backup", src, "-o", output, "--split", "10MB", "--checksum", "sha256", "--checksum",
        "md5", "--cluster", "processes", "-w", "2", "--json", env={"PYBAK_PASSWORD": PASSWORD},
    )  # fmt: skip
    assert done.rc == 0, done
    paths = volumes(done)
    assert len(paths) >= 6
    assert all(path.stat().st_size <= 10 * MB for path in paths)
    sums = [Path(path) for path in done.json["checksum_files"]]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(path.name for path in paths + sums)
    for path in sums:
        subprocess.run(
            [f"{path.suffix[1:]}sum", "--strict", "-c", path.name], cwd=path.parent, check=True,
            capture_output=True,
        )  # fmt: skip
    whole = joined(paths, tmp_path / "whole.tar.zst", PASSWORD)
    judge(whole)
    same_tree(src, whole, tmp_path / "u")
    names = task_runs(prefect_api, output)
    assert len([name for name in names if name.startswith("encrypt-")]) >= 2, names
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.needs_tool("tar")
@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_plain_volumes_are_made_side_by_side(
    src: Path, tmp_path: Path, run_command: Commands, prefect_api: Any, cluster: str
) -> None:
    output = tmp_path / "out/a.tar"
    done = run_command(
        "backup", src, "-o", output, "--split", "30MB", "--cluster", cluster, "-w", "2", "--json"
    )
    assert done.rc == 0, done
    paths = volumes(done)
    assert [path.name for path in paths] == ["a.tar.001", "a.tar.002", "a.tar.003"]
    assert sorted(os.listdir(tmp_path / "out")) == [path.name for path in paths]
    assert done.json["archive"] == str(output)
    same_tree(src, joined(paths, tmp_path / "whole.tar"), tmp_path / "u")
    names = task_runs(prefect_api, output)
    assert len([name for name in names if name.startswith("split-")]) >= 2, names


@pytest.mark.needs_tool("7zz")
def test_an_encrypted_zip_is_made_by_worker_processes(
    src: Path, tmp_path: Path, run_command: Commands
) -> None:
    """And what zip can't keep is told in the summary."""
    done = run_command(
        "backup", src, "-o", "a.zip", "--cluster", "processes", "-w", "2",
        env={"PYBAK_PASSWORD": PASSWORD},
    )  # fmt: skip
    assert done.rc == 0, done
    said = run_tool("7zz", "t", f"-p{PASSWORD}", tmp_path / "a.zip")
    assert "Everything is Ok" in said
    assert "hard links of 2 files, each stored as a copy" in " ".join(done.stdout.split())
    assert "AES-256" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.needs_root
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_places_and_files_whose_names_are_no_utf8_in_every_step(
    tmp_path: Path, run_command: Commands, password: str | None
) -> None:
    """Volumes in such a folder; and one such file fails, which is named (cases 3, 13, 53)."""
    top = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(top)
    for name in (b"good\xff", b"denied\xfe"):
        with open(top + b"/" + name, "wb") as file:
            file.write(noise(100_000))
    os.chmod(top + b"/denied\xfe", 0)
    os.chown(top + b"/denied\xfe", 1, 1)
    out = os.fsencode(tmp_path) + b"/d\xe9/\xfe.tar.gz"
    done = run_command(
        "backup", top, "-o", out, "--split", "64KiB", "--checksum", "sha256", "--json",
        powerless=True, env={"PYBAK_PASSWORD": password},
    )  # fmt: skip
    assert done.rc == 3, done
    assert [error["code"] for error in done.json["errors"]] == ["unreadable"]
    assert "denied" in done.json["errors"][0]["path"]
    folder = os.path.dirname(out)
    found = sorted(os.listdir(folder))
    end = b".zip" if password else b""
    assert found == [
        b"\xfe.tar.gz.001" + end, b"\xfe.tar.gz.002" + end, b"\xfe.tar.gz.sha256"
    ]  # fmt: skip
    subprocess.run([b"sha256sum", b"--strict", b"-c", found[-1]], cwd=folder, check=True)
    paths = [Path(os.fsdecode(folder + b"/" + name)) for name in found[:2]]
    whole = joined(paths, tmp_path / "whole.tar.gz", password)
    judge(whole, ["tar"])


def test_a_volume_that_is_there_is_refused_at_once(tmp_path: Path, run_command: Commands) -> None:
    """Also one that ours would come to much later."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"f")
    (tmp_path / "a.zip.007").write_bytes(b"theirs")
    before = snapshot(tmp_path)
    done = run_command("backup", "src", "-o", "a.zip", "--split", "1MB")
    assert done.rc == 1, done
    assert "a.zip.007: exists already" in done.stderr
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.needs_root
def test_volumes_that_do_not_fit_leave_nothing(
    tmp_path: Path, run_command: Commands, small_disk: Path
) -> None:
    """The archive is finished and its volumes are being written when the disk is full (case 96)."""
    (tmp_path / "src").mkdir()
    for number in range(12):
        (tmp_path / "src" / str(number)).write_bytes(noise(MB, number))
    done = run_command(
        "backup", "src", "--to", small_disk, "--staging", tmp_path / "staging", "-f", "tar",
        "--split", "1MB", "--json",
    )  # fmt: skip
    assert done.rc == 1, done
    assert f"{small_disk}: no space left on the disk" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.json["status"] == "failed"
    assert list(small_disk.iterdir()) == []
    assert not (tmp_path / "staging").exists()
