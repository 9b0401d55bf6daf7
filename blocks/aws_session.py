"""The credentials of Amazon's cloud as plain values, which can be handed to another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import boto3.session


@dataclass(frozen=True, kw_only=True, repr=False)
class AwsSession:
    """Makes a session of the SDK. What is None is as the usual environment has it.

    With `role_arn` it takes on that role with `role_arguments` (those of AssumeRole), and renews
    its credentials before they expire.
    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    region: str | None = None
    role_arn: str | None = None
    role_arguments: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "AwsSession(…)"

    def __call__(self) -> boto3.session.Session:
        """Make it; asks for nothing yet. Raises the SDK's errors."""
        import boto3.session

        session = boto3.session.Session(
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            aws_session_token=self.session_token,
            profile_name=self.profile,
            region_name=self.region,
        )
        return session if self.role_arn is None else self._as_role(session, self.role_arn)

    def _as_role(self, session: boto3.session.Session, role_arn: str) -> boto3.session.Session:
        import boto3.session
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
        from botocore.exceptions import NoCredentialsError
        from botocore.session import get_session

        source = session.get_credentials()
        if source is None:
            raise NoCredentialsError
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=session._session.create_client,
            source_credentials=source,
            role_arn=role_arn,
            extra_args=self.role_arguments,
        )
        core = get_session()
        core._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]
            refresh_using=fetcher.fetch_credentials, method="assume-role"
        )
        return boto3.session.Session(botocore_session=core, region_name=self.region)
