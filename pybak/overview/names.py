"""Names of a job's members in the order of their bytes, by the index that each database has.

SQLite's index holds whole names, PostgreSQL's the first `NAME_CHARACTERS` of each: a `key`. A key
that is shorter is the name. Names stand here as stored (`pybak.catalog.models.escaped`); they hold
no NUL, so the next name after X begins at X and the character 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection

from pybak.catalog.models import NAME_CHARACTERS, NAME_START
from pybak.catalog.rows import Row, is_postgres
from pybak.overview.sql import row, rows

AFTER: Final = "\x01"
"""What follows a name in the next one possible."""
PAST_FOLDER: Final = "0"
"""The character after the slash: what follows a folder in the next name outside of it."""
_SLOWER: Final = 5
"""How many times longer PostgreSQL takes for a row: its index holds no row's name."""
_HIGHEST: Final = "\U0010ffff"
_WHERE_FOLDER: Final = "kind = 'd'"


class Names(NamedTuple):
    """How statements of one database say this. `table` and `folders` are to be read from."""

    table: str
    folders: str
    key: str
    path: str
    find: str
    char: str

    def cut(self, name: str) -> str:
        """Give the key of a name."""
        return name if self.key == "path" else name[:NAME_CHARACTERS]

    def is_cut(self, key: str) -> bool:
        """Whether a key may be only the start of a name."""
        return self.key != "path" and len(key) >= NAME_CHARACTERS


_SQLITE: Final = Names(
    "file_version INDEXED BY ix_file_version_name",
    "file_version INDEXED BY ix_file_version_folder",
    "path", "path", "instr", "char",
)  # fmt: skip
_POSTGRES: Final = Names(
    "file_version", "file_version", NAME_START, 'path COLLATE "C"', "strpos", "chr"
)


def names_of(connection: Connection) -> Names:
    """Give how this database says it."""
    return _POSTGRES if is_postgres(connection) else _SQLITE


def children(
    connection: Connection, job: int, folder: str, start: str, count: int, *, folders: bool
) -> list[str]:
    """Step through what lies in a folder, from the key `start` on: at most `count` keys.

    `folder` is empty or ends with a slash. Of what lies in a folder below only the first key comes.
    With `folders` only names of folders are looked at. Each step is one search in the index. A key
    that `is_cut` may stand for several names, and for what lies below them; then see `long_names`.
    """
    names = names_of(connection)
    table = names.folders if folders else names.table
    only = f" AND {_WHERE_FOLDER}" if folders else ""
    end = folder[:-1] + PAST_FOLDER if folder else _HIGHEST
    rest = f"substr(k, {len(folder) + 1})"
    # From a name in a folder below to the first outside of that, else to the next name.
    following = (
        f"CASE WHEN {names.find}({rest}, '/') > 0 "
        f"THEN substr(k, 1, {len(folder)} + {names.find}({rest}, '/') - 1) || '{PAST_FOLDER}' "
        f"ELSE k || {names.char}(1) END"
    )
    step = (
        f"SELECT {names.key} FROM {table} WHERE job_id = ?{only} AND {names.key} >= {{}} "  # noqa: S608 - our own names
        f"AND {names.key} < ? ORDER BY job_id, {names.key} LIMIT 1"
    )
    statement = (
        f"WITH RECURSIVE step(k, n) AS (SELECT ({step.format('?')}), 1 UNION ALL "  # noqa: S608 - our own names
        f"SELECT ({step.format(following)}), n + 1 FROM step WHERE k IS NOT NULL AND n < ?) "
        "SELECT k FROM step WHERE k IS NOT NULL"
    )
    found = rows(connection, statement, (job, names.cut(start), end, job, end, count))
    return [one[0] for one in found]


def long_names(connection: Connection, job: int, key: str) -> list[str]:
    """Give all names, each once, that begin with a key that `is_cut`."""
    names = names_of(connection)
    statement = (
        f"SELECT DISTINCT {names.path} AS name FROM {names.table} "  # noqa: S608 - our own names
        f"WHERE job_id = ? AND {names.key} = ? ORDER BY name"
    )
    return [one[0] for one in rows(connection, statement, (job, key))]


def is_below(
    connection: Connection, job: int, folder: str, seq: int, *, folders: bool = False
) -> bool:
    """Whether a snapshot has anything in a folder, which ends with a slash; or any folder there."""
    names = names_of(connection)
    table = names.folders if folders else names.table
    only = f" AND {_WHERE_FOLDER}" if folders else ""
    end = folder[:-1] + PAST_FOLDER
    statement = (
        f"SELECT 1 FROM {table} WHERE job_id = ?{only} AND {names.key} >= ? AND {names.key} <= ? "  # noqa: S608 - our own names
        f"AND {names.path} >= ? AND {names.path} < ? "
        "AND first_seq <= ? AND COALESCE(gone_seq, 2147483647) > ? LIMIT 1"
    )
    place = (job, names.cut(folder), names.cut(end), folder, end, seq, seq)
    return row(connection, statement, place) is not None


def in_snapshot(
    connection: Connection, job: int, paths: Sequence[str], seq: int, columns: str
) -> dict[str, Row]:
    """Give, by name, `columns` of the versions that a snapshot has of these members."""
    if not paths:
        return {}
    names = names_of(connection)
    found: dict[str, Row] = {}
    values = ", ".join(["(CAST(? AS TEXT))"] * len(paths))
    statement = (
        f"WITH w(name) AS (VALUES {values}) SELECT {columns} FROM w CROSS JOIN "  # noqa: S608 - our own names
        f"{names.table.replace('file_version', 'file_version v', 1)} WHERE v.job_id = ? "
        "AND v.path = w.name AND v.first_seq <= ? AND COALESCE(v.gone_seq, 2147483647) > ?"
    )
    for one in rows(connection, statement, (*paths, job, seq, seq)):
        found[one[0]] = one
    return found


class Window(NamedTuple):
    """A bounded run of a job's names: those up to the key `end`, and less than `before`.

    Without an `end` it reaches to the last name there is, or the last less than `before`.
    """

    end: str | None
    before: str | None
    rows: int

    def last(self, names: Names) -> str | None:
        """Give the name after which the next window begins; None where there is none."""
        if self.end is not None and names.is_cut(self.end):
            return self.end + _HIGHEST
        return self.end


def rows_at_once(connection: Connection, most: int) -> int:
    """Give how many rows a page may go through, of `most` in SQLite."""
    return max(most // _SLOWER, 1) if is_postgres(connection) else most


def window(
    connection: Connection, job: int, *, after: str, before: str | None, most: int
) -> Window:
    """Give the window of `most` rows that begins after a name."""
    names = names_of(connection)
    place: Row = (job, names.cut(after), after)
    following = f"FROM {names.table} WHERE job_id = ? AND {names.key} >= ? AND {names.path} > ?"
    if before is not None:
        following += f" AND {names.key} <= ?"
        place = (*place, names.cut(before))
    order = f"ORDER BY job_id, {names.key}"
    statement = f"SELECT {names.key} {following} {order} LIMIT 1 OFFSET ?"
    found = row(connection, statement, (*place, most))
    if found is not None:
        return Window(str(found[0]), before, most)
    # At least those that are left, by an index that has no names.
    statement = (
        "SELECT COUNT(*) FROM (SELECT 1 FROM file_version WHERE job_id = ? LIMIT ?) AS counted"
    )
    counted = row(connection, statement, (job, most))
    return Window(None, before, counted[0] if counted else 0)


def matching(
    connection: Connection,
    job: int,
    *,
    after: str,
    window: Window,
    condition: tuple[str, Row],
    count: int,
) -> list[str]:
    """Give the first `count` names after a name in a window that a condition holds for.

    Each comes once, in order. The condition is one of rows, with its parameters.
    """
    names = names_of(connection)
    limits: list[tuple[str, str]] = [
        (f"{names.key} >= ?", names.cut(after)), (f"{names.path} > ?", after)
    ]  # fmt: skip
    if window.before is not None:
        limits.append((f"{names.key} <= ?", names.cut(window.before)))
        limits.append((f"{names.path} < ?", window.before))
    if window.end is not None:  # all rows of one key belong together, however many there are
        limits.append((f"{names.key} <= ?", window.end))
    wheres = " AND ".join(where for where, _ in limits)
    statement = (
        f"SELECT {names.path} AS name FROM {names.table} "  # noqa: S608 - our own names
        f"WHERE job_id = ? AND {wheres} AND {condition[0]} GROUP BY 1 ORDER BY 1 LIMIT ?"
    )
    values = (job, *(value for _, value in limits), *condition[1], count)
    return [str(one[0]) for one in rows(connection, statement, values)]
