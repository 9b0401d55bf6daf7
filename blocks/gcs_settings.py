"""What a GCS storage needs to know. Cheap to import: Google's SDK comes in when one is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from blocks.said import check_endpoint
from pybak.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class GcsSettings:
    """A folder of a bucket, and how it is written to. What is None is as SDK and bucket have it.

    Without `credentials` they are those of the usual environment: GOOGLE_APPLICATION_CREDENTIALS,
    `gcloud auth application-default login`, the service account of the machine; so is an
    `endpoint` of None (STORAGE_EMULATOR_HOST, which is asked without credentials).
    """

    bucket: str
    prefix: str = ""
    """The folder's path in the bucket, without `/` at its ends; "" is the bucket itself."""

    credentials: Callable[[], Any] | None = None
    """Makes the credentials (google.auth.credentials.Credentials), which renew themselves."""
    project: str | None = None
    endpoint: str | None = None

    storage_class: str | None = None
    kms_key: str | None = None
    """`projects/…/locations/…/keyRings/…/cryptoKeys/…`"""
    retention_mode: Literal["Unlocked", "Locked"] | None = None
    retention_days: int | None = None
    """For how many days from its writing each file can't be deleted."""

    concurrency: int = 10
    """How many requests at once keep their connections."""
    connect_timeout_s: float = 10
    read_timeout_s: float = 60
    retry_s: float = 30
    """For how long a request that failed is tried again."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise PlanError("no bucket is named; write gs://BUCKET/PREFIX")
        check_endpoint(self.endpoint)
        if (self.retention_mode is None) != (self.retention_days is None):
            raise PlanError("a retention needs both its mode and its days; set the other, too")
        if self.retention_days is not None and self.retention_days < 1:
            raise PlanError(f"{self.retention_days} days of retention: must be 1 or more")

    @property
    def folder(self) -> str:
        """What the names of all objects in the folder start with."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""


@dataclass(frozen=True, repr=False)
class ServiceAccount:
    """The key of a service account, as text of JSON or as the path of such a file."""

    key: str | None = None
    file: str | None = None

    def __repr__(self) -> str:
        return "ServiceAccount(…)"

    def __call__(self) -> Any:
        """Make the credentials. Raises ValueError and OSError for what is no such key."""
        import json

        from google.oauth2 import service_account

        if self.key is not None:
            return service_account.Credentials.from_service_account_info(json.loads(self.key))  # type: ignore[no-untyped-call]
        return service_account.Credentials.from_service_account_file(self.file)  # type: ignore[no-untyped-call]
