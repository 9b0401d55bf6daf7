"""A folder in S3, kept by Prefect's server with all that says how it is written to.

Credentials are those of prefect-aws's blocks, so that one block serves PyBak and other flows.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from prefect.blocks.core import Block
from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import Field, HttpUrl, SecretStr, field_validator

from blocks.aws_session import AwsSession
from blocks.fields import DOCUMENTATION, Bucket, KeptDays, Prefix
from blocks.s3_settings import S3Settings

_ELSE: Final = "empty is what the credentials' block says, or"
_SLUG_KEY: Final = "block_type_slug"


class S3StorageBlock(Block):
    """A folder in Amazon S3, or in a storage that speaks its protocol.

    Example:
        Load a stored folder, or name it in a command as `--to block:BLOCK_NAME`:
        ```python
        from blocks import S3StorageBlock

        storage = S3StorageBlock.load("BLOCK_NAME")
        storage.settings()
        ```

    """

    _block_type_name: ClassVar[str] = "PyBak S3 Storage"
    _block_type_slug: ClassVar[str] = "pybak-s3-storage"
    _description: ClassVar[str] = "A folder in S3 that PyBak keeps archives in."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    bucket: Bucket
    prefix: Prefix = ""
    credentials: AwsCredentials | MinIOCredentials | None = Field(
        default=None,
        description=(
            "A block with the credentials; without one they are those of the environment where "
            "a run works: AWS_* variables, a profile, the role of the machine."
        ),
    )
    endpoint: str | None = Field(
        default=None,
        description="The URL of the server, as in https://minio.example.org; empty is Amazon's.",
    )
    region: str | None = Field(
        default=None, description="The region of the bucket, as in eu-central-1."
    )
    path_style: bool = Field(
        default=False,
        description="Name the bucket in the path, not in the host name, as most own servers need.",
    )
    certificates: str | None = Field(
        default=None,
        description="The path of a file with the authorities that the server's certificate is of.",
    )
    storage_class: str | None = Field(
        default=None, description="The class to store in, as in STANDARD_IA or GLACIER_IR."
    )
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None, description="How the server encrypts; empty is as the bucket says."
    )
    kms_key: str | None = Field(
        default=None, description="The KMS key of an encryption by aws:kms; empty is Amazon's own."
    )
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = Field(
        default=None,
        description="The object lock that keeps each archive; the bucket must have been made so.",
    )
    lock_days: KeptDays = None
    checksums: Literal["sha256", "md5", "none"] = Field(
        default="sha256",
        description="The digest that goes with every part; choose md5 if a server refuses it.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description=f"How many requests a process sends at once; {_ELSE} 10.",
    )
    connect_timeout_s: float | None = Field(
        default=None, gt=0, description=f"Seconds to wait for a connection; {_ELSE} 10."
    )
    read_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description=f"Seconds to wait for the next bytes of an answer; {_ELSE} 60.",
    )
    attempts: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description=f"How often a request that fails is tried; {_ELSE} 5.",
    )

    @field_validator("credentials", mode="before")
    @classmethod
    def _which(cls, value: object) -> object:
        """Tell the two types of credentials apart: each takes the other's fields as extra ones."""
        if not isinstance(value, dict):
            return value
        kind = MinIOCredentials if "minio_root_user" in value else AwsCredentials
        return kind(**{name: given for name, given in value.items() if name != _SLUG_KEY})

    def settings(self) -> S3Settings:
        """Give what the storage needs to know. Raises PlanError for what does not fit together."""
        given = _of_credentials(self.credentials)
        given |= {
            "bucket": self.bucket,
            "prefix": self.prefix.strip("/"),
            "storage_class": self.storage_class or None,
            "encryption": self.encryption,
            "kms_key": self.kms_key or None,
            "lock_mode": self.lock_mode,
            "lock_days": self.lock_days,
            "checksums": self.checksums,
        }
        own = {
            "endpoint": self.endpoint,
            "region": self.region,
            "verify": self.certificates,
            "addressing": "path" if self.path_style else None,
            "concurrency": self.concurrency,
            "connect_timeout_s": self.connect_timeout_s,
            "read_timeout_s": self.read_timeout_s,
            "attempts": self.attempts,
        }
        given |= {name: value for name, value in own.items() if value}
        return S3Settings(**given)


def settings_of_bucket(block: S3Bucket) -> S3Settings:
    """Give what the storage needs to know of a block of prefect-aws."""
    given = _of_credentials(block.credentials)
    return S3Settings(
        **given | {"bucket": block.bucket_name, "prefix": block.bucket_folder.strip("/")}
    )


def _of_credentials(block: AwsCredentials | MinIOCredentials | None) -> dict[str, Any]:
    """Give the settings that a block of credentials brings."""
    if block is None:
        return {}
    parameters = block.aws_client_parameters
    given: dict[str, Any] = {"region": block.region_name, "endpoint": parameters.endpoint_url}
    if parameters.verify is not None:
        given["verify"] = (
            parameters.verify if isinstance(parameters.verify, bool) else str(parameters.verify)
        )
    if parameters.verify_cert_path is not None:
        given["verify"] = str(parameters.verify_cert_path)
    given |= _of_config(parameters.config or {})
    if isinstance(block, MinIOCredentials):
        given["session"] = AwsSession(
            access_key_id=block.minio_root_user,
            secret_access_key=_shown(block.minio_root_password),
            region=block.region_name,
        )
        given.setdefault("addressing", "path")
        return given
    role = block.assume_role_kwargs.get_params_override() if block.assume_role_arn else {}
    given["session"] = AwsSession(
        access_key_id=block.aws_access_key_id,
        secret_access_key=_shown(block.aws_secret_access_key),
        session_token=block.aws_session_token,
        profile=block.profile_name,
        region=block.region_name,
        role_arn=block.assume_role_arn,
        role_arguments=role,
    )
    return given


def _of_config(config: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of botocore's Config that a storage knows."""
    retries = config.get("retries") or {}
    again = retries.get("max_attempts")
    found = {
        "addressing": (config.get("s3") or {}).get("addressing_style"),
        "connect_timeout_s": config.get("connect_timeout"),
        "read_timeout_s": config.get("read_timeout"),
        "concurrency": config.get("max_pool_connections"),
        "attempts": retries.get("total_max_attempts") or (None if again is None else again + 1),
    }
    return {name: value for name, value in found.items() if value is not None}


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
