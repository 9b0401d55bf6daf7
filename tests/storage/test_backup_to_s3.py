"""Backups by the command into OpenStack Swift, over its S3 protocol."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from backing_up import judge, noise, prose, snapshot, unpack
from commands import Commands
from s3_servers import S3Server
from waiting import wait_for

pytestmark = pytest.mark.needs_component("swift")
BIG = 40 << 20


@pytest.fixture
def src(tmp_path: Path) -> Path:
    src = tmp_path / "src"
    src.mkdir()
    (src / "big").write_bytes(noise(1 << 20) * (BIG >> 20))
    for number in range(60):
        (src / f"f{number:02d}").write_bytes(noise(800_000, number))
    (src / "text").write_bytes(prose(100_000))
    return src


class Bucket:
    """What lies in the folder of an address."""

    def __init__(self, server: S3Server, address: str) -> None:
        self.name, _, self.prefix = address.removeprefix("s3://").partition("/")
        self.client = server.client()

    def sizes(self) -> dict[str, int]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {one["Key"].removeprefix(f"{self.prefix}/"): one["Size"] for one in found}

    def uploads(self) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))

    def lists(self, files: int, uploads: int = 0) -> list[str]:
        """Wait until so many are listed, for a busy Swift lists late; give the files' names."""
        wait_for(
            lambda: (len(self.sizes()), len(self.uploads())) == (files, uploads), 30,
            told=lambda: (self.sizes(), self.uploads()), every=0.5,
        )  # fmt: skip
        return sorted(self.sizes())

    def fetch(self, name: str, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        self.client.download_file(self.name, f"{self.prefix}/{name}", str(folder / name))
        return folder / name


@pytest.mark.parametrize(
    "cluster", ["auto", pytest.param("threads", marks=pytest.mark.full), "processes"]
)
def test_an_archive_arrives_whole(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands,
    cluster: str,
) -> None:  # fmt: skip
    """By whatever workers; the report tells where, and nothing stays here."""
    home = tmp_path / "home"
    report = run_command(
        "backup", src, "--to", s3_address, "--job", "docs", "--json", "--cluster", cluster,
        "--workers", "2", env={"PYBAK_HOME": str(home)},
    ).json  # fmt: skip
    bucket = Bucket(swift, s3_address)
    (name,) = bucket.lists(1)
    size = bucket.sizes()[name]
    assert report["archive"] == f"{s3_address}/{name}"
    (volume,) = report["volumes"]
    assert (volume["uri"], volume["size"]) == (report["archive"], size)
    assert sum(part["size"] for part in volume["parts"]) == size
    archive = bucket.fetch(name, tmp_path / "got")
    judge(archive, ["unzip", "7zz"])
    assert snapshot(unpack(archive, tmp_path / "out") / "src") == snapshot(src)
    assert not (home / "staging").exists()
    assert os.listdir(home / "uploads") == []


def test_volumes_with_checksum_files_arrive(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands
) -> None:
    report = run_command(
        "backup", src, "-o", f"{s3_address}/set.tar.zst", "--split", "30MB", "--checksum",
        "sha256", "--json", "--staging", tmp_path / "work", "--staging-limit", "100MB",
    ).json  # fmt: skip
    bucket = Bucket(swift, s3_address)
    assert len(report["volumes"]) == 2
    for name in bucket.lists(3):
        bucket.fetch(name, tmp_path / "got")
    assert os.system(f"cd {tmp_path}/got && sha256sum -c --quiet set.tar.zst.sha256") == 0
    whole = tmp_path / "set.tar.zst"
    os.system(f"cat {tmp_path}/got/set.tar.zst.0* > {whole}")
    judge(whole, ["tar", "decompressor"])
    assert not (tmp_path / "work").exists()


def test_a_killed_run_is_cleaned_up_by_the_next_one(
    src: Path, tmp_path: Path, swift: S3Server, s3_address: str, run_command: Commands
) -> None:
    """Killed in the middle of a part (case 64)."""
    bucket, env = Bucket(swift, s3_address), {"PYBAK_HOME": str(tmp_path / "home")}
    words = ("backup", src, "--to", s3_address, "--job", "docs")
    with run_command.running(*words, "--bandwidth-limit", "3MB", env=env) as process:
        wait_for(bucket.uploads, every=0.2)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert bucket.lists(0, 1) == []
    assert len(os.listdir(tmp_path / "home/uploads")) == 1
    report = run_command(*words, "--json", env=env).json
    assert [f"{s3_address}/{name}" for name in bucket.lists(1)] == [report["archive"]]
    assert os.listdir(tmp_path / "home/uploads") == []
    staging = tmp_path / "home/staging"
    assert not staging.exists() or os.listdir(staging) == []


def test_wrong_credentials_fail_at_once(
    src: Path, tmp_path: Path, s3_address: str, run_command: Commands
) -> None:
    """(case 61)"""
    done = run_command(
        "backup", src, "--to", s3_address, env={"AWS_SECRET_ACCESS_KEY": "wrong"}, timeout=60
    )
    assert done.rc == 1
    assert "s3://" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
