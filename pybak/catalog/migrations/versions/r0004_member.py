"""References: a version may have its content under another name in its archive."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let versions name the member that holds their content."""
    op.add_column("file_version", sa.Column("member", sa.String(), nullable=True))
