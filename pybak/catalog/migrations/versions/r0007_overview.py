"""Indexes for pages of runs, archives and names; how much archives hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# As PostgreSQL keeps names in order: `pybak.catalog.models.NAME_START`.
_NAME_START = 'left(path, 500) COLLATE "C"'


def upgrade() -> None:
    """Add a column, and put wider indexes into the place of some."""
    op.add_column("archive", sa.Column("content_size", sa.BigInteger(), nullable=True))
    for column in ("kind", "job", "status"):
        op.drop_index(f"ix_run_{column}", "run")
        op.create_index(f"ix_run_{column}_time", "run", [column, "started_at", "run_id"])
    op.create_index("ix_run_time", "run", ["started_at", "run_id"])
    op.create_index("ix_run_kind_job", "run", ["kind", "job", "seq"])
    op.create_index("ix_run_snapshot", "run", ["job", "is_snapshot", "seq"])
    op.drop_index("ix_archive_job", "archive")
    op.create_index("ix_archive_job", "archive", ["job", "id"])
    op.create_index("ix_archive_size", "archive", ["job", "state", "size"])
    op.drop_index("ix_file_error_run_id", "file_error")
    op.create_index("ix_file_error_run", "file_error", ["run_id", "id"])
    _names()


def _names() -> None:
    op.create_index("ix_file_version_archive", "file_version", ["archive_id"])
    folders = sa.text("kind = 'd'")
    if op.get_context().dialect.name == "postgresql":
        start = sa.text(_NAME_START)
        op.create_index(
            "ix_file_version_name_start", "file_version", ["job_id", start, "first_seq"]
        )
        op.create_index(
            "ix_file_version_folder_start", "file_version", ["job_id", start],
            postgresql_where=folders,
        )  # fmt: skip
        return
    op.drop_index("ix_file_version_path", "file_version")
    op.create_index("ix_file_version_name", "file_version", ["job_id", "path", "first_seq"])
    op.create_index(
        "ix_file_version_folder", "file_version", ["job_id", "path"], sqlite_where=folders
    )
