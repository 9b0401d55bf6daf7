"""What tests of GCS stand on; a test module imports the fixtures that it uses by name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from gcs_server import Guard, TokenServer, running

from blocks.gcs import GcsSettings, GcsStorage


@pytest.fixture(scope="session")
def gcs_process() -> Iterator[Guard]:
    """Give a server for all tests of the session."""
    with running() as guard:
        yield guard


@pytest.fixture
def guard(gcs_process: Guard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Give the server, with nothing going wrong, as the usual environment names it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_process.url)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    gcs_process.reset()
    yield gcs_process
    gcs_process.reset()


@pytest.fixture
def bucket(guard: Guard) -> str:
    """Give the name of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    guard.new_bucket(name)
    return name


@pytest.fixture
def gcs(bucket: str) -> Iterator[GcsStorage]:
    """Give a folder in it that tries again for two seconds only."""
    storage = GcsStorage(GcsSettings(bucket=bucket, prefix="a/b", retry_s=2, read_timeout_s=2))
    yield storage
    storage.close()


@pytest.fixture(scope="session")
def tokens() -> Iterator[TokenServer]:
    """Give a server of tokens."""
    server = TokenServer()
    yield server
    server.close()
