"""Every storage passes the same tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from memory import MemoryStorage
from s3_servers import S3Server
from suite import Judged, StorageSuite, body

from blocks.s3 import S3Settings, S3Storage
from pybak.storage.local_folder import FolderStorage


class TestFolder(StorageSuite):
    @pytest.fixture
    def judged(self, tmp_path: Path) -> Iterator[Judged]:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "deeper.zip").write_bytes(b"in a folder below")
        storage = FolderStorage(str(tmp_path))
        yield Judged(storage, FolderStorage(str(tmp_path)), names_are_utf8=False)
        storage.close()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pybak")] == []


class TestMemory(StorageSuite):
    @pytest.fixture
    def judged(self) -> Judged:
        storage = MemoryStorage(least=1000)
        return Judged(storage, storage, names_are_utf8=False)

    # It takes any text for a name.
    test_what_is_no_name_in_the_folder_is_refused = None  # type: ignore[assignment]


class TestS3OnSwift(StorageSuite):
    @pytest.fixture
    def judged(self, swift: S3Server, swift_bucket: str) -> Iterator[Judged]:
        # Swift looks whether a name is taken, and then writes; Amazon does both as one.
        with judged_on(swift, swift_bucket) as judged:
            yield replace(judged, races_are_lost=True)


class TestS3OnMoto(StorageSuite):
    @pytest.fixture
    def judged(self, moto: S3Server, moto_bucket: str) -> Iterator[Judged]:
        with judged_on(moto, moto_bucket) as judged:
            yield judged


@pytest.fixture(scope="module")
def swift_bucket(swift: S3Server) -> str:
    return swift.new_bucket()


@pytest.fixture(scope="module")
def moto_bucket(moto: S3Server) -> str:
    return moto.new_bucket()


@contextmanager
def judged_on(server: S3Server, bucket: str) -> Iterator[Judged]:
    prefix = f"a/{uuid.uuid4().hex}"
    # What lies beside and below the folder is none of its business.
    client = server.client()
    client.put_object(Bucket=bucket, Key=f"{prefix}-other.zip", Body=b"beside the folder")
    client.put_object(Bucket=bucket, Key=f"{prefix}/sub/deeper.zip", Body=b"below it")
    client.put_object(Bucket=bucket, Key=f"{prefix}/", Body=b"")  # as a console makes it
    for key in (f"{prefix}/sub/being-sent.zip", f"{prefix}-being-sent.zip"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    storage, elsewhere = (open_on(server, bucket, prefix) for _ in range(2))
    yield Judged(storage, elsewhere)
    storage.close()
    elsewhere.close()


def test_a_bucket_itself_is_a_folder_too(swift: S3Server) -> None:
    storage = open_on(swift, swift.new_bucket(), "")
    storage.put("a.zip", body(b"content"))
    assert [found.name for found in storage.list()] == ["a.zip"]
    assert swift.client().get_object(Bucket=storage.settings.bucket, Key="a.zip")


def open_on(server: S3Server, bucket: str, prefix: str) -> S3Storage:
    return S3Storage(
        S3Settings(bucket=bucket, prefix=prefix, session=server.session, endpoint=server.endpoint)
    )
