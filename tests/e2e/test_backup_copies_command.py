"""`--also-to` as people use it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from backing_up import noise, snapshot
from commands import Commands
from s3_servers import S3Server
from waiting import shared, wait_for


def test_an_archive_lies_in_two_folders_and_either_restores(
    run_command: Commands, tmp_path: Path
) -> None:
    src, second, third = tmp_path / "src", tmp_path / "b\udce9", tmp_path / "c"
    src.mkdir()
    (src / "large").write_bytes(noise(3_000_000))
    done = run_command(
        "backup", src, "--to", "a", "--also-to", second, "--also-to", "c", "--job", "docs", "--json"
    )
    assert (done.rc, done.json["status"], done.stderr) == (0, "success", ""), done
    (name,) = os.listdir(tmp_path / "a")
    assert os.listdir(second) == os.listdir(third) == [name]
    data = (tmp_path / "a" / name).read_bytes()
    assert (second / name).read_bytes() == (third / name).read_bytes() == data
    copies = done.json["copies"]
    assert [one["status"] for one in copies] == ["copied", "copied"]
    assert copies[1]["archive"] == f"{third}/{name}"
    assert copies[1]["volumes"][0]["sha256"] == done.json["volumes"][0]["sha256"]
    for number, folder in enumerate((tmp_path / "a", second)):
        os.unlink(folder / name)
        target = tmp_path / f"restored{number}"
        restored = run_command("restore", "latest", "--job", "docs", "--to", target)
        assert restored.rc == 0, restored
        assert snapshot(target / "src") == snapshot(src)


def test_a_place_that_comes_later_is_told_to_need_what_was_before(
    run_command: Commands, tmp_path: Path
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "first").write_text("first")
    job = ("--to", "a", "--job", "docs", "--mode", "incremental")
    assert run_command("backup", src, *job).rc == 0
    (src / "second").write_text("second")
    done = run_command("backup", src, *job, "--also-to", "b")
    command = f"python flows/transfer.py latest --job docs --to {tmp_path}/b"
    told = f"needs 1 earlier archive that is not there: {command}\n"
    assert (done.rc, done.stdout.count(told)) == (0, 1), done


@pytest.mark.needs_component("swift")
def test_a_missing_bucket_costs_its_copy_and_is_told_at_once(
    run_command: Commands, swift: S3Server, s3_address: str, tmp_path: Path
) -> None:
    src, second = tmp_path / "src", tmp_path / "b"
    src.mkdir()
    (src / "large").write_bytes(noise(7_000_000))
    wrong = "s3://no-such-bucket-here/x"
    done = run_command(
        "backup", src, "--to", "a", "--also-to", wrong, "--also-to", second, "--also-to",
        s3_address, "--job", "docs", "--json",
    )  # fmt: skip
    report = done.json
    assert (done.rc, report["status"]) == (3, "partial"), done
    assert done.stderr.startswith(f"pybak: warning: {wrong}"), done
    assert "goes on without this copy" in done.stderr
    (name,) = os.listdir(tmp_path / "a")
    assert os.listdir(second) == [name]
    assert [one["status"] for one in report["copies"]] == ["failed", "copied", "copied"]
    ((path, code, message),) = (tuple(one.values()) for one in report["errors"])
    assert (path, code) == (wrong, "storage")
    assert f"python flows/transfer.py --job docs --to {wrong}" in message
    client = swift.client()
    bucket, _, prefix = s3_address.removeprefix("s3://").partition("/")
    fetched = client.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
    assert fetched == (tmp_path / "a" / name).read_bytes()
    wait_for(lambda: not client.list_multipart_uploads(Bucket=bucket).get("Uploads"), 30)


@pytest.mark.needs_component("swift")
def test_a_run_that_is_interrupted_while_it_copies_keeps_its_archive(
    run_command: Commands, swift: S3Server, s3_address: str, tmp_path: Path
) -> None:
    """Within seconds, with nothing half-made anywhere (case 75)."""
    src, home = tmp_path / "src", tmp_path / "home"
    src.mkdir()
    (src / "large").write_bytes(noise(20_000_000))
    env = {"PYBAK_HOME": str(home)}
    words = ("backup", src, "--to", "a", "--also-to", s3_address, "--also-to", "b", "--job", "docs")
    with run_command.running(*words, "--json", "--bandwidth-limit", "1MB", env=env) as process:
        wait_for(lambda: list(home.glob("uploads/*-copy0.jsonl")))
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        took = time.monotonic() - asked
    assert process.returncode == 3, stderr
    assert took < shared(10), took
    report = json.loads(stdout)
    assert [one["status"] for one in report["copies"]] == ["cancelled", "copied"], report
    (name,) = os.listdir(tmp_path / "a")
    assert report["archive"] == str(tmp_path / "a" / name)
    client = swift.client()
    bucket = s3_address.removeprefix("s3://").partition("/")[0]
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []
    wait_for(lambda: not client.list_multipart_uploads(Bucket=bucket).get("Uploads"), 30)
    assert os.listdir(home / "uploads") == []
    listed = run_command("restore", "latest", "--job", "docs", "--to", "out", env=env)
    assert listed.rc == 0, listed


def test_a_place_that_is_none_is_refused(run_command: Commands, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    done = run_command("backup", "src", "--to", "a", "--also-to", "a/../a")
    assert done.rc == 2, done
    assert "--also-to" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a").exists()
