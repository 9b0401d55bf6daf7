"""What an S3 storage needs to know. Cheap to import: Amazon's SDK comes in when one is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from blocks.said import check_endpoint
from pybak.errors import PlanError

if TYPE_CHECKING:
    import boto3.session

_BUCKET_ENCRYPTIONS: Final = frozenset({"AES256", "aws:kms", "aws:kms:dsse"})


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """A folder of a bucket, and how it is written to. What is None is as SDK and bucket have it.

    Without `session` the credentials are those of the usual environment: AWS_* variables, profiles,
    an instance's role; so is an `endpoint` of None (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL).
    """

    bucket: str
    prefix: str = ""
    """The folder's path in the bucket, without `/` at its ends; "" is the bucket itself."""

    session: Callable[[], boto3.session.Session] | None = None
    """Makes the session that has the credentials, and renews them."""
    endpoint: str | None = None
    region: str | None = None
    verify: bool | str | None = None
    """False trusts any certificate of the server; a path names the authorities to trust."""
    addressing: Literal["auto", "path", "virtual"] = "auto"

    storage_class: str | None = None
    encryption: str | None = None
    """`AES256`, `aws:kms` or `aws:kms:dsse`, done by the server."""
    kms_key: str | None = None
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    lock_days: int | None = None
    """For how many days from its writing an object lock keeps each file."""
    checksums: Literal["sha256", "md5", "none"] = "sha256"
    """The digest that goes with every part. `sha256` becomes `md5` where the server doesn't know
    it; with `none` only sizes are compared, for servers whose ETags are no digests."""

    concurrency: int = 10
    """How many requests at once keep their connections."""
    connect_timeout_s: float = 10
    read_timeout_s: float = 60
    attempts: int = 5
    """How often the SDK tries a request."""
    rounds: int = 3
    """How often that is done where a server asks to slow down, or bytes were cut or changed."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise PlanError("no bucket is named; write s3://BUCKET/PREFIX")
        check_endpoint(self.endpoint)
        if self.encryption is not None and self.encryption not in _BUCKET_ENCRYPTIONS:
            raise PlanError(
                f"server-side encryption {self.encryption}: is not known; "
                "use AES256, aws:kms or aws:kms:dsse"
            )
        if self.kms_key and not (self.encryption or "").startswith("aws:kms"):
            raise PlanError("a KMS key is of no use without the encryption aws:kms; set it")
        if (self.lock_mode is None) != (self.lock_days is None):
            raise PlanError("an object lock needs both its mode and its days; set the other, too")
        if self.lock_days is not None and self.lock_days < 1:
            raise PlanError(f"{self.lock_days} days of object lock: must be 1 or more")

    @property
    def folder(self) -> str:
        """What the keys of all files in the folder start with."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""
