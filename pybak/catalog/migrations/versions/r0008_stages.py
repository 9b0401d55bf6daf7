"""How long each stage of a run took."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column; what older runs took in each stage was not kept."""
    op.add_column("run", sa.Column("stages", sa.JSON(), nullable=True))
