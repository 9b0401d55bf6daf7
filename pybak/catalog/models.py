"""The catalog's tables."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Dialect, String, TypeDecorator, UniqueConstraint
from sqlmodel import Field, SQLModel

_ESCAPED = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")


class PathText(TypeDecorator[str]):
    r"""Text that may hold names from the disk, whose bytes need not be UTF-8 (PEP 383).

    Such a byte is stored as `\xNN`, a backslash as two of them.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """Escape; raises UnicodeError for text that no name on disk gives."""
        if value is None:
            return None
        data = value.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "backslashreplace")

    def process_result_value(self, value: str | None, _dialect: Dialect) -> str | None:
        """Undo that."""
        return None if value is None else _ESCAPED.sub(_unescaped, value)


def _unescaped(found: re.Match[str]) -> str:
    return chr(0xDC00 + int(found[1], 16)) if found[1] else "\\"


class Run(SQLModel, table=True):
    """One run of one flow. Times are in UTC.

    `seq` counts the runs of a job from 1. `counts` and `options` are what the report and the
    parameters said; neither holds secrets.
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
