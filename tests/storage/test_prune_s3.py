"""Prunes of archives in real S3 servers: Swift, by the command too, and moto, which has locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import Commands
from faults import Fault, FaultProxy
from pruning import StoredShelf, names
from s3_servers import S3Server

from pybak.errors import StorageError
from pybak.home import catalog_url
from pybak.storage import opening
from pybak.storage.opening import open_storage


@pytest.fixture(autouse=True)
def _other_storages_each_time() -> Iterator[None]:
    opening._opened.clear()
    yield
    opening._opened.clear()


def filled(address: str, place: Path, *, volumes: int = 1) -> StoredShelf:
    """Give four archives in a storage; the catalog is that of the commands."""
    shelf = StoredShelf(open_storage(address), place / "local", catalog_url())
    for number in range(1, 5):
        shelf.add({"a": number}, volumes=volumes)
    return shelf


def keys(server: S3Server, address: str) -> list[str]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    found = server.client().list_objects_v2(Bucket=bucket).get("Contents", [])
    return [one["Key"].removeprefix(f"{prefix}/") for one in found]


def exists(server: S3Server, address: str, name: str) -> bool:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    try:
        server.client().head_object(Bucket=bucket, Key=f"{prefix}/{name}")
    except server.client().exceptions.ClientError:
        return False
    return True


@pytest.mark.needs_component("swift")
def test_the_command_prunes_a_bucket(
    swift: S3Server, s3_address: str, tmp_path: Path, run_command: Commands
) -> None:
    filled(s3_address, tmp_path, volumes=2).database.close()
    words = ("prune", "--job", "docs", "--keep-last", "1", "--json")
    shown = run_command(*words, "--dry-run")
    assert shown.rc == 0, shown
    assert all(exists(swift, s3_address, f"docs_000{n}.zip.001") for n in range(1, 5))
    done = run_command(*words)
    assert done.rc == 0, done
    assert done.json["bytes_freed"] == shown.json["bytes_freed"] == 6 * 1017
    assert done.json["jobs"][0]["deleted"] == [
        f"{s3_address}/docs_000{number}.zip" for number in range(1, 4)
    ]
    for number in range(1, 5):
        for volume in ("001", "002"):
            assert exists(swift, s3_address, f"docs_000{number}.zip.{volume}") == (number == 4)


@pytest.mark.needs_component("swift")
def test_a_refused_deletion_ends_the_prune_before_anything_is_changed(
    swift: S3Server, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    faulty: Callable[[str], FaultProxy],
) -> None:  # fmt: skip
    """(case 97)"""
    shelf = filled(s3_address, tmp_path)
    proxy = faulty(swift.endpoint)
    refusal = proxy.arm(Fault("status", method="DELETE", times=9, status=403, code="AccessDenied"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    opening._opened.clear()
    with pytest.raises(StorageError, match=r"grant s3:DeleteObject .*; nothing was") as told:
        shelf.prune(keep_last=1)
    assert str(told.value).startswith(f"{s3_address}/docs_0001.zip: access denied")
    assert refusal.fired == 1
    assert shelf.seqs() == [1, 2, 3, 4]
    assert not any(one.is_leaving for one in shelf.history.archives_of_job("docs"))
    assert all(exists(swift, s3_address, name) for name in names(1, 2, 3, 4))


def test_what_an_object_lock_keeps_is_named_and_the_rest_goes(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 107, case 109)"""
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    bucket = moto.new_bucket(ObjectLockEnabledForBucket=True)
    address = f"s3://{bucket}/p"
    shelf = filled(address, tmp_path)
    moto.client().put_object_retention(
        Bucket=bucket, Key="p/docs_0002.zip",
        Retention={
            "Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=2),
        },
    )  # fmt: skip
    for _ in range(2):
        done = shelf.prune(keep_last=1)
        assert done.status == "partial"
        (told,) = done.errors
        assert told.path == f"{address}/docs_0002.zip"
        assert "docs_0002.zip: is locked (COMPLIANCE) until 20" in told.message
        assert keys(moto, address) == names(2, 4)
        assert shelf.seqs() == [4]
    assert shelf.counts()["archive"] == 2
