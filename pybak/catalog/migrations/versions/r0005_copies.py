"""Copies: an archive may lie in more than one place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables of copies and of their files."""
    op.create_table(
        "archive_copy",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("archive_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["archive_id"], ["archive.id"]),
    )
    for column in ("archive_id", "name"):
        op.create_index(f"ix_archive_copy_{column}", "archive_copy", [column])
    op.create_table(
        "copy_volume",
        sa.Column("copy_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("parts", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("copy_id", "number"),
        sa.ForeignKeyConstraint(["copy_id"], ["archive_copy.id"]),
    )
