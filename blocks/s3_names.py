"""The keys of files in S3."""

from __future__ import annotations

from blocks.bucket_names import object_name
from blocks.s3_client import S3Bucket


def key_of(bucket: S3Bucket, name: str) -> str:
    """Give a file's key. Raises StorageError for what can't be one."""
    return object_name(bucket, name, cloud="S3")
