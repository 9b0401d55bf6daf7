"""What goes wrong with the catalog's database, told in one line: where, what, and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pybak.errors import PyBakError

REBUILD: Final = "move it away and run `python flows/rebuild.py DESTINATION`"
_LOCKED: Final = "another program holds it; try again when that has ended"
_FULL: Final = "free space on its disk"
_WRITABLE: Final = "see that it and its folder can be written, or set PYBAK_CATALOG_URL"
_SERVER: Final = "see that its server runs, or correct PYBAK_CATALOG_URL"

# Primary result codes, https://sqlite.org/rescode.html
_SQLITE_ADVICE: Final = {
    1: REBUILD,  # SQLITE_ERROR: a table or column that should be there is not
    5: _LOCKED,  # SQLITE_BUSY
    6: _LOCKED,  # SQLITE_LOCKED
    8: _WRITABLE,  # SQLITE_READONLY
    10: "look at its disk",  # SQLITE_IOERR
    11: REBUILD,  # SQLITE_CORRUPT
    13: _FULL,  # SQLITE_FULL
    14: _WRITABLE,  # SQLITE_CANTOPEN
    26: REBUILD,  # SQLITE_NOTADB
}
# PostgreSQL's error codes, whole or by class: appendix A of its manual.
_POSTGRES_ADVICE: Final = {
    "08": _SERVER,
    "25006": "its server takes no changes; use another",
    "28": "correct the name and password in PYBAK_CATALOG_URL",
    "3D": "make the database with `createdb`, or correct PYBAK_CATALOG_URL",
    "42501": "its owner must allow this user to make and change tables",
    "42": "make an empty database, set PYBAK_CATALOG_URL to it and run `python flows/rebuild.py`",
    "53100": _FULL,
    "54": "give the job a shorter name with --job",
    "53300": "too many connections; try again later",
    "55P03": _LOCKED,
    "57": _SERVER,
}


class CatalogError(PyBakError):
    """The catalog can't be read or written."""


def unusable(where: str, what: str, advice: str | None = None) -> CatalogError:
    """Give the error for a catalog at `where`; all three are parts of one line."""
    told = f"{where}: the catalog can't be used ({what})"
    return CatalogError(f"{told}; {advice}" if advice else told)


@contextmanager
def translated(where: str, *, opening: bool = False) -> Iterator[None]:
    """Turn what databases and their drivers raise into CatalogError.

    Only while `opening` are other failures of the system the catalog's: what works inside a
    transaction may also read files.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, UnicodeError, OverflowError) as error:
        raise _told(where, error) from error
    except (OSError, ImportError) as error:
        if not opening:
            raise
        raise _told(where, error) from error
    except Exception as error:
        if not _of_psycopg(error):
            raise
        raise _told(where, error) from error


def sqlite_code(error: BaseException) -> int | None:
    """Give the primary result code of what SQLite raised."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _told(where: str, error: Exception) -> CatalogError:
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError) and cause.strerror:
        return unusable(where, cause.strerror, _WRITABLE)
    lines = str(cause).splitlines() or [type(cause).__name__]
    return unusable(where, lines[0].strip(), _advice(cause))


def _advice(cause: BaseException) -> str | None:
    if isinstance(cause, ImportError):
        return "install it, or correct PYBAK_CATALOG_URL"
    if (code := sqlite_code(cause)) is not None:
        return _SQLITE_ADVICE.get(code)
    if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.OperationalError):
        return None
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return _POSTGRES_ADVICE.get(state) or _POSTGRES_ADVICE.get(state[:2])
    return _SERVER if _of_psycopg(cause) else None


def _of_psycopg(error: BaseException) -> bool:
    """Tell without importing it, which costs time that SQLite does not need."""
    return any(base.__module__.startswith("psycopg") for base in type(error).__mro__)
