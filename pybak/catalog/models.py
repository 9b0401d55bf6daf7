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
    text,
)
from sqlmodel import Field, SQLModel

PRESENT: Final = "present"
DELETING: Final = "deleting"

NAME_CHARACTERS: Final = 500
NAME_START: Final = f'left(path, {NAME_CHARACTERS}) COLLATE "C"'
"""What PostgreSQL keeps names in order by: most of them whole, in the order of their bytes."""

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
    is the difference (`pybak.formats.manifest`). `flow_run` is the id of Prefect's flow run, whose
    logs are this run's. `stages` tell how long each took (`pybak.stages.to_rows`).
    """

    __table_args__ = (
        UniqueConstraint("job", "seq"),
        Index("ix_run_time", "started_at", "run_id"),
        Index("ix_run_job_time", "job", "started_at", "run_id"),
        Index("ix_run_kind_time", "kind", "started_at", "run_id"),
        Index("ix_run_status_time", "status", "started_at", "run_id"),
        Index("ix_run_kind_job", "kind", "job", "seq"),
        Index("ix_run_snapshot", "job", "is_snapshot", "seq"),
    )

    run_id: str = Field(primary_key=True, sa_type=PathText)
    seq: int = Field(index=True)
    kind: str
    job: str = Field(sa_type=PathText)
    status: str
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
    flow_run: str | None = Field(default=None, index=True)
    stages: list[tuple[str, float, float, float | None]] | None = Field(
        default=None, sa_column=Column(JSON(none_as_null=True))
    )


class Archive(SQLModel, table=True):
    """One archive: what people name to get it back, and its bytes in all.

    `state` is PRESENT, or DELETING from when its removal was decided until it is done.
    `content_size` are the bytes of its members, None where no run said so.
    """

    __table_args__ = (
        Index("ix_archive_job", "job", "id"),
        Index("ix_archive_size", "job", "state", "size"),
    )

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(index=True, sa_type=PathText)
    job: str = Field(sa_type=PathText)
    name: str = Field(index=True, sa_type=PathText)
    format: str
    encrypted: bool = False
    size: int = Field(sa_type=BigInteger)
    members: int = 0
    created_at: datetime
    state: str = PRESENT
    content_size: int | None = Field(default=None, sa_type=BigInteger)


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
    __table_args__ = (
        Index("ix_file_version_job", "job_id", "first_seq"),
        Index("ix_file_version_archive", "archive_id"),
        # The names of a job in order, and its folders alone.
        Index("ix_file_version_name", "job_id", "path", "first_seq").ddl_if(dialect="sqlite"),
        Index(
            "ix_file_version_folder", "job_id", "path", sqlite_where=text("kind = 'd'")
        ).ddl_if(dialect="sqlite"),
        # PostgreSQL's B-trees take no more than 2704 bytes of a name.
        Index("ix_file_version_path", "path", postgresql_using="hash").ddl_if(dialect="postgresql"),
        Index("ix_file_version_name_start", "job_id", text(NAME_START), "first_seq").ddl_if(
            dialect="postgresql"
        ),
        Index(
            "ix_file_version_folder_start", "job_id", text(NAME_START),
            postgresql_where=text("kind = 'd'"),
        ).ddl_if(dialect="postgresql"),
    )  # fmt: skip

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
    __table_args__ = (Index("ix_file_error_run", "run_id", "id"),)

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(sa_type=PathText)
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


class ProcessedFile(SQLModel, table=True):
    """A file that an inbox took, or is about to take: what it was, and what became of it.

    `path` is its place below the source folder, whose name the job has. `name` is what it is
    called below `destination` and each place of `also`; a duplicate has none, `duplicate_of` is the
    row that it repeats. `name_key` is the SHA-256 of `name`, by which no two rows have one name at
    one destination; PostgreSQL has no index of long names. `state` is one of `pybak.inbox.states`;
    `kept` says that the source was to stay. Numbers beyond 63 bits are wrapped or clamped
    (`pybak.catalog.rows`).
    """

    __tablename__ = "processed_file"
    __table_args__ = (
        Index("ix_processed_file_job", "job_id", "state"),
        Index("ix_processed_file_name", "name_key", "destination", unique=True),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: int
    run_id: str = Field(index=True, sa_type=PathText)
    path: str = Field(sa_type=PathText)
    size: int = Field(index=True, sa_type=BigInteger)
    mtime_ns: int = Field(sa_type=BigInteger)
    ctime_ns: int = Field(sa_type=BigInteger)
    inode: int = Field(sa_type=BigInteger)
    device: int = Field(sa_type=BigInteger)
    mode: int
    sha256: str | None = Field(default=None, index=True)
    destination: str = Field(sa_type=PathText)
    also: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    name: str | None = Field(default=None, sa_type=PathText)
    name_key: str | None = None
    format: str
    encrypted: bool = False
    stored_size: int | None = Field(default=None, sa_type=BigInteger)
    stored_sha256: str | None = None
    state: str
    duplicate_of: int | None = None
    kept: bool = False
    processed_at: datetime
