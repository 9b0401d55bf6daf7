"""Alembic's environment: it works on the connection, and in the transaction, of whoever asks.

`pybak.catalog.schema` runs it. A new revision is written by hand, and named in `REVISIONS` there.
"""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from pybak.catalog import models  # noqa: F401 - its tables

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata
)
with context.begin_transaction():
    context.run_migrations()
