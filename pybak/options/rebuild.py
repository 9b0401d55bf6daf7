"""What a rebuild of the catalog can be told."""

from __future__ import annotations

from pydantic import Field

from pybak.options import shared
from pybak.options.fields import cli
from pybak.options.notices import NoticeOptions


class RebuildOptions(NoticeOptions):
    """How the catalog is made anew."""

    password_block: str | None = shared.password_block(
        "The Prefect block that holds the password of encrypted archives."
    )
    no_digests: bool = Field(
        default=False,
        title="No digests",
        description="Do not read the archives through for their SHA-256; only their file lists.",
        json_schema_extra=cli("--no-digests"),
    )
    replace: bool = Field(
        default=False,
        title="Replace",
        description=(
            "Delete what a catalog on PostgreSQL holds. Of an SQLite file the old one is kept."
        ),
        json_schema_extra=cli("--replace"),
    )
    workers: int | None = shared.workers(
        "How many files are read side by side. Empty: the program picks."
    )
    dry_run: bool = shared.dry_run("Show which archives there are and write nothing.")
