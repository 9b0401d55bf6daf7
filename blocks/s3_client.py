"""The requests to one bucket: how its client is made, and how often a request is tried.

Amazon's SDK repeats what fails before an answer comes, and 500 to 504, with growing random pauses;
what it does not repeat is done here, in a few rounds: a body that is cut, bytes that arrive
changed, a server that is still too busy. Nothing else is tried again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from blocks.s3_answers import check_answer, fields, refuse_pages
from blocks.s3_errors import NotS3Error, S3Error, not_s3, translate
from blocks.s3_settings import S3Settings
from pybak.errors import PyBakError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_T = TypeVar("_T")
_LONGEST_PAUSE_S: Final = 20


class S3Bucket:
    """The client of one bucket, made when it is first needed, one in each process."""

    def __init__(self, settings: S3Settings, address: str) -> None:
        self.settings = settings
        self.address = address
        self._lock = threading.Lock()
        self._client: tuple[int, S3Client] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "address": self.address}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def ask(self, operation: str, *, at: str | None = None, **more: Any) -> Any:
        """Do a request; `at` is the address that an error names. Raises PyBakError."""
        at = at or self.address
        client = self.client()
        try:
            answer = getattr(client, operation)(Bucket=self.settings.bucket, **more)
            check_answer(operation, answer)
        except PyBakError:
            raise
        except Exception as error:
            if (known := self.translated(error, operation, at)) is error:
                raise
            raise known from error
        return answer

    def told(self, answer: Any, *names: str, at: str | None = None) -> list[Any]:
        """Give these fields of an answer. Raises StorageError where one is missing."""
        try:
            return fields(answer, *names)
        except NotS3Error as error:
            raise not_s3(at or self.address) from error

    def translated(self, error: Exception, operation: str, at: str) -> Exception:
        """Give our error for a failure of the SDK, and the error itself for a failure of ours."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        known = BotoCoreError | ClientError | ResponseParserError | NotS3Error | ValueError
        if isinstance(error, known):
            return translate(error, operation, at, self.settings.bucket)
        return error

    def rounds(self, call: Callable[[], _T]) -> _T:
        """Call until it succeeds, at most `settings.rounds` times, where that may help."""
        import tenacity

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, S3Error) and e.again),
            stop=tenacity.stop_after_attempt(self.settings.rounds),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE_S),
            reraise=True,
        )(call)

    def client(self) -> S3Client:
        """Give the SDK's client, which any number of threads may use. Raises PyBakError."""
        known = self._client
        if known is not None and known[0] == os.getpid():
            return known[1]
        with self._lock:
            if self._client is None or self._client[0] != os.getpid():
                try:
                    made = _make(self.settings)
                except PyBakError:
                    raise
                except Exception as error:
                    if (known_as := self.translated(error, "", self.address)) is error:
                        raise
                    raise known_as from error
                self._client = (os.getpid(), made)
            return self._client[1]

    def close(self) -> None:
        """Close the connections; the next request makes new ones."""
        with self._lock:
            if self._client is not None and self._client[0] == os.getpid():
                self._client[1].close()
            self._client = None


def _make(settings: S3Settings) -> S3Client:
    import boto3.session
    from botocore.config import Config

    session = settings.session() if settings.session is not None else boto3.session.Session()
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=settings.concurrency + 2,  # besides, someone lists
        # Every part brings its own digest, and what is read is checked against the archive's.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": settings.addressing,
            # The digest of the body is signed; to hash it again for the signature adds nothing.
            **({} if settings.checksums == "none" else {"payload_signing_enabled": False}),
        },
    )
    client: S3Client = session.client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        verify=settings.verify,
        config=config,
    )
    client.meta.events.register("needs-retry.s3", refuse_pages)
    return client
