"""History: archives with their volumes, every version of every file, what could not be saved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables, and let runs tell of their snapshots."""
    op.add_column("run", sa.Column("mode", sa.String(), nullable=True))
    op.add_column("run", sa.Column("base_run", sa.String(), nullable=True))
    op.add_column("run", sa.Column("full_run", sa.String(), nullable=True))
    op.add_column("run", sa.Column("tags", sa.JSON(), server_default="[]", nullable=False))
    op.add_column(
        "run", sa.Column("is_snapshot", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    _archives()
    _versions()
    op.create_table(
        "file_error",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_file_error_run_id", "file_error", ["run_id"])


def _archives() -> None:
    op.create_table(
        "archive",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("run_id", "job", "name"):
        op.create_index(f"ix_archive_{column}", "archive", [column])
    op.create_table(
        "volume",
        sa.Column("archive_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("parts", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("archive_id", "number"),
        sa.ForeignKeyConstraint(["archive_id"], ["archive.id"]),
    )


def _versions() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    numbers = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "file_version",
        sa.Column("id", numbers, nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("ctime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("device", sa.BigInteger(), nullable=True),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("uid", sa.BigInteger(), nullable=False),
        sa.Column("gid", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("parts", sa.JSON(), nullable=True),
        sa.Column("archive_id", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("gone_seq", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_file_version_path", "file_version", ["path"], postgresql_using="hash")
    op.create_index("ix_file_version_job", "file_version", ["job_id", "first_seq"])
