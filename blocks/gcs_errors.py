"""The failures of Google Cloud Storage, in words that say what to do.

Codes: https://cloud.google.com/storage/docs/json_api/v1/status-codes
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from pybak.bare import bare
from pybak.errors import NotFoundError, PlanError, PyBakError, StorageError

_LOG_IN: Final = "run gcloud auth application-default login, or check the key or the block"
_TOO_LONG: Final = 200
_KEY_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_KEPT: Final = ("retention", "temporary hold", "event-based hold")
_LOST: Final = ("crc32c", "md5", "content-range")
_WAIT_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})


class GcsError(StorageError):
    """What the storage answered: its `code`, or 0. `again` tells that another try may help."""

    def __init__(
        self,
        message: str,
        *,
        code: int = 0,
        retryable: bool = False,
        again: bool = False,
        is_denied: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable or again, is_denied=is_denied)
        self.code = code
        self.again = again


def translate(error: BaseException, right: str, at: str, bucket: str) -> PyBakError | None:
    """Give our error for one of the SDK's; None for what is none of these.

    `right` is what the request takes, as IAM calls it; `at` the address it was about.
    """
    import requests
    import urllib3
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from google.cloud.storage import exceptions as storage  # type: ignore[import-untyped]

    if isinstance(error, api.RetryError):
        cause = error.cause or error.__cause__
        known = translate(cause, right, at, bucket) if cause is not None else None
        return known or GcsError(f"{at}: the storage does not answer; try again", retryable=True)
    if isinstance(error, storage.DataCorruption):
        return GcsError(f"{at}: bytes were changed on the way; try again", again=True)
    if isinstance(error, api.GoogleAPICallError):
        return _answered(int(error.code or 0), _said(error), right, at, bucket)
    if isinstance(error, storage.InvalidResponse):
        return _answered(error.response.status_code, "", right, at, bucket)
    if isinstance(error, auth.DefaultCredentialsError):
        if os.environ.get(_KEY_FILE):
            return GcsError(f"{at}: {_KEY_FILE}: {shortened(error)}; name a key file, or unset it")
        return GcsError(
            f"{at}: there are no credentials for Google Cloud; run gcloud auth "
            "application-default login, set GOOGLE_APPLICATION_CREDENTIALS, or use a block: "
            "block:NAME"
        )
    if isinstance(error, auth.TransportError):
        return GcsError(
            f"{at}: no token can be had: {shortened(error)}; check the network", retryable=True
        )
    if isinstance(error, auth.GoogleAuthError):
        return GcsError(
            f"{at}: the credentials are refused: {shortened(error)}; {_LOG_IN}", code=401
        )
    if isinstance(error, requests.exceptions.SSLError):
        return GcsError(
            f"{at}: the server's certificate is not trusted: {shortened(error)}; name its "
            "authority's file in REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        # What it says has the URL in it, cut in unexpected places.
        return PlanError(f"{at}: the endpoint is no URL of a server; check the endpoint")
    if isinstance(
        error, requests.RequestException | urllib3.exceptions.HTTPError | ConnectionError
    ):
        return GcsError(
            f"{at}: the storage can't be reached: {shortened(error)}; check network and endpoint",
            retryable=True,
        )
    return None


def _answered(code: int, said: str, right: str, at: str, bucket: str) -> PyBakError:
    because = f": {said.rstrip('.')}" if said else ""
    if code == 401:
        return GcsError(
            f"{at}: the credentials are refused{because}; {_LOG_IN}", code=code, is_denied=True
        )
    if code == 403 and any(word in said.lower() for word in _KEPT):
        return GcsError(
            f"{at}: is kept by a retention or a hold{because}; wait until it ends", code=code
        )
    if code == 403:
        return GcsError(
            f"{at}: access denied{because}; grant {right} to these credentials",
            code=code,
            is_denied=True,
        )
    if code == 404:
        return NotFoundError(f"{at}: there is no bucket {bucket}; make it, or check its name")
    if code == 400 and any(word in said.lower() for word in _LOST):
        return GcsError(f"{at}: bytes were lost on the way; try again", code=code, again=True)
    if code in _WAIT_STATUS:
        return GcsError(
            f"{at}: the storage failed ({code}){because}; try again later",
            code=code,
            retryable=True,
        )
    return GcsError(f"{at}: the storage refused it ({code}){because}; see what it says", code=code)


def _said(error: Any) -> str:
    """Give the reason that the storage wrote, without request and JSON around it."""
    for found in (*(error.errors or ()), _body(error)):
        if isinstance(found, dict) and found.get("message"):
            return shortened(found["message"])
    return ""


def _body(error: Any) -> object:
    try:
        return error.response.json()["error"]
    except (AttributeError, ValueError, KeyError, TypeError):
        pass
    try:
        return json.loads(error.message[error.message.index("{") :])["error"]
    except (ValueError, KeyError, TypeError):
        return None


def shortened(said: object) -> str:
    """Give what someone said in one line that is not too long, without secrets of URLs."""
    text = bare(said)
    return text if len(text) <= _TOO_LONG else text[:_TOO_LONG] + "…"
