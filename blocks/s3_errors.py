"""The failures of S3, in words that say what to do.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and those of servers
that speak the same protocol.
"""

from __future__ import annotations

from typing import Any, Final

from pybak.bare import bare
from pybak.errors import NotFoundError, PlanError, PyBakError, StorageError

MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
MISSING_BUCKET: Final = "NoSuchBucket"
WRONG_NAME: Final = "InvalidBucketName"
MISSING_UPLOAD: Final = "NoSuchUpload"
TAKEN: Final = frozenset({"PreconditionFailed", "412"})
DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "Forbidden", "403"})
NOT_IMPLEMENTED: Final = frozenset({"NotImplemented", "501"})
NOT_KNOWN: Final = NOT_IMPLEMENTED | {"InvalidRequest", "InvalidArgument"}
"""What a server answers that does not know a header."""
WRONG_DIGEST: Final = frozenset(
    {"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest"}
)
PAST_THE_END: Final = frozenset({"InvalidRange", "416"})

_REFUSED: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidToken",
     "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired",
     "RequestExpired", "RequestTimeTooSkewed"}
)  # fmt: skip
"""What is answered to credentials that can't do anything."""

_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the block"
_LOG_IN = "log in again, or set new credentials"
_FINAL: Final = {
    "InvalidAccessKeyId": f"the access key is not known there; {_KEYS}",
    "SignatureDoesNotMatch": f"the access key or its secret is wrong; {_KEYS}",
    "AuthFailure": f"the access key or its secret is wrong; {_KEYS}",
    "InvalidToken": f"the session token is wrong; {_LOG_IN}",
    "InvalidClientTokenId": f"the session token is wrong; {_LOG_IN}",
    "ExpiredToken": f"the credentials have expired; {_LOG_IN}",
    "ExpiredTokenException": f"the credentials have expired; {_LOG_IN}",
    "TokenRefreshRequired": f"the credentials have expired; {_LOG_IN}",
    "RequestExpired": "the clock here differs from the server's by too much; set the clock",
    "RequestTimeTooSkewed": "the clock here differs from the server's by too much; set the clock",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION to it",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION to it",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_REGION to it",
    "InvalidObjectState": "lies in a class of storage that is not read at once; restore it there",
    "KMS.DisabledException": "the KMS key is disabled; enable it",
    "KMS.NotFoundException": "there is no such KMS key; name another",
    "InvalidStorageClass": "the server has no such class of storage; choose another",
    "InvalidDigest": "the server refuses the digest; set the checksums of the block to md5",
    "EntityTooSmall": "a part but the last is smaller than 5 MiB; send larger ones",
    "EntityTooLarge": "is more than the storage takes, or than its quota has left; free space",
    "InvalidPart": "a part is not there, or not as it was sent; send it again",
    "ObjectLockConfigurationNotFoundError": "the bucket has no object lock; make one that has",
    "InvalidRetentionPeriod": "the bucket refuses such a retention; choose other days",
    "KeyTooLongError": "the name is too long; choose a shorter one",
}
_FULL: Final = frozenset(
    {"QuotaExceeded", "QuotaExceededException", "StorageFull", "XMinioStorageFull",
     "InsufficientStorage", "InsufficientCapacity", "507"}
)  # fmt: skip
_SLOW_DOWN: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
     "TooManyRequests", "TooManyRequestsException", "429", "RequestLimitExceeded",
     "BandwidthLimitExceeded", "ServiceUnavailable", "XMinioServerNotInitialized", "503"}
)  # fmt: skip
_CHANGED_ON_THE_WAY: Final = frozenset(
    {
        "BadDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "IncompleteBody",
        "RequestTimeout",
    }
)
_CONFLICT: Final = frozenset({"ConditionalRequestConflict", "OperationAborted"})  # fmt: skip
_RIGHTS: Final = {
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_parts": "s3:ListMultipartUploadParts",
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "delete_object": "s3:DeleteObject",
}


class S3Error(StorageError):
    """What S3 answered: its `code`, or "". `again` tells that another round may help at once."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        retryable: bool = False,
        again: bool = False,
        is_denied: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable or again, is_denied=is_denied)
        self.code = code
        self.again = again


class NotS3Error(Exception):
    """An answer that S3 does not give, met where it is read; `translate` tells of it."""


def code_of(error: BaseException) -> str:
    """Give the code that a server answered with, or ""."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def translate(error: Exception, operation: str, address: str, bucket: str) -> PyBakError:
    """Give our error for one of the SDK's. `operation` is the client's method, "" for none."""
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError

    if isinstance(error, sdk.ClientError):
        return _answered(error, operation, address, bucket)
    said = bare(error)
    if isinstance(error, NotS3Error | ResponseParserError) or (
        # What the SDK makes numbers and times of; before a request it is about the settings.
        operation
        and isinstance(error, ValueError)
        and not isinstance(error, UnicodeError | sdk.BotoCoreError)
    ):
        return not_s3(address)
    if isinstance(error, sdk.NoCredentialsError | sdk.PartialCredentialsError):
        return S3Error(
            f"{address}: there are no credentials for S3; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or use a block: block:NAME"
        )
    if isinstance(error, sdk.ProfileNotFound | sdk.ConfigParseError | sdk.ConfigNotFound):
        return PlanError(f"{address}: {said}; check AWS_PROFILE and ~/.aws/config")
    if isinstance(
        error,
        sdk.CredentialRetrievalError | sdk.TokenRetrievalError | sdk.SSOError
        | getattr(sdk, "LoginError", sdk.SSOError),  # of newer SDKs
    ):  # fmt: skip
        return S3Error(f"{address}: the credentials can't be had: {said}; {_LOG_IN}")
    if isinstance(error, sdk.SSLError):
        return S3Error(
            f"{address}: the server's certificate is not trusted: {said}; name its authority's "
            "file in AWS_CA_BUNDLE"
        )
    if isinstance(error, sdk.IncompleteReadError | sdk.ResponseStreamingError):
        return S3Error(f"{address}: the connection was cut: {said}; try again", again=True)
    if isinstance(error, sdk.FlexibleChecksumError):
        return S3Error(f"{address}: other bytes came than were sent; try again", again=True)
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError):
        return S3Error(
            f"{address}: the storage can't be reached: {said}; check network and endpoint",
            retryable=True,
        )
    return PlanError(f"{address}: {said}; check bucket, region and endpoint")


def not_s3(address: str) -> S3Error:
    """Give the error for an answer that S3 does not give."""
    return S3Error(f"{address}: the server does not answer as S3 does; check the endpoint")


def _answered(error: Any, operation: str, address: str, bucket: str) -> PyBakError:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = bare(error.response.get("Error", {}).get("Message", ""))
    if code == MISSING_BUCKET:
        return NotFoundError(f"{address}: there is no bucket {bucket}; make it, or check its name")
    if code == WRONG_NAME:
        return PlanError(f"{address}: {bucket} is no name of a bucket; check it")
    if code in DENIED:
        right = _RIGHTS.get(operation, "s3:*")
        return S3Error(
            f"{address}: access denied{_because(said)}; grant {right} to these credentials",
            code=code,
            is_denied=True,
        )
    if code in _FULL or status == 507:
        return S3Error(f"{address}: the storage is full; free space or raise its quota", code=code)
    if code in _SLOW_DOWN or status in (429, 503):
        return S3Error(
            f"{address}: the storage is too busy ({code}); try again later", code=code, again=True
        )
    if code in _CHANGED_ON_THE_WAY:
        return S3Error(
            f"{address}: bytes were lost on the way ({code}); try again", code=code, again=True
        )
    if code in _CONFLICT:
        return S3Error(
            f"{address}: someone else writes it at this moment; try again", code=code, again=True
        )
    if code in _FINAL:
        return S3Error(f"{address}: {_FINAL[code]}", code=code, is_denied=code in _REFUSED)
    if status >= 500 and code not in NOT_KNOWN:
        return S3Error(
            f"{address}: the storage failed ({code or status}){_because(said)}; try again later",
            code=code,
            retryable=True,
        )
    return S3Error(
        f"{address}: the storage refused {operation} ({code or status}){_because(said)}; "
        "see what it says",
        code=code,
    )


def _because(said: str) -> str:
    return f": {said.rstrip('.')}" if said else ""
