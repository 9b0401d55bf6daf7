"""Google Cloud Storage passes the tests of every storage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gcs_fixtures import bucket, gcs_process, guard  # noqa: F401 - fixtures
from gcs_server import Guard
from suite import Judged, StorageSuite, body

from blocks.gcs import GcsStorage, open_address
from blocks.gcs_settings import GcsSettings


class TestGcs(StorageSuite):
    @pytest.fixture
    def judged(self, bucket: str, guard: Guard) -> Iterator[Judged]:  # noqa: F811
        # What lies beside, below and above the folder is none of its business.
        above = GcsStorage(GcsSettings(bucket=bucket))
        above.put("top.zip", body(b"not of this folder"))
        GcsStorage(GcsSettings(bucket=bucket, prefix="a")).begin("other.zip")
        GcsStorage(GcsSettings(bucket=bucket, prefix="a/prefixed")).put("b.zip", body(b"x"))
        GcsStorage(GcsSettings(bucket=bucket, prefix="a/prefix/sub")).put("c.zip", body(b"x"))
        storage, elsewhere = (open_address(f"gs://{bucket}/a/prefix") for _ in range(2))
        yield Judged(storage, elsewhere)
        left = [name for name in guard.objects(bucket) if name.startswith("a/prefix/.pybak")]
        assert left == []
        for each in (storage, elsewhere, above):
            each.close()
