"""The catalog's tables."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlmodel import Field, SQLModel

PRESENT: Final = "present"
DELETING: Final = "deleting"

_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")


class PathText(TypeDecorator[str]):
    r"""Text that may hold names from the disk, whose bytes need not be UTF-8 (PEP 383).

    Such a byte is stored as `\xNN`, a backslash as two of them.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """Escape; raises UnicodeError for text that no name on disk gives."""
        return None if value is None else escaped(value)

    def process_result_value(self, value: str | None, _dialect: Dialect) -> str | None:
        """Undo that."""
        return None if value is None else unescaped(value)


def escaped(text: str) -> str:
    """Give a name as PathText stores it."""
    if text.isascii() and "\\" not in text:
        return text
    data = text.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def unescaped(text: str) -> str:
    """Give back the name that `escaped` took."""
    return _ESCAPED.sub(_byte, text) if "\\" in text else text


def _byte(found: re.Match[str]) -> str:
    return chr(0xDC00 + int(found[1], 16)) if found[1] else "\\"


class Run(SQLModel, table=True):
    """One run of one flow. Times are in UTC.

    `seq` counts the runs of a job from 1. `counts` and `options` are what the report and the
    parameters said; neither holds secrets. `is_snapshot` tells that the catalog knows the state
    of the job's files after this run; `mode`, `base_run` and `full_run` tell of what its archive
    is the difference (`pybak.formats.manifest`).
    """

    __table_args__ = (UniqueConstraint("job", "seq"),)

    run_id: str = Field(primary_key=True, sa_type=PathText)
    seq: int = Field(index=True)
    kind: str = Field(index=True)
    job: str = Field(index=True, sa_type=PathText)
    status: str = Field(index=True)
    started_at: datetime
    finished_at: datetime | None = None
    archive: str | None = Field(default=None, sa_type=PathText)
    message: str | None = Field(default=None, sa_type=PathText)
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    counts: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    mode: str | None = None
    base_run: str | None = Field(default=None, sa_type=PathText)
    full_run: str | None = Field(default=None, sa_type=PathText)
    tags: list[str] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False, server_default="[]")
    )
    is_snapshot: bool = Field(
        default=False, sa_column=Column(Boolean, nullable=False, server_default=false())
    )


class Archive(SQLModel, table=True):
    """One archive: what people name to get it back, and its bytes in all.

    `state` is PRESENT, or DELETING from when its removal was decided until it is done.
    """

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(index=True, sa_type=PathText)
    job: str = Field(index=True, sa_type=PathText)
    name: str = Field(index=True, sa_type=PathText)
    format: str
    encrypted: bool = False
    size: int = Field(sa_type=BigInteger)
    members: int = 0
    created_at: datetime
    state: str = PRESENT


class Volume(SQLModel, table=True):
    """One file of an archive, by its number from 0.

    Large ones have the digests of `parts` (size in bytes, SHA-256) in place of `sha256`.
    """

    archive_id: int = Field(foreign_key="archive.id", primary_key=True)
    number: int = Field(primary_key=True)
    uri: str = Field(sa_type=PathText)
    size: int = Field(sa_type=BigInteger)
    sha256: str | None = None
    parts: list[tuple[int, str]] | None = Field(default=None, sa_column=Column(JSON))


class ArchiveCopy(SQLModel, table=True):
    """A further place where an archive lies, as `name` says; those of a lower `id` come first.

    `state` is PRESENT, or DELETING where the files are on their way out, as after a move.
    """

    __tablename__ = "archive_copy"

    id: int | None = Field(default=None, primary_key=True)
    archive_id: int = Field(foreign_key="archive.id", index=True)
    name: str = Field(index=True, sa_type=PathText)
    state: str = PRESENT


class CopyVolume(SQLModel, table=True):
    """One file of a copy, as `Volume` has those of the first place."""

    __tablename__ = "copy_volume"

    copy_id: int = Field(foreign_key="archive_copy.id", primary_key=True)
    number: int = Field(primary_key=True)
    uri: str = Field(sa_type=PathText)
    size: int = Field(sa_type=BigInteger)
    sha256: str | None = None
    parts: list[tuple[int, str]] | None = Field(default=None, sa_column=Column(JSON))


class FileVersion(SQLModel, table=True):
    """A member as it was from the snapshot `first_seq` until the one before `gone_seq`.

    `path` is the member's name, `kind` one of `pybak.entries`, `device` the file system it lay
    on. `changed` says that it moved while it was read. `member` is set where the archive holds only
    the content, under that name, be it the same; all else is said here. Numbers beyond 63 bits are
    wrapped or clamped (`pybak.catalog.rows`). Written by statements of their own, for there are
    millions.
    """

    __tablename__ = "file_version"
    # PostgreSQL's other indexes take no more than 2704 bytes of a name.
    __table_args__ = (
        Index("ix_file_version_path", "path", postgresql_using="hash"),
        Index("ix_file_version_job", "job_id", "first_seq"),
    )

    id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    )
    job_id: int
    path: str = Field(sa_type=PathText)
    kind: str
    size: int = Field(sa_type=BigInteger)
    mtime_ns: int = Field(sa_type=BigInteger)
    ctime_ns: int = Field(sa_type=BigInteger)
    inode: int = Field(sa_type=BigInteger)
    device: int | None = Field(default=None, sa_type=BigInteger)
    mode: int
    uid: int = Field(sa_type=BigInteger)
    gid: int = Field(sa_type=BigInteger)
    changed: bool = False
    sha256: str | None = None
    parts: list[tuple[int, str]] | None = Field(default=None, sa_column=Column(JSON))
    archive_id: int
    first_seq: int
    gone_seq: int | None = None
    member: str | None = Field(default=None, sa_type=PathText)


class Job(SQLModel, table=True):
    """A job's name, once: its file versions refer to it by number."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, sa_type=PathText)


class FileError(SQLModel, table=True):
    """A file that a run could not save, or not as it was; `code` is one of `pybak.problems`."""

    __tablename__ = "file_error"

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(index=True, sa_type=PathText)
    path: str = Field(sa_type=PathText)
    code: str
    message: str = Field(sa_type=PathText)


class Verification(SQLModel, table=True):
    """One check of one archive. Times are in UTC.

    Of a check of a part, `percent` is what was asked for, and the part is the `slice`th, counted
    from 0, of `slices`; a check of everything is the only slice. `members` counts those read.
    """

    id: int | None = Field(default=None, primary_key=True)
    archive: str = Field(index=True, sa_type=PathText)
    run_id: str = Field(index=True, sa_type=PathText)
    checked_at: datetime
    status: str
    percent: float = 100.0
    slice: int = 0
    slices: int = 1
    members: int = 0
    damaged: int = 0
