"""Writing to GCS: whole files, and files that are composed of parts.

A part is an object of its own under a name that is used once, so that whatever is tried again meets
itself at worst. `complete` composes 32 of them at a time, in levels; each request deletes what it
composed, for which Google takes no early-deletion fees and keeps nothing soft-deleted. An object
that we made carries our mark in its metadata: a lost answer is resolved by looking at it.
https://cloud.google.com/storage/docs/composite-objects
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from blocks import crc32c
from blocks.bucket_names import address_of
from blocks.gcs_client import GcsBucket
from blocks.gcs_errors import GcsError
from blocks.gcs_names import HIDDEN, new_token, object_of, parts_folder, upload_of
from blocks.gcs_reading import DELETE, FORBIDDEN, LIST, GcsReader, stored
from pybak.errors import ExistsError, NotFoundError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.protocol import Body, SentPart, Stored, Upload

_SOURCES: Final = 32  # of one compose request
_MARK: Final = "pybak-upload"
_KIND: Final = "application/octet-stream"
_CREATE: Final = "storage.objects.create"
_ROUNDS: Final = 3
_CHUNK: Final = 32 << 20
"""What is held in memory of a body that is sent."""
_BEGUN: Final = "begun"


class _PartsGoneError(StorageError):
    """What should be composed is not there."""


class _Piece(NamedTuple):
    """An object that is composed: all but `crc` is of the storage."""

    name: str
    generation: int
    size: int
    crc: int


class GcsWriter:
    """Writes the files of one folder. `now` gives the time in seconds since 1970."""

    def __init__(self, bucket: GcsBucket, reader: GcsReader, now: Callable[[], float]) -> None:
        self._bucket = bucket
        self._reader = reader
        self._now = now

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:
        """Write a whole file at once. Raises ExistsError if there is one."""
        at, mark = object_of(self._bucket, name), secrets.token_hex(8)
        found = self._upload(at, body, mark, name, is_file=not temporary, has_class=not temporary)
        return stored(name, found)

    def begin(self, name: str) -> Upload:
        """Start to send a file in parts."""
        started_ns = int(self._now() * 1e9)
        upload = Upload(name, new_token(started_ns, secrets.token_hex(4)), started_ns)
        folder = parts_folder(self._bucket, upload)
        self._upload(folder + _BEGUN, BytesBody(b""), upload.token, name)
        return upload

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        """Send one part. Raises StorageError if the upload has ended."""
        folder, at = parts_folder(self._bucket, upload), address_of(self._bucket, upload.name)
        tail = f"{number:06d}-{secrets.token_hex(4)}"
        found = self._upload(folder + tail, body, upload.token, upload.name)
        # Whoever ends an upload removes this first and the parts then, so that none is left.
        if self._reader.find(folder + _BEGUN, at) is None:
            self._delete(folder + tail)
            raise StorageError(f"{at}: was ended while it was sent; send it again")
        return SentPart(number, body.size, body.sha256, f"{tail} {found.generation} {found.crc32c}")

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        """Make a file of these parts, in order of their numbers; others are dropped."""
        at = address_of(self._bucket, upload.name)
        pieces = self._pieces(upload, parts, at)
        try:
            found = self._compose_all(upload, pieces, at)
        except ExistsError:
            with suppress(StorageError, NotFoundError):
                self.abort(upload)
            raise
        except _PartsGoneError:
            # An earlier call may have come to its end, and its caller did not hear of it.
            found = self._ours(object_of(self._bucket, upload.name), upload.token, at)
            if found is None or not _is_made_of(found, pieces):
                raise
        # What is left is harmless, and `unfinished` finds it.
        with suppress(StorageError, NotFoundError):
            self.abort(upload)
        return stored(upload.name, found)

    def _compose_all(self, upload: Upload, pieces: Sequence[_Piece], at: str) -> Any:
        with self._workers() as workers:
            level = 0
            while len(pieces) > _SOURCES:
                level += 1
                groups = [pieces[i : i + _SOURCES] for i in range(0, len(pieces), _SOURCES)]
                pieces = list(workers.map(partial(self._join, upload, level), groups))
        return self._compose(upload, object_of(self._bucket, upload.name), pieces, at)

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; fine if it is gone."""
        folder = parts_folder(self._bucket, upload)
        self._delete(folder + _BEGUN)
        names = self._bucket.ask(
            lambda bucket, how: [
                blob.name
                for blob in bucket.list_blobs(
                    prefix=folder, fields="items(name),nextPageToken", **how
                )
            ],
            LIST,
        )
        with self._workers() as workers:
            list(workers.map(self._delete, names))

    def unfinished(self) -> Iterator[Upload]:
        """Yield the uploads into this folder that are still open."""

        def call(bucket: Any, how: dict[str, Any]) -> list[str]:
            found = bucket.list_blobs(
                prefix=self._bucket.settings.folder + HIDDEN,
                delimiter="/",
                fields="prefixes,nextPageToken",
                **how,
            )
            list(found)
            return sorted(found.prefixes)

        for folder in self._bucket.ask(call, LIST):
            if upload := upload_of(self._bucket, folder):
                yield upload

    def newest_ns(self, upload: Upload) -> int:
        """Give when the newest part of an upload was sent, or it was begun; 0 if it is gone."""
        folder = parts_folder(self._bucket, upload)
        times = self._bucket.ask(
            lambda bucket, how: [
                blob.time_created
                for blob in bucket.list_blobs(
                    prefix=folder, fields="items(name,timeCreated),nextPageToken", **how
                )
            ],
            LIST,
        )
        return int(max(times).timestamp() * 1e9) if times else 0

    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._bucket.settings.concurrency)

    def _delete(self, name: str, generation: int | None = None) -> None:
        def call(bucket: Any, how: dict[str, Any]) -> None:
            from google.api_core.exceptions import NotFound

            with suppress(NotFound):
                bucket.blob(name).delete(if_generation_match=generation, **how)

        self._bucket.ask(call, DELETE, at=f"gs://{self._bucket.settings.bucket}/{name}")

    def _upload(
        self, name: str, body: Body, mark: str, file: str, *, is_file: bool = False,
        has_class: bool = True,
    ) -> Any:  # fmt: skip
        """Write an object that does not exist, and give the SDK's blob of it."""
        at = address_of(self._bucket, file)
        wanted = self._destination(mark, is_file=is_file)
        if not has_class:
            wanted.pop("storageClass", None)

        def call(bucket: Any, how: dict[str, Any]) -> Any:
            from google.api_core.exceptions import PreconditionFailed

            blob = bucket.blob(name, chunk_size=_CHUNK, kms_key_name=self._bucket.settings.kms_key)
            for key, value in wanted.items():
                blob._patch_property(key, value)
            try:
                with body.open() as stream:
                    blob.upload_from_file(
                        stream,
                        size=body.size,
                        content_type=_KIND,
                        if_generation_match=0,
                        checksum="crc32c",
                        **how,
                    )
            except PreconditionFailed as error:
                found = self._ours(name, mark, at)
                if found is None:
                    raise _taken(at) from error
                with body.open() as stream:
                    if crc32c.from_text(found.crc32c) == crc32c.of_stream(stream):
                        return found
                # An earlier try of ours was changed on the way.
                self._delete(name, int(found.generation))
                raise GcsError(f"{at}: bytes were changed on the way; try again", again=True) from (
                    error
                )
            return blob

        for _ in range(_ROUNDS - 1):
            try:
                return self._bucket.ask(call, _CREATE, at=at)
            except GcsError as error:
                if not error.again:
                    raise
        return self._bucket.ask(call, _CREATE, at=at)

    def _ours(self, name: str, mark: str, at: str) -> Any:
        """Give the SDK's blob of an object if there is one with this mark."""
        found = self._reader.find(name, at)
        if found is None or (found.metadata or {}).get(_MARK) != mark:
            return None
        return found

    def _destination(self, mark: str, *, is_file: bool) -> dict[str, Any]:
        """Give the properties of an object that is written, as Google's API names them."""
        settings = self._bucket.settings
        wanted: dict[str, Any] = {"contentType": _KIND, "metadata": {_MARK: mark}}
        if settings.storage_class:
            wanted["storageClass"] = settings.storage_class
        if is_file and settings.retention_mode and settings.retention_days:
            until = datetime.fromtimestamp(self._now(), UTC) + timedelta(settings.retention_days)
            wanted["retention"] = {
                "mode": settings.retention_mode,
                "retainUntilTime": f"{until:%Y-%m-%dT%H:%M:%S.%fZ}",
            }
        return wanted

    def _pieces(self, upload: Upload, parts: Sequence[SentPart], at: str) -> list[_Piece]:
        numbers = [part.number for part in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise StorageError(f"{at}: its parts are not in order; send it again")
        folder = parts_folder(self._bucket, upload)
        pieces = []
        for part in parts:
            try:
                tail, generation, crc = part.token.split()
                if int(tail.partition("-")[0]) != part.number:
                    raise ValueError(tail)  # noqa: TRY301 - told below
                pieces.append(
                    _Piece(folder + tail, int(generation), part.size, crc32c.from_text(crc))
                )
            except ValueError:
                raise StorageError(f"{at}: part {part.number} is not ours; send it again") from None
        return pieces

    def _join(self, upload: Upload, level: int, group: Sequence[_Piece]) -> _Piece:
        """Compose a group into an object beside the parts; the same one for the same group."""
        if len(group) == 1:
            return group[0]
        known = "".join(f"{piece.name} {piece.generation}\n" for piece in group)
        digest = hashlib.sha256(known.encode()).hexdigest()[:16]
        name = f"{parts_folder(self._bucket, upload)}level{level}-{digest}"
        at = address_of(self._bucket, upload.name)
        found = self._compose(upload, name, group, at)
        return _Piece(
            name,
            int(found.generation),
            sum(piece.size for piece in group),
            crc32c.from_text(found.crc32c),
        )

    def _compose(self, upload: Upload, name: str, group: Sequence[_Piece], at: str) -> Any:
        """Make an object of up to 32, check it, and give the SDK's blob of it."""
        try:
            found = self._request(upload, name, group, at, delete=True)
        except GcsError as error:
            if error.code != FORBIDDEN:
                raise
            # Some credentials may write but not delete.
            found = self._request(upload, name, group, at, delete=False)
        if not _is_made_of(found, group):
            with suppress(StorageError, NotFoundError):
                self._delete(name, int(found.generation))
            raise StorageError(f"{at}: its parts were not joined as they were sent; send it again")
        return found

    def _request(
        self, upload: Upload, name: str, group: Sequence[_Piece], at: str, *, delete: bool
    ) -> Any:
        is_file = not name.startswith(parts_folder(self._bucket, upload))
        query: dict[str, Any] = {"ifGenerationMatch": 0}
        if self._bucket.settings.kms_key:
            query["kmsKeyName"] = self._bucket.settings.kms_key
        wanted = {
            "destination": self._destination(upload.token, is_file=is_file),
            "sourceObjects": [{"name": p.name, "generation": str(p.generation)} for p in group],
            "deleteSourceObjects": delete,
        }

        def call(bucket: Any, how: dict[str, Any]) -> Any:
            from google.api_core import exceptions as api

            blob = bucket.blob(name)
            try:
                # `blob.compose` does not pass the key on, and older SDKs can't delete the sources.
                answer = bucket.client._connection.api_request(
                    method="POST",
                    path=f"{blob.path}/compose",
                    query_params=query,
                    data=wanted,
                    **how,
                )
                blob._set_properties(answer)
            except (api.NotFound, api.PreconditionFailed) as error:
                found = self._ours(name, upload.token, at)
                if found is not None:
                    return found
                if isinstance(error, api.PreconditionFailed):
                    raise _taken(at) from error
                raise _PartsGoneError(f"{at}: some of its parts are gone; send it again") from error
            return blob

        return self._bucket.ask(call, _CREATE, at=at)


def _is_made_of(blob: Any, pieces: Sequence[_Piece]) -> bool:
    """Whether size and CRC are those of the pieces laid end to end."""
    crc, size = 0, 0
    for piece in pieces:
        crc, size = crc32c.combine(crc, piece.crc, piece.size), size + piece.size
    return (int(blob.size), crc32c.from_text(blob.crc32c)) == (size, crc)


def _taken(at: str) -> ExistsError:
    return ExistsError(f"{at}: exists already; choose another name or remove it first")
