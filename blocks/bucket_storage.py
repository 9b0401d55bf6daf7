"""One folder of a bucket in any cloud, made of what reads there and what writes there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pybak.errors import PlanError
from pybak.storage.protocol import Body, PartLimits, SentPart, Stored, Upload


class Bucket(Protocol):
    """The client of a bucket."""

    address: str

    def close(self) -> None:
        """Close the connections."""


class Reader(Protocol):
    """Reads the files of one folder; see `pybak.storage.protocol.Storage` for its methods."""

    def check(self) -> None: ...  # noqa: D102
    def stat(self, name: str) -> Stored | None: ...  # noqa: D102
    def list(self) -> Iterator[Stored]: ...  # noqa: D102
    def read(self, name: str, offset: int, length: int, version: str | None) -> bytes: ...  # noqa: D102
    def delete(self, name: str, version: str | None) -> bool: ...  # noqa: D102


class Writer(Protocol):
    """Writes files into one folder; see `pybak.storage.protocol.Storage` for its methods."""

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored: ...  # noqa: D102
    def begin(self, name: str) -> Upload: ...  # noqa: D102
    def send(self, upload: Upload, number: int, body: Body) -> SentPart: ...  # noqa: D102
    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored: ...  # noqa: D102
    def abort(self, upload: Upload) -> None: ...  # noqa: D102
    def unfinished(self) -> Iterator[Upload]: ...  # noqa: D102
    def newest_ns(self, upload: Upload) -> int: ...  # noqa: D102


class BucketStorage:
    """One folder of a bucket: a `pybak.storage.protocol.Storage`."""

    def __init__(self, bucket: Bucket, reader: Reader, writer: Writer, limits: PartLimits) -> None:
        self._bucket = bucket
        self._reader = reader
        self._writer = writer
        self._limits = limits

    @property
    def address(self) -> str:
        """What names it."""
        return self._bucket.address

    @property
    def limits(self) -> PartLimits:
        """What it takes in parts."""
        return self._limits

    def check(self) -> None:
        """See that the bucket is there and the credentials may list or write."""
        self._reader.check()

    def stat(self, name: str) -> Stored | None:
        """Give what is known of a file; None if there is none."""
        return self._reader.stat(name)

    def list(self) -> Iterator[Stored]:
        """Yield the files directly in this folder."""
        return self._reader.list()

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        """Read bytes of a file; fewer, or none, only at its end."""
        return self._reader.read(name, offset, length, version)

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:
        """Write a whole file at once."""
        return self._writer.put(name, body, temporary=temporary)

    def begin(self, name: str) -> Upload:
        """Start to send a file in parts."""
        return self._writer.begin(name)

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        """Send one part."""
        return self._writer.send(upload, number, body)

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        """Make a file of these parts."""
        return self._writer.complete(upload, parts)

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts."""
        self._writer.abort(upload)

    def unfinished(self) -> Iterator[Upload]:
        """Yield the uploads into this folder that are still open."""
        return self._writer.unfinished()

    def newest_ns(self, upload: Upload) -> int:
        """Give when the newest part of an upload was sent, or it was begun; 0 if it is gone."""
        return self._writer.newest_ns(upload)

    def delete(self, name: str, *, version: str | None = None) -> bool:
        """Delete a file; False if there is none."""
        return self._reader.delete(name, version)

    def close(self) -> None:
        """Close the connections."""
        self._bucket.close()


def bucket_and_prefix(address: str, scheme: str) -> tuple[str, str]:
    """Take `SCHEME://BUCKET/PREFIX` apart. Raises PlanError if no bucket is named."""
    bucket, _, prefix = address.removeprefix(scheme).partition("/")
    if not address.startswith(scheme) or not bucket:
        raise PlanError(f"{address}: names no bucket; write {scheme}BUCKET/PREFIX")
    return bucket, prefix
