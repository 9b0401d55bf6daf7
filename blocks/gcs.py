"""Google Cloud Storage as a storage.

`gs://BUCKET/PREFIX` opens one with the credentials of the cloud's usual environment. Nothing of
Google's SDK is imported before a storage is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from blocks.bucket_storage import BucketStorage, bucket_and_prefix
from blocks.gcs_client import GcsBucket
from blocks.gcs_reading import GcsReader
from blocks.gcs_settings import GcsSettings, ServiceAccount
from blocks.gcs_upload import GcsWriter
from pybak.storage.protocol import PartLimits

__all__ = ["LIMITS", "GcsSettings", "GcsStorage", "ServiceAccount", "open_address"]

LIMITS: Final = PartLimits(least=1, most=5 << 40, count=100_000)
_SCHEME: Final = "gs://"


class GcsStorage(BucketStorage):
    """One folder of a bucket: a `pybak.storage.protocol.Storage`.

    `address` names it in messages, and so that it can be opened again elsewhere; by default
    `gs://BUCKET/PREFIX`. `now` gives the time in seconds since 1970.
    """

    def __init__(
        self,
        settings: GcsSettings,
        *,
        address: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        at = (address or f"{_SCHEME}{settings.bucket}/{settings.folder}").rstrip("/")
        bucket = GcsBucket(settings, at)
        reader = GcsReader(bucket)
        super().__init__(bucket, reader, GcsWriter(bucket, reader, now), LIMITS)


def open_address(address: str) -> GcsStorage:
    """Open `gs://BUCKET/PREFIX`. Raises PlanError if no bucket is named."""
    bucket, prefix = bucket_and_prefix(address, _SCHEME)
    return GcsStorage(GcsSettings(bucket=bucket, prefix=prefix))
