"""What the engine needs of a place that holds archives, whatever it is: the storage protocol.

A storage is one folder of files with flat names: a local folder, or a bucket with a prefix. What is
written appears complete or not at all, and never replaces anything. Large files are sent in parts,
by many at once: `begin`, `send` in any order and again after a failure, then `complete` or `abort`.
All methods may be called by several threads.

Implementations outside of the engine are found by the entry-point group `pybak.storage`; see
`pybak.storage.opening`. `tests/storage/` has the tests that every one of them passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Protocol

import msgspec


class Stored(msgspec.Struct, frozen=True):
    """A file in a storage: its name there, its size in bytes, and when it was written.

    `version` changes when the file is replaced by another, and means nothing else.
    """

    name: str
    size: int
    modified_ns: int
    version: str


class PartLimits(msgspec.Struct, frozen=True):
    """What a storage takes in parts: bytes of one, and how many.

    All but the last of a file have `least` bytes or more, and none more than `most`. Numbers go
    from 1 to `count`; some may be left out.
    """

    least: int
    most: int
    count: int


class Upload(msgspec.Struct, frozen=True):
    """A file that is being sent: its name to be, and what the storage calls the upload.

    `token` alone tells uploads of one name apart, and is the same wherever one is listed.
    `started_ns` is 0 where the storage does not tell. `way` is how its parts are sent, if the
    storage has several.
    """

    name: str
    token: str
    started_ns: int = 0
    way: str = ""


class SentPart(msgspec.Struct, frozen=True):
    """A part that a storage has: `token` is the storage's proof of it, `sha256` (hex) ours."""

    number: int
    size: int
    sha256: str
    token: str


class Body(Protocol):
    """The bytes of a part; they can be read more than once."""

    @property
    def size(self) -> int:
        """How many bytes."""

    @property
    def sha256(self) -> str:
        """Their digest in hex."""

    def open(self) -> BinaryIO:
        """Open them for reading from the start; seekable."""


class Storage(Protocol):
    """One folder of a storage. `address` names it so that it can be opened again elsewhere.

    Every method raises StorageError: `retryable` if trying again can help, `is_denied` if these
    credentials may not do it, so nothing was done. What is worth it was tried again by then.
    """

    @property
    def address(self) -> str:
        """Such as `s3://bucket/prefix`, `block:NAME/prefix` or a path; no `/` at its end."""

    @property
    def limits(self) -> PartLimits:
        """What it takes in parts."""

    def check(self) -> None:
        """See in a moment, before work begins, that the place is there and may be used.

        Raises NotFoundError for a missing bucket or folder, StorageError for what is refused.
        """

    def stat(self, name: str) -> Stored | None:
        """Give what is known of a file; None if there is none."""

    def list(self) -> Iterator[Stored]:
        """Yield the files directly in this folder, without those that are being sent."""

    def read(self, name: str, offset: int, length: int, *, version: str | None = None) -> bytes:
        """Read `length` bytes at `offset`; fewer, or none, only at the end.

        Raises NotFoundError for a missing file, and StorageError if it is not of this `version`.
        """

    def put(self, name: str, body: Body, *, temporary: bool = False) -> Stored:
        """Write a whole file at once. Raises ExistsError, and changes nothing, if there is one.

        A `temporary` one is deleted soon: it gets no lock and no class that costs for a while.
        """

    def begin(self, name: str) -> Upload:
        """Start to send a file in parts."""

    def send(self, upload: Upload, number: int, body: Body) -> SentPart:
        """Send one part; sent again under the same number it replaces what was sent before."""

    def complete(self, upload: Upload, parts: Sequence[SentPart]) -> Stored:
        """Make a file of these parts, in order of their numbers; others are dropped.

        Checked against size and what digests the storage knows. A reply that was lost is asked
        for again. Raises ExistsError, with the upload aborted, if there is such a file by now.
        """

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; fine if it is gone."""

    def unfinished(self) -> Iterator[Upload]:
        """Yield the uploads into this folder that were begun and neither completed nor aborted."""

    def newest_ns(self, upload: Upload) -> int:
        """Give when its newest part was sent, or it was begun; 0 if it is gone."""

    def delete(self, name: str, *, version: str | None = None) -> bool:
        """Delete a file; False if there is none. Raises StorageError for another `version`."""

    def close(self) -> None:
        """Let go of connections."""
