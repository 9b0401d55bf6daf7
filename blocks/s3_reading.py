"""Reading from S3: what files there are, ranges of their bytes, and deleting."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from blocks.bucket_names import address_of, name_of
from blocks.s3_answers import fields
from blocks.s3_client import S3Bucket
from blocks.s3_errors import (
    DENIED,
    MISSING,
    NOT_KNOWN,
    PAST_THE_END,
    TAKEN,
    NotS3Error,
    S3Error,
)
from blocks.s3_names import key_of
from pybak.errors import NotFoundError, StorageError
from pybak.storage.protocol import Stored

_BLOCK: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes (\d+)-", re.ASCII)
_NO_REASON: Final = DENIED | {"400", "Bad Request"}
"""What HEAD is refused with, whatever the reason: its answer has no body to tell."""


class S3Reader:
    """Reads the files of one folder. `now` gives the time in seconds since 1970."""

    def __init__(self, bucket: S3Bucket, now: Callable[[], float] = time.time) -> None:
        self._bucket = bucket
        self._now = now
        self._seen = False

    def check(self) -> None:
        """See that the bucket is there and the credentials may use it."""
        folder = self._bucket.settings.folder
        try:
            self._bucket.rounds(
                lambda: self._bucket.ask("list_objects_v2", Prefix=folder, MaxKeys=1)
            )
        except S3Error as error:
            if error.code not in DENIED:
                raise
            self._check_writing(error)

    def _check_writing(self, refused: S3Error) -> None:
        """See whether credentials that may not list may write at least."""
        key = f"{self._bucket.settings.folder}.pybak-check"
        try:
            made = self._bucket.ask("create_multipart_upload", Key=key)
        except S3Error as error:
            raise (refused if error.code in DENIED else error) from error
        self._bucket.ask("abort_multipart_upload", Key=key, UploadId=made["UploadId"])

    def stat(self, name: str) -> Stored | None:
        """Give what is known of a file; None if there is none."""
        found = self.head(name)
        return None if found is None else stored(name, found)

    def head_if_allowed(self, name: str) -> Any:
        """Give what HEAD tells of a file; None also where the credentials may not look."""
        try:
            return self.head(name, ChecksumMode="ENABLED")
        except S3Error as error:
            if error.code in DENIED:
                return None
            raise

    def head(self, name: str, **more: str) -> Any:
        """Give what HEAD tells of a file; None if there is none."""
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        try:
            return self._bucket.rounds(
                lambda: self._bucket.ask("head_object", at=at, Key=key, **more)
            )
        except S3Error as error:
            if error.code in MISSING:
                self._tell_missing_bucket(key)
                return None
            if error.code in _NO_REASON:
                # The answer to a listing tells why, unless that is allowed.
                self._bucket.ask("list_objects_v2", at=at, Prefix=key, MaxKeys=1)
            raise

    def _tell_missing_bucket(self, key: str) -> None:
        """Raise NotFoundError if it is the bucket that is missing; asked for once."""
        if self._seen:
            return
        try:
            self._bucket.ask("list_objects_v2", Prefix=key, MaxKeys=1)
        except S3Error as error:
            if error.code not in DENIED:
                raise
        self._seen = True

    def list(self) -> Iterator[Stored]:
        """Yield the files directly in the folder."""
        at: dict[str, str] = {}
        folder = self._bucket.settings.folder
        while True:
            more = {"Prefix": folder, "Delimiter": "/", **at}
            page = self._bucket.rounds(lambda m=more: self._bucket.ask("list_objects_v2", **m))  # type: ignore[misc]
            for found in page.get("Contents", ()):
                name = name_of(self._bucket, found["Key"])
                if name:
                    yield Stored(
                        name, found["Size"], _ns(found["LastModified"]), found["ETag"].strip('"')
                    )
            if not page.get("IsTruncated"):
                return
            (token,) = self._bucket.told(page, "NextContinuationToken")
            at = {"ContinuationToken": token}

    def read(self, name: str, offset: int, length: int, version: str | None) -> bytes:
        """Read bytes of a file; fewer, or none, only at its end."""
        if length <= 0:
            if self.stat(name) is None:
                raise _missing(address_of(self._bucket, name))
            return b""
        got = bytearray()
        self._bucket.rounds(lambda: self._read_on(name, offset, length, version, got))
        return bytes(got)

    def _read_on(
        self, name: str, offset: int, length: int, version: str | None, got: bytearray
    ) -> None:
        """Read what is missing in `got`, which keeps what came before a connection was cut."""
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        condition = {} if version is None else {"IfMatch": f'"{version}"'}
        start = offset + len(got)
        try:
            answer = self._bucket.ask(
                "get_object", at=at, Key=key, Range=f"bytes={start}-{offset + length - 1}",
                **condition,
            )  # fmt: skip
        except S3Error as error:
            if error.code in PAST_THE_END:
                return
            if error.code in MISSING:
                raise _missing(at) from error
            if error.code in TAKEN:
                raise _replaced(at) from error
            raise
        body = answer["Body"]
        try:
            _check_answer(answer, version, start, length - len(got), at)
            while block := body.read(_BLOCK):
                got += block
        except (StorageError, NotFoundError):
            raise
        except Exception as error:
            ours = self._bucket.translated(error, "get_object", at)
            if ours is error:
                raise
            if isinstance(ours, S3Error) and not isinstance(error, NotS3Error):
                ours.again = ours.retryable = True
            raise ours from error
        finally:
            body.close()

    def delete(self, name: str, version: str | None) -> bool:
        """Delete a file; False if there is none."""
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        found = self.head(name)
        if found is None:
            return False
        if version is not None and found["ETag"].strip('"') != version:
            raise _replaced(at)
        self._refuse_locked(found, at)
        condition = {} if version is None else {"IfMatch": f'"{version}"'}
        try:
            self._bucket.ask("delete_object", at=at, Key=key, **condition)
        except S3Error as error:
            if error.code in TAKEN:
                raise _replaced(at) from error
            if not condition or error.code not in NOT_KNOWN:
                raise
            self._bucket.ask("delete_object", at=at, Key=key)
        return True

    def _refuse_locked(self, found: Any, at: str) -> None:
        """Raise StorageError for a file that an object lock keeps.

        A versioned bucket would only hide it, and keep all its bytes.
        """
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            raise StorageError(f"{at}: is under a legal hold; release it there first")
        until: datetime | None = found.get("ObjectLockRetainUntilDate")
        if until is not None and until > datetime.fromtimestamp(self._now(), UTC):
            mode = found.get("ObjectLockMode", "object lock")
            raise StorageError(
                f"{at}: is locked ({mode}) until {until:%Y-%m-%d %H:%M} UTC; delete it after that"
            )


def modified_ns(answer: Any, now: Callable[[], float]) -> int:
    """Give the time of an answer: by the server's clock, or ours where it doesn't tell."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return _ns(parsedate_to_datetime(said))
    except (TypeError, ValueError):
        return int(now() * 1e9)


def _check_answer(answer: Any, version: str | None, start: int, wanted: int, at: str) -> None:
    """Raise StorageError unless these are the bytes that were asked for, or NotS3Error."""
    if version is not None and str(*fields(answer, "ETag")).strip('"') != version:
        raise _replaced(at)
    ranged = answer.get("ContentRange")
    if ranged and (found := _RANGE.match(ranged)) is None:
        raise NotS3Error("its answer has no range")
    begins = int(found[1]) if ranged and found else 0
    if begins != start or answer["ContentLength"] > wanted:
        raise StorageError(f"{at}: the server gives no ranges of bytes; use another server")


def stored(name: str, found: Any) -> Stored:
    """Give a file by what HEAD tells of it."""
    return Stored(
        name, found["ContentLength"], _ns(found["LastModified"]), found["ETag"].strip('"')
    )


def _ns(when: datetime) -> int:
    return int(when.timestamp()) * 10**9


def _missing(at: str) -> NotFoundError:
    return NotFoundError(f"{at}: there is no such file; check its name")


def _replaced(at: str) -> StorageError:
    return StorageError(f"{at}: was replaced by another file meanwhile; start again")
