"""Reading from GCS: what files there are, ranges of their bytes, and deleting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from blocks.bucket_names import address_of, name_of
from blocks.gcs_client import GcsBucket
from blocks.gcs_errors import GcsError
from blocks.gcs_names import object_of
from pybak.errors import NotFoundError, StorageError
from pybak.storage.protocol import Stored

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHECK_S: Final = 8.0
_FIELDS: Final = "items(name,size,generation,timeCreated),nextPageToken"
_WRITING: Final = ("storage.objects.create", "storage.objects.get")
GET: Final = "storage.objects.get"
LIST: Final = "storage.objects.list"
DELETE: Final = "storage.objects.delete"
FORBIDDEN: Final = 403


class GcsReader:
    """Reads the files of one folder."""

    def __init__(self, bucket: GcsBucket) -> None:
        self._bucket = bucket

    def check(self) -> None:
        """See that the bucket is there and the credentials may list it, or at least write."""
        try:
            self._list_one(min(_CHECK_S, self._bucket.settings.retry_s))
        except GcsError as error:
            if error.code != FORBIDDEN:
                raise
            granted = self._bucket.ask(
                lambda bucket, how: bucket.test_iam_permissions(list(_WRITING), **how), LIST
            )
            if not set(_WRITING) <= set(granted):
                raise

    def _list_one(self, retry_s: float | None = None) -> None:
        folder = self._bucket.settings.folder
        self._bucket.ask(
            lambda bucket, how: list(bucket.list_blobs(max_results=1, prefix=folder, **how)),
            LIST,
            retry_s=retry_s,
        )

    def stat(self, name: str) -> Stored | None:
        """Give what is known of a file; None if there is none."""
        found = self.find(object_of(self._bucket, name), address_of(self._bucket, name))
        if found is None:
            self._tell_missing_bucket()
            return None
        return stored(name, found)

    def find(self, name: str, at: str) -> Any:
        """Give the SDK's blob of an object; None if there is none."""
        return self._bucket.ask(lambda bucket, how: bucket.get_blob(name, **how), GET, at=at)

    def _tell_missing_bucket(self) -> None:
        """Raise NotFoundError if it is the bucket that is missing."""
        try:
            self._list_one()
        except GcsError as error:
            if error.code != FORBIDDEN:
                raise

    def list(self) -> Iterator[Stored]:
        """Yield the files directly in the folder."""
        folder = self._bucket.settings.folder
        found = self._bucket.ask(
            lambda bucket, how: list(
                bucket.list_blobs(prefix=folder, delimiter="/", fields=_FIELDS, **how)
            ),
            LIST,
        )
        for blob in found:
            if name := name_of(self._bucket, blob.name):
                yield stored(name, blob)

    def read(self, name: str, offset: int, length: int, version: str | None) -> bytes:
        """Read bytes of a file; fewer, or none, only at its end."""
        at = address_of(self._bucket, name)
        if length <= 0:
            if self.stat(name) is None:
                raise _missing(at)
            return b""

        def call(bucket: Any, how: dict[str, Any]) -> bytes:
            from google.api_core import exceptions as api

            try:
                data: bytes = bucket.blob(object_of(self._bucket, name)).download_as_bytes(
                    start=offset,
                    end=offset + length - 1,
                    raw_download=True,
                    checksum=None,
                    if_generation_match=_generation(version),
                    **how,
                )
            except api.NotFound as error:
                raise _missing(at) from error
            except api.PreconditionFailed as error:
                raise _replaced(at) from error
            except api.RequestRangeNotSatisfiable:
                return b""
            if len(data) > length:
                raise StorageError(f"{at}: the server gives no ranges of bytes; use another server")
            return data

        return self._bucket.ask(call, GET, at=at)

    def delete(self, name: str, version: str | None) -> bool:
        """Delete a file; False if there is none."""
        at = address_of(self._bucket, name)

        def call(bucket: Any, how: dict[str, Any]) -> bool:
            from google.api_core import exceptions as api

            try:
                bucket.blob(object_of(self._bucket, name)).delete(
                    if_generation_match=_generation(version), **how
                )
            except api.NotFound:
                return False
            except api.PreconditionFailed as error:
                raise _replaced(at) from error
            return True

        return self._bucket.ask(call, DELETE, at=at)


def stored(name: str, blob: Any) -> Stored:
    """Give what the SDK knows of a file, under this name."""
    when: datetime = blob.time_created
    return Stored(
        name,
        int(blob.size),
        (when - _EPOCH) // timedelta(microseconds=1) * 1000,
        str(blob.generation),
    )


def _generation(version: str | None) -> int | None:
    return None if version is None else int(version)


def _missing(at: str) -> NotFoundError:
    return NotFoundError(f"{at}: there is no such file; check its name")


def _replaced(at: str) -> StorageError:
    return StorageError(f"{at}: was replaced by another file meanwhile; start again")
