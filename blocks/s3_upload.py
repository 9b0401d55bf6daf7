"""Writing to S3: whole files, and parts of one multipart upload.

A file appears under its name only if there is none: `If-None-Match: *` on what makes it appear.
Where a server doesn't know that condition (the request is answered "not implemented", or the header
is ignored), only the look just before it stands between two writers of one name.

An upload's token is its ID, and its way the digest that its parts bring (`s3_digests`); a part's is
`sha256:ETAG` where the server gave that digest back as its own, and `:ETAG` elsewhere. An upload
whose beginning was answered too late to be heard stays open; `unfinished` lists it.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final, NamedTuple

from blocks.bucket_names import address_of, name_of
from blocks.s3_client import S3Bucket
from blocks.s3_digests import (
    MD5,
    NONE,
    SHA256,
    SHA256_AND_ETAG,
    etag,
    etag_of,
    headers,
    in_base64,
    is_body,
    is_made_of,
    sha256_headers,
)
from blocks.s3_errors import (
    DENIED,
    MISSING,
    MISSING_UPLOAD,
    NOT_IMPLEMENTED,
    NOT_KNOWN,
    TAKEN,
    WRONG_DIGEST,
    S3Error,
)
from blocks.s3_names import key_of
from blocks.s3_reading import S3Reader, modified_ns, stored
from pybak.errors import ExistsError, PyBakError, StorageError
from pybak.storage.protocol import Body, SentPart, Stored, Upload

_WRONG_SHA256: Final = "0" * 64


class _Way(NamedTuple):
    """How a file is put: the digest that goes with it, and whether there must be none before."""

    digest: str
    conditional: bool

    def less(self, code: str) -> _Way | None:
        """Give what to try when a server answers that it doesn't know something; None to stop."""
        if code in NOT_KNOWN and self.digest == SHA256:
            return self._replace(digest=MD5)
        if code in NOT_IMPLEMENTED and self.conditional:
            return self._replace(conditional=False)
        return None


class S3Writer:
    """Writes the files of one folder. `now` gives the time in seconds since 1970."""

    def __init__(
        self, bucket: S3Bucket, reader: S3Reader, now: Callable[[], float] = time.time
    ) -> None:
        self._bucket = bucket
        self._settings = bucket.settings
        self._reader = reader
        self._now = now
        self._digest: str = self._settings.checksums
        self._conditions = True
        self._compares: bool | None = None

    # Whole files

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:
        """Write a whole file at once. Raises ExistsError if there is one."""
        more = self._new_file(temporary=temporary)
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        if not self._conditions:
            self._refuse_taken(name)

        def once() -> Any:
            answer = self._put_once(name, body, more)
            with _read(at):
                if is_body(answer, body, self._compared_by):
                    return answer
            self._bucket.ask("delete_object", at=at, Key=key)
            raise _changed(at)

        try:
            answer = self._bucket.rounds(once)
        except S3Error as error:
            if error.code not in TAKEN and not error.retryable:
                raise
            # Its reply may have been lost: then the file in the way is our own.
            found = self._looked(name, error)
            if found is not None and self._holds(found, body):
                return stored(name, found)
            if error.code not in TAKEN:
                raise
            raise _taken(at) from error
        found = self._reader.head_if_allowed(name)
        if found is None:  # these credentials may not look
            return Stored(name, body.size, modified_ns(answer, self._now), etag(answer))
        if found["ContentLength"] != body.size:
            raise StorageError(
                f"{at}: has {found['ContentLength']} bytes, {body.size} were sent; delete it there"
            )
        return stored(name, found)

    def _looked(self, name: str, error: StorageError) -> Any:
        """Look what is under a name; raise `error` where even that fails."""
        try:
            return self._reader.head_if_allowed(name)
        except StorageError:
            raise error from None

    def _holds(self, found: Any, body: Body) -> bool:
        """Whether HEAD tells of a whole file of these bytes."""
        fits = found["ContentLength"] == body.size
        return fits and is_body(found, body, self._compared_by)

    @property
    def _compared_by(self) -> str:
        """Whether ETags of whole files are compared: few are so large that it takes long."""
        return NONE if self._settings.checksums == NONE else SHA256_AND_ETAG

    def _put_once(self, name: str, body: Body, more: dict[str, Any]) -> Any:
        """Send a whole file; a server that doesn't know a header is asked without."""
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        way = _Way(self._digest, self._conditions)
        while True:
            condition = {"IfNoneMatch": "*"} if way.conditional else {}
            try:
                with _read(at), _opened(body) as source:
                    answer = self._bucket.ask(
                        "put_object", at=at, Key=key, Body=source, ContentLength=body.size,
                        **condition, **more, **headers(body, way.digest),
                    )  # fmt: skip
            except S3Error as error:
                less = way.less(error.code)
                if less is None:
                    raise
                way = less
                if not way.conditional:
                    self._refuse_taken(name)
            else:
                self._digest, self._conditions = way
                return answer

    # Files in parts

    def begin(self, name: str) -> Upload:
        """Start to send a file in parts."""
        key, at = key_of(self._bucket, name), address_of(self._bucket, name)
        wanted = {"ChecksumAlgorithm": "SHA256"} if self._digest == SHA256 else {}
        more = self._new_file()
        try:
            answer = self._bucket.ask("create_multipart_upload", at=at, Key=key, **wanted, **more)
        except S3Error as error:
            if not wanted or error.code not in NOT_KNOWN:
                raise
            answer = self._bucket.ask("create_multipart_upload", at=at, Key=key, **more)
            self._digest = MD5
        token = answer["UploadId"]
        digest = self._digest
        if digest == SHA256 and not self._refuses_wrong(key, at, token):
            digest = SHA256_AND_ETAG
        return Upload(name, token, int(self._now() * 1e9), digest)

    def _refuses_wrong(self, key: str, at: str, token: str) -> bool:
        """Whether the server compares digests, found out once by a part with a wrong one.

        Should it be taken, the real part replaces it, or it is dropped at the end. To compare
        ETags instead costs more than all else that is done with a part.
        """
        if self._compares is None:
            try:
                self._bucket.ask(
                    "upload_part", at=at, Key=key, UploadId=token, PartNumber=1, Body=b"?",
                    **sha256_headers(_WRONG_SHA256),
                )  # fmt: skip
            except S3Error as error:
                if error.code in WRONG_DIGEST:
                    self._compares = True
            else:
                self._compares = False
        return bool(self._compares)

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        """Send one part."""
        digest = upload.way or self._digest
        key, at = key_of(self._bucket, upload.name), address_of(self._bucket, upload.name)
        with _read(at):
            more = headers(body, digest)
        md5 = base64.b64decode(more.get("ContentMD5", "")).hex()

        def once() -> SentPart:
            with _read(at), _opened(body) as source:
                answer = self._bucket.ask(
                    "upload_part", at=at, Key=key, UploadId=upload.token, PartNumber=number,
                    Body=source, ContentLength=body.size, **more,
                )  # fmt: skip
                if not is_body(answer, body, digest, known_md5=md5):
                    raise _changed(at)
            proof = SHA256 if answer.get("ChecksumSHA256") else ""
            return SentPart(number, body.size, body.sha256, f"{proof}:{etag(answer)}")

        return self._bucket.rounds(once)

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        """Make a file of the parts. Raises ExistsError, with the upload aborted."""
        at = address_of(self._bucket, upload.name)
        if not parts:
            raise StorageError(f"{at}: a file of no parts can't be made; put it whole")
        ordered = sorted(parts, key=lambda part: part.number)
        if (found := self._reader.head_if_allowed(upload.name)) is not None:
            if self._made_of(found, ordered) and not self._is_open(upload):
                return stored(upload.name, found)  # by an earlier call whose reply was lost
            self.abort(upload)
            raise _taken(at)
        try:
            answer = self._bucket.rounds(lambda: self._complete_once(upload, ordered, at))
        except StorageError as error:
            code = error.code if isinstance(error, S3Error) else ""
            if code not in TAKEN | {MISSING_UPLOAD} and not error.retryable:
                raise
            found = self._looked(upload.name, error)
            if found is not None and self._made_of(found, ordered):
                return stored(upload.name, found)
            if found is not None or code in TAKEN:
                self.abort(upload)
                raise _taken(at) from error
            raise
        return self._checked(answer, upload.name, ordered, at)

    def _complete_once(self, upload: Upload, parts: Sequence[SentPart], at: str) -> Any:
        key = key_of(self._bucket, upload.name)
        listed: list[dict[str, Any]] = []
        for part in parts:
            theirs = part.token.startswith(f"{SHA256}:")
            checksum = {"ChecksumSHA256": in_base64(part.sha256)} if theirs else {}
            listed.append({"PartNumber": part.number, "ETag": f'"{etag_of(part)}"', **checksum})
        more: dict[str, Any] = {"at": at, "Key": key, "UploadId": upload.token}
        more["MultipartUpload"] = {"Parts": listed}
        if self._conditions:
            try:
                return self._bucket.ask("complete_multipart_upload", IfNoneMatch="*", **more)
            except S3Error as error:
                if error.code not in NOT_IMPLEMENTED:
                    raise
                self._conditions = False
        return self._bucket.ask("complete_multipart_upload", **more)

    def _checked(self, answer: Any, name: str, parts: Sequence[SentPart], at: str) -> Stored:
        """Give the file that was made, if it is what was sent; delete it otherwise."""
        found = self._reader.head_if_allowed(name)
        size = sum(part.size for part in parts)
        if not self._made_of(found or {"ContentLength": size, **answer}, parts):
            with contextlib.suppress(StorageError):  # it may be locked
                self._bucket.ask("delete_object", at=at, Key=key_of(self._bucket, name))
            raise StorageError(
                f"{at}: the storage made other bytes of the parts than were sent; check the "
                "storage, and delete the file if it is still there"
            )
        if found is None:  # these credentials may not look
            return Stored(name, size, modified_ns(answer, self._now), etag(answer))
        return stored(name, found)

    def _made_of(self, found: Any, parts: Sequence[SentPart]) -> bool:
        return is_made_of(found, parts, compared=self._settings.checksums != NONE)

    def _is_open(self, upload: Upload) -> bool:
        """Whether an upload can still be completed: some servers list the parts of others, too."""
        try:
            return any(
                found["UploadId"] == upload.token
                for found in self._open_uploads(key_of(self._bucket, upload.name))
            )
        except S3Error as error:
            if error.code in DENIED:
                return True
            raise

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; fine if it is gone."""
        try:
            self._bucket.ask(
                "abort_multipart_upload",
                at=address_of(self._bucket, upload.name),
                Key=key_of(self._bucket, upload.name),
                UploadId=upload.token,
            )
        except S3Error as error:
            if error.code not in MISSING | {MISSING_UPLOAD}:
                raise

    def unfinished(self) -> Iterator[Upload]:
        """Yield the uploads directly into this folder that are still open."""
        for found in self._open_uploads(self._settings.folder):
            name = name_of(self._bucket, found["Key"])
            digest = SHA256 if found.get("ChecksumAlgorithm") == "SHA256" else MD5
            if name and "/" not in name:
                started = int(found["Initiated"].timestamp() * 1e9)
                yield Upload(name, found["UploadId"], started, digest)

    def newest_ns(self, upload: Upload) -> int:
        """Give when the newest part of an upload was sent, or it was begun; 0 if it is gone."""
        key, at = key_of(self._bucket, upload.name), address_of(self._bucket, upload.name)
        newest, marker = upload.started_ns, 0
        while True:
            try:
                page = self._bucket.ask(
                    "list_parts", at=at, Key=key, UploadId=upload.token, PartNumberMarker=marker
                )
            except S3Error as error:
                if error.code in MISSING | {MISSING_UPLOAD}:
                    return 0
                raise
            times = [int(part["LastModified"].timestamp() * 1e9) for part in page.get("Parts", ())]
            newest = max([newest, *times])
            if not page.get("IsTruncated") or not times:
                return newest
            marker = page["NextPartNumberMarker"]

    def _open_uploads(self, prefix: str) -> Iterator[Any]:
        at: dict[str, str] = {}
        while True:
            page = self._bucket.ask("list_multipart_uploads", Prefix=prefix, Delimiter="/", **at)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            key, token = self._bucket.told(page, "NextKeyMarker", "NextUploadIdMarker")
            at = {"KeyMarker": key, "UploadIdMarker": token}

    # What goes with a file, and what comes back

    def _new_file(self, *, temporary: bool = False) -> dict[str, Any]:
        """Give what a new file is to have, by the settings."""
        settings = self._settings
        more: dict[str, Any] = {}
        if settings.storage_class and not temporary:
            more["StorageClass"] = settings.storage_class
        if settings.encryption:
            more["ServerSideEncryption"] = settings.encryption
        if settings.kms_key:
            more["SSEKMSKeyId"] = settings.kms_key
        if settings.lock_mode and settings.lock_days and not temporary:
            until = datetime.fromtimestamp(self._now(), UTC) + timedelta(days=settings.lock_days)
            more["ObjectLockMode"] = settings.lock_mode
            more["ObjectLockRetainUntilDate"] = until
        return more

    def _refuse_taken(self, name: str) -> None:
        if self._reader.head_if_allowed(name) is not None:
            raise _taken(address_of(self._bucket, name))


@contextlib.contextmanager
def _read(at: str) -> Iterator[None]:
    """Tell what can't be read on this side; the SDK's errors are no OSErrors."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{at}: what is to be sent can't be read: {error}") from error
    except _Passing as passing:
        raise passing.error from None


class _Passing(BaseException):
    """Carries an error of ours through the SDK, which takes an Exception for the connection's.

    It would be tried again then, with pauses, however final it is.
    """

    def __init__(self, error: PyBakError) -> None:
        super().__init__(str(error))
        self.error = error


class _Outgoing:
    """A body's file for the SDK."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read what comes next."""
        try:
            return self._file.read(size)
        except PyBakError as error:
            raise _Passing(error) from error


@contextlib.contextmanager
def _opened(body: Body) -> Iterator[_Outgoing]:
    with body.open() as file:
        yield _Outgoing(file)


def _taken(at: str) -> ExistsError:
    return ExistsError(f"{at}: is there already; choose another name")


def _changed(at: str) -> S3Error:
    return S3Error(f"{at}: other bytes arrived than were sent; try again", again=True)
