"""Archives moved by the command into OpenStack Swift and back, and a catalog made of them there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from backing_up import noise, snapshot
from commands import Commands
from s3_servers import S3Server

pytestmark = pytest.mark.needs_component("swift")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str | None]:
    return {"PYBAK_HOME": str(tmp_path / "home")}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    (src / "big").write_bytes(noise(1 << 20) * 40)
    for number in range(10):
        (src / f"f{number:02d}").write_bytes(noise(800_000, number))
    return src


def listed(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def objects(server: S3Server, address: str) -> dict[str, int]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    found = server.client().list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"].removeprefix(f"{prefix}/"): one["Size"] for one in found}


def restored(run: Commands, to: Path, *words: str, env: dict[str, str | None]) -> Any:
    done = run("restore", *words, "--to", to, env=env)
    assert done.rc == 0, done
    return snapshot(to / "src")


def test_a_job_moves_to_s3_and_back(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    home: dict[str, str | None],
) -> None:  # fmt: skip
    first = ("backup", src, "--to", tmp_path / "to", "--job", "docs", "--json", "--level", "1")
    assert run_command(*first, "--split", "20MB", "--checksum", "sha256", env=home).rc == 0
    (src / "f00").write_bytes(noise(700_000, 77))
    assert run_command(*first, "--mode", "incremental", env=home).rc == 0
    before = listed(tmp_path / "to")
    assert len(before) >= 5
    done = run_command(
        "transfer", "--job", "docs", "--to", s3_address, "--move", "--json", env=home
    )
    assert done.rc == 0, done
    assert [one["status"] for one in done.json["archives"]] == ["moved", "moved"]
    assert done.json["to"] == s3_address
    assert listed(tmp_path / "to") == {}
    assert objects(swift, s3_address) == {name: len(data) for name, data in before.items()}
    bucket = s3_address.removeprefix("s3://").partition("/")[0]
    assert not swift.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
    wanted = snapshot(src)
    latest = ("latest", "--job", "docs")
    assert restored(run_command, tmp_path / "r1", *latest, env=home) == wanted
    # The catalog is lost, and made anew from what lies there.
    (tmp_path / "home" / "catalog.db").rename(tmp_path / "home" / "lost.db")
    done = run_command("rebuild", s3_address, "--json", env=home)
    assert done.rc == 0, done
    assert [one["archive"].rpartition("/")[0] for one in done.json["runs"]] == [s3_address] * 2
    assert restored(run_command, tmp_path / "r2", *latest, env=home) == wanted
    # And back, by another folder, so that it has two places.
    done = run_command("transfer", *latest, "--to", tmp_path / "back", "--json", env=home)
    assert done.rc == 0, done
    assert [one["status"] for one in done.json["archives"]] == ["copied", "copied"]
    assert listed(tmp_path / "back") == before
    assert os.listdir(tmp_path / "home" / "uploads") == []
    for name in objects(swift, s3_address):
        key = f"{s3_address.removeprefix('s3://').partition('/')[2]}/{name}"
        swift.client().delete_object(Bucket=bucket, Key=key)
    assert restored(run_command, tmp_path / "r3", *latest, env=home) == wanted
