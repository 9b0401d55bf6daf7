"""Archives in a real S3 server restored, checked and listed: by commands, and over bad wires."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from backing_up import PASSWORD, back_up, snapshot
from commands import Commands
from faults import Fault, FaultProxy
from s3_servers import S3Server

from pybak.cli.program import pybak
from pybak.errors import StorageError
from pybak.problems import read_problems
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.plan import Wish, plan_restore
from pybak.restore.snapshot import whole
from pybak.storage import opening
from pybak.verify.check import plan_verify, verify_batch
from pybak.volumes.find import find_volumes

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = random.Random(7)
    top = tmp_path_factory.mktemp("from-s3") / "docs"
    top.mkdir()
    for number in range(12):
        (top / f"{number:02}.bin").write_bytes(chance.randbytes(MEGABYTE))
    (top / "ünï.txt").write_text("text\n" * 1000)
    return top


@pytest.fixture(autouse=True)
def _other_storages_each_time() -> None:
    opening._opened.clear()


def upload(swift: S3Server, address: str, files: Sequence[Path]) -> None:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    for file in files:
        swift.client().upload_file(str(file), bucket, f"{prefix}/{file.name}")


def restore(volumes: bytes, target: Path, work: Path) -> list[str]:
    """Restore; give what is bad."""
    made = plan_restore(
        [whole(find_volumes(volumes))], os.fsencode(target), Wish(), work_dir=work, tasks=4
    )
    found = [*made.problems, *make_folders(made).problems]
    for part in [*map(extract_batch, made.batches), finish(made)]:
        found += read_problems(part.problems_file) if part.problems_file else []
    return [f"{one.path} {one.message}" for one in found]


@pytest.mark.needs_component("swift")
def test_commands_take_addresses(
    swift: S3Server,
    s3_address: str,
    source: Path,
    tmp_path: Path,
    run_command: Commands,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Encrypted volumes, one of them named (case 59)."""
    done = back_up(source, to=tmp_path / "made", format="tar.zst", split="5MB", password=PASSWORD)
    upload(swift, s3_address, done.files)
    for file in done.files:
        file.unlink()
    assert len(done.files) == 3
    secret = {"PYBAK_PASSWORD": PASSWORD.decode()}
    archive = f"{s3_address}/{done.path.name}"

    restored = run_command(
        "restore", f"{archive}.002.zip", "--to", tmp_path / "to", "--json", env=secret
    )
    assert restored.json["status"] == "success", restored
    assert restored.json["archive"] == archive
    assert snapshot(tmp_path / "to" / "docs") == snapshot(source)

    checked = run_command("verify", archive, "--json", env=secret)
    assert checked.rc == 0, checked
    assert (
        checked.json["archives"][0] | {"archive": archive, "status": "success"}
        == (checked.json["archives"][0])
    )

    monkeypatch.setenv("PYBAK_PASSWORD", PASSWORD.decode())
    assert pybak(["list", f"{s3_address}/", "*.txt"]) == 0
    assert "docs/ünï.txt" in capsys.readouterr().out
    assert pybak(["find", "0?.bin", archive]) == 0
    assert "docs/07.bin" in capsys.readouterr().out
    assert pybak(["list", f"{s3_address}/none.zip"]) == 10
    assert f"{s3_address}/none.zip" in capsys.readouterr().err

    one = run_command("restore", archive, "--stdout", "--include", "/docs/ünï.txt", env=secret)
    assert (one.rc, one.stdout) == (0, "text\n" * 1000)


@pytest.fixture
def stored(
    swift: S3Server,
    s3_address: str,
    source: Path,
    tmp_path: Path,
    faulty: Callable[[str], FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[bytes, FaultProxy]:
    """Give the address of an archive, and the proxy before it."""
    done = back_up(source, to=tmp_path / "made", format="tar.gz")
    upload(swift, s3_address, done.files)
    proxy = faulty(swift.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )
    monkeypatch.setattr("blocks.s3_client._LONGEST_PAUSE_S", 0.02)
    return os.fsencode(f"{s3_address}/{done.path.name}"), proxy


@pytest.mark.needs_component("swift")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut_down", method="GET", skip=4, after=100_000),
        Fault("status", method="GET", skip=3, times=3),
        Fault("corrupt", method="GET", skip=4),
        Fault("corrupt", method="GET", skip=5),
    ],
    ids=["cut", "503s", "corrupt", "another corrupt"],
)
def test_a_restore_gets_over_what_goes_wrong_on_the_wire(
    fault: Fault, stored: tuple[bytes, FaultProxy], source: Path, tmp_path: Path
) -> None:
    """(cases 65, 102)"""
    archive, proxy = stored
    fault = proxy.arm(Fault(**{name: getattr(fault, name) for name in fault.__match_args__[:8]}))
    (work := tmp_path / "work").mkdir()
    assert restore(archive, tmp_path / "to", work) == []
    assert snapshot(tmp_path / "to" / "docs") == snapshot(source)
    assert fault.fired == fault.times


@pytest.mark.needs_component("swift")
def test_an_archive_that_is_replaced_in_the_middle_is_noticed(
    stored: tuple[bytes, FaultProxy], swift: S3Server, tmp_path: Path
) -> None:
    archive, _ = stored
    plan = plan_verify(find_volumes(archive).paths, work_dir=tmp_path, tasks=1)
    bucket, _, key = os.fsdecode(archive).removeprefix("s3://").partition("/")
    size = plan.job.identity[0].size
    swift.client().put_object(Bucket=bucket, Key=key, Body=bytes(size))
    with pytest.raises(StorageError, match="replaced"):
        verify_batch(plan.batches[0])


@pytest.mark.needs_component("swift")
def test_one_file_takes_little_of_a_large_archive(
    stored: tuple[bytes, FaultProxy], source: Path, tmp_path: Path
) -> None:
    archive, proxy = stored
    made = plan_restore(
        [whole(find_volumes(archive))], os.fsencode(tmp_path / "to"),
        Wish(include=["/docs/07.bin"]), work_dir=tmp_path, tasks=4,
    )  # fmt: skip
    make_folders(made)
    assert [extract_batch(batch).restored for batch in made.batches] == [1]
    restored = (tmp_path / "to" / "docs" / "07.bin").read_bytes()
    assert restored == (source / "07.bin").read_bytes()
    assert MEGABYTE < proxy.bytes_down < 3 * MEGABYTE
    assert len(proxy.requests) < 8
