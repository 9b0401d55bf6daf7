"""Blocks of Google's cloud, used for real: keys of service accounts, prefect-gcp's own blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PROJECT
from gcs_fixtures import bucket, gcs_process, guard, tokens  # noqa: F401 - fixtures
from gcs_server import Guard, TokenServer
from prefect_gcp.cloud_storage import GcsBucket
from prefect_gcp.credentials import GcpCredentials

from blocks import GcsStorageBlock
from blocks.storages import _settings, open_address
from pybak.errors import StorageError
from pybak.storage.body import BytesBody

# ruff: noqa: F811 - fixtures are imported by name


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    _settings.cache_clear()
    yield
    _settings.cache_clear()


@pytest.fixture
def saved(
    in_prefect: None, guard: Guard, tokens: TokenServer, bucket: str
) -> Iterator[tuple[str, ...]]:
    """Give the names of blocks of both types with a real service account's key."""
    guard.token = tokens.token = "tok"
    key = GcpCredentials(service_account_info=tokens.account())
    key.save("gcs-key", overwrite=True)
    reference = GcpCredentials.load("gcs-key")
    GcsStorageBlock(bucket=bucket, prefix="p", credentials=reference).save("gcs-own")
    GcsBucket(bucket=bucket, bucket_folder="p", gcp_credentials=reference).save("gcs-theirs")
    yield "gcs-own", "gcs-theirs"
    GcsStorageBlock.delete("gcs-own")
    GcsBucket.delete("gcs-theirs")
    GcpCredentials.delete("gcs-key")


def test_both_types_of_blocks_open_the_same_folder(
    saved: tuple[str, ...], guard: Guard, tokens: TokenServer, bucket: str
) -> None:
    own, theirs = (open_address(f"block:{name}") for name in saved)
    own.check()
    stored = own.put("a.zip", BytesBody(b"content"))
    upload = theirs.begin("b.zip")
    theirs.complete(upload, [theirs.send(upload, 1, BytesBody(b"in parts"))])
    assert theirs.stat("a.zip") == stored
    assert own.read("b.zip", 0, 99) == b"in parts"
    assert set(guard.objects(bucket)) == {"p/a.zip", "p/b.zip"}
    below = open_address("block:gcs-own/deeper")
    below.put("c.zip", BytesBody(b"x"))
    assert "p/deeper/c.zip" in guard.objects(bucket)
    assert tokens.hits >= 1


def test_without_prefect_it_works_as_well(
    saved: tuple[str, ...], guard: Guard, prefect_server: str
) -> None:
    open_address("block:gcs-own").put("a.zip", BytesBody(b"content"))
    code = (
        "import sys\nfrom pybak.storage.opening import open_storage\n"
        "print(open_storage('block:gcs-own').read('a.zip', 1, 3), 'prefect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PREFECT_API_URL": prefect_server}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout == "b'ont' False\n", done.stderr


def test_a_foreign_key_in_a_block_is_told(
    in_prefect: None, guard: Guard, tokens: TokenServer, bucket: str
) -> None:
    """(case 104)"""
    guard.token = tokens.token = "tok"
    key = GcpCredentials(service_account_info=tokens.account(foreign=True))
    GcsStorageBlock(bucket=bucket, credentials=key).save("gcs-foreign", overwrite=True)
    with pytest.raises(StorageError, match=r"^block:gcs-foreign: the credentials are refused"):
        open_address("block:gcs-foreign").check()
    GcsStorageBlock.delete("gcs-foreign")


def test_a_block_that_needs_the_environments_credentials_tells_when_there_are_none(
    in_prefect: None, guard: Guard, prefect_server: str, tmp_path: Path
) -> None:
    """Prefect's block of credentials looks for them when it is loaded."""
    account = tmp_path / "adc.json"
    account.write_text(
        json.dumps(
            {"type": "authorized_user", "client_id": "i", "client_secret": "s",
             "refresh_token": "t", "quota_project_id": "p"}
        )
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        GcsBucket(bucket="archive").save("gcs-adc", overwrite=True)
        assert open_address("block:gcs-adc").address == "block:gcs-adc"
    _settings.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(StorageError, match=r"^block gcs-adc: GOOGLE_APPL.* not found"):
            open_address("block:gcs-adc")
    GcsBucket.delete("gcs-adc")
