"""What the history of a catalog tells, as values: snapshots, archives, versions of members."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pybak.catalog.models import unescaped

if TYPE_CHECKING:
    from pybak.catalog.rows import Row

Digest = tuple[str | None, tuple[tuple[int, str], ...]]
"""SHA-256 in hex, or of a large file size and SHA-256 of each part."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job's files that one backup run recorded. Times are aware, in UTC."""

    run_id: str
    job: str
    seq: int
    status: str
    mode: str
    started_at: datetime
    finished_at: datetime | None = None
    archive: str | None = None
    base_run: str | None = None
    full_run: str | None = None
    tags: tuple[str, ...] = ()
    counts: dict[str, Any] = {}


class StoredVolume(msgspec.Struct, frozen=True):
    """A file of an archive; `parts` are sizes in bytes and SHA-256 of runs of a large one."""

    uri: str
    size: int
    sha256: str | None
    parts: tuple[tuple[int, str], ...] = ()


class CopyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A further place of an archive. `is_leaving` while its files are being deleted."""

    id: int
    name: str
    is_leaving: bool
    volumes: tuple[StoredVolume, ...]


class ArchiveFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of the catalog. `is_leaving` once its removal is decided.

    `name` and `volumes` are those of its first place; see `pybak.catalog.copies.places`.
    """

    id: int
    run_id: str
    job: str
    name: str
    format: str
    encrypted: bool
    size: int
    members: int
    is_leaving: bool
    volumes: tuple[StoredVolume, ...] = ()
    copies: tuple[CopyFacts, ...] = ()


class Version(NamedTuple):
    """A member as some snapshots have it: from `first_seq` to before `gone_seq`.

    `member` is the name that its content has in the archive, None if all of the member is there
    under its own (`pybak.catalog.models.FileVersion`).
    """

    path: bytes
    kind: str
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int
    changed: bool
    sha256: str | None
    parts: tuple[tuple[int, str], ...]
    archive_id: int
    first_seq: int
    gone_seq: int | None
    member: bytes | None = None
    ctime_ns: int = 0


VERSION_COLUMNS: Final = (
    "path, kind, size, mtime_ns, mode, uid, gid, changed, sha256, parts, archive_id, first_seq, "
    "gone_seq, member, ctime_ns"
)


def parts_of(value: Any) -> tuple[tuple[int, str], ...]:
    """Give parts as the drivers hand them out: SQLite as text, PostgreSQL as lists."""
    if not value:
        return ()
    loaded = json.loads(value) if isinstance(value, str) else value
    return tuple((size, digest) for size, digest in loaded)


def version_of(row: Row) -> Version:
    """Give the version that a row of VERSION_COLUMNS tells."""
    path, kind, size, mtime, mode, uid, gid, changed, sha256, parts, archive, *rest = row
    first, gone, member, ctime = rest
    return Version(
        os.fsencode(unescaped(path)), kind, size, mtime, mode, uid, gid, bool(changed), sha256,
        parts_of(parts), archive, first, gone,
        None if member is None else os.fsencode(unescaped(member)), ctime,
    )  # fmt: skip
