"""Which schema a catalog has, and how it gets the present one.

A catalog says which it has in `alembic_version`; those of the first releases lack that table and
are known by their tables. Alembic is imported only where an older catalog must be changed: a new
one is made from the models, and the present one is only looked at.

Everything happens in the transaction of the connection that is given, so whoever is killed leaves
the old state or the new one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect

from pybak.catalog.failures import CatalogError, unusable

if TYPE_CHECKING:
    from sqlalchemy import Connection

# In the order in which they came: pybak/catalog/migrations/versions/.
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD: Final = REVISIONS[-1]
VERSION_TABLE: Final = "alembic_version"

# Which table tells of which revision where the catalog does not; the newest first.
_KNOWN_BY: Final = (("verification", "0002"), ("run", "0001"))
# As Alembic makes it.
_MAKE_VERSION_TABLE: Final = (
    f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
    f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
)


def revision_of(connection: Connection, where: str) -> str | None:
    """Give the catalog's revision, or None for a database that holds no catalog yet.

    Raises CatalogError if a newer PyBak made it, or another program its own tables there.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        query = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - constants only
        found = [str(row[0]) for row in connection.exec_driver_sql(query)]
        if found:
            return _known(found, tables, where)
    return next((revision for table, revision in _KNOWN_BY if table in tables), None)


def _known(found: list[str], tables: set[str], where: str) -> str:
    if len(found) == 1 and found[0] in REVISIONS:
        return found[0]
    if "run" not in tables:
        raise unusable(
            where, "the database belongs to another program", "set PYBAK_CATALOG_URL to another one"
        )
    raise CatalogError(
        f"{where}: this catalog was written by a newer PyBak (schema {', '.join(found)}, this one "
        f"knows up to {HEAD}); update PyBak"
    )


def bring_up_to_date(connection: Connection, where: str) -> None:
    """Make the tables, or change those of an older PyBak, within the open transaction.

    The caller holds the lock that lets only one process at a time do this.
    """
    revision = revision_of(connection, where)
    if revision is None:
        _create(connection)
    elif revision != HEAD:
        _migrate(connection, revision)


def _create(connection: Connection) -> None:
    from sqlmodel import SQLModel

    from pybak.catalog import models  # noqa: F401 - its tables

    SQLModel.metadata.create_all(connection, checkfirst=False)
    _stamp(connection, HEAD)


def _migrate(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    if VERSION_TABLE not in inspect(connection).get_table_names():
        _stamp(connection, revision)
    config = Config()
    config.set_main_option("script_location", migrations_folder().replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _stamp(connection: Connection, revision: str) -> None:
    connection.exec_driver_sql(_MAKE_VERSION_TABLE)
    connection.exec_driver_sql(
        f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{revision}')"  # noqa: S608 - ours
    )


def migrations_folder() -> str:
    """Give the folder of Alembic's environment."""
    return os.path.join(os.path.dirname(__file__), "migrations")
