"""Amazon S3, and servers that speak its protocol, as a storage.

`s3://BUCKET/PREFIX` opens one with the credentials and the endpoint of the cloud's usual
environment. Nothing of Amazon's SDK is imported before a storage is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from blocks.bucket_storage import BucketStorage, bucket_and_prefix
from blocks.s3_client import S3Bucket
from blocks.s3_reading import S3Reader
from blocks.s3_settings import S3Settings
from blocks.s3_upload import S3Writer
from pybak.storage.protocol import PartLimits

__all__ = ["LIMITS", "S3Settings", "S3Storage", "open_address"]

LIMITS: Final = PartLimits(least=5 << 20, most=5 << 30, count=10_000)
_SCHEME: Final = "s3://"


class S3Storage(BucketStorage):
    """One folder of a bucket: a `pybak.storage.protocol.Storage`.

    `address` names it in messages, and so that it can be opened again elsewhere; by default
    `s3://BUCKET/PREFIX`. Files in versioned buckets are deleted by a marker: their older versions
    stay until the bucket's own rules remove them. `now` gives the time in seconds since 1970.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        address: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        at = (address or f"{_SCHEME}{settings.bucket}/{settings.folder}").rstrip("/")
        bucket = S3Bucket(settings, at)
        reader = S3Reader(bucket, now)
        super().__init__(bucket, reader, S3Writer(bucket, reader, now), LIMITS)


def open_address(address: str) -> S3Storage:
    """Open `s3://BUCKET/PREFIX`. Raises PlanError if no bucket is named."""
    bucket, prefix = bucket_and_prefix(address, _SCHEME)
    return S3Storage(S3Settings(bucket=bucket, prefix=prefix))
