"""A folder in Google Cloud Storage, kept by Prefect's server with how it is written to.

Credentials are those of prefect-gcp's blocks, so that one block serves PyBak and other flows.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from prefect_gcp.cloud_storage import GcsBucket  # type: ignore[import-untyped]
from prefect_gcp.credentials import GcpCredentials  # type: ignore[import-untyped]
from pydantic import Field, HttpUrl

from blocks.fields import DOCUMENTATION, Bucket, KeptDays, Prefix
from blocks.gcs_settings import GcsSettings, ServiceAccount


class GcsStorageBlock(Block):
    """A folder in Google Cloud Storage.

    Example:
        Load a stored folder, or name it in a command as `--to block:BLOCK_NAME`:
        ```python
        from blocks import GcsStorageBlock

        storage = GcsStorageBlock.load("BLOCK_NAME")
        storage.settings()
        ```

    """

    _block_type_name: ClassVar[str] = "PyBak GCS Storage"
    _block_type_slug: ClassVar[str] = "pybak-gcs-storage"
    _description: ClassVar[str] = "A folder in Google Cloud Storage that PyBak keeps archives in."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    bucket: Bucket
    prefix: Prefix = ""
    credentials: GcpCredentials | None = Field(
        default=None,
        description=(
            "A block with the key of a service account; without one the credentials are those of "
            "the environment where a run works: GOOGLE_APPLICATION_CREDENTIALS, gcloud's, or the "
            "service account of the machine."
        ),
    )
    project: str | None = Field(
        default=None, description="The project; only needed where the credentials name none."
    )
    endpoint: str | None = Field(
        default=None, description="The URL of the server; empty is Google's."
    )
    storage_class: str | None = Field(
        default=None, description="The class to store in, as in NEARLINE, COLDLINE or ARCHIVE."
    )
    kms_key: str | None = Field(
        default=None,
        description="The Cloud KMS key, as projects/P/locations/L/keyRings/R/cryptoKeys/K.",
    )
    retention_mode: Literal["Unlocked", "Locked"] | None = Field(
        default=None,
        description="The retention that keeps each archive; Locked can't be shortened by anyone.",
    )
    retention_days: KeptDays = None
    concurrency: int = Field(
        default=10, ge=1, le=1000, description="How many requests a process sends at once."
    )
    connect_timeout_s: float = Field(
        default=10, gt=0, description="Seconds to wait for a connection."
    )
    read_timeout_s: float = Field(
        default=60, gt=0, description="Seconds to wait for the next bytes of an answer."
    )
    retry_s: float = Field(
        default=30, gt=0, description="For how many seconds a request that fails is tried again."
    )

    def settings(self) -> GcsSettings:
        """Give what the storage needs to know. Raises PlanError for what does not fit together."""
        return GcsSettings(
            bucket=self.bucket,
            prefix=self.prefix.strip("/"),
            credentials=_account(self.credentials),
            project=self.project or _project(self.credentials),
            endpoint=self.endpoint or None,
            storage_class=self.storage_class or None,
            kms_key=self.kms_key or None,
            retention_mode=self.retention_mode,
            retention_days=self.retention_days,
            concurrency=self.concurrency,
            connect_timeout_s=self.connect_timeout_s,
            read_timeout_s=self.read_timeout_s,
            retry_s=self.retry_s,
        )


def settings_of_bucket(block: GcsBucket) -> GcsSettings:
    """Give what the storage needs to know of a block of prefect-gcp."""
    return GcsSettings(
        bucket=block.bucket,
        prefix=block.bucket_folder.strip("/"),
        credentials=_account(block.gcp_credentials),
        project=_project(block.gcp_credentials),
    )


def _account(block: GcpCredentials | None) -> ServiceAccount | None:
    """Give the key that the block holds; None if it is about the usual environment."""
    if block is None:
        return None
    if block.service_account_info is not None:
        info: Any = block.service_account_info.get_secret_value()
        return ServiceAccount(key=json.dumps(info))
    if block.service_account_file is not None:
        return ServiceAccount(file=str(block.service_account_file))
    return None


def _project(block: GcpCredentials | None) -> str | None:
    return None if block is None else block.project
