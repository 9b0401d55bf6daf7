"""One folder of a snapshot: folders first, then all else, each by name.

What lies below is stepped over, so a page costs what it shows, not what the folder holds. Names
that only other snapshots have are steps too; after `STEPS` of them a page ends, and may be short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from pybak.entries import FOLDER
from pybak.overview.facts import Member
from pybak.overview.member import (
    COLUMNS,
    implied_folder,
    job_number,
    member_of,
    snapshot_number,
    stored_name,
)
from pybak.overview.names import AFTER, children, in_snapshot, is_below, long_names, names_of
from pybak.overview.paging import Page, checked_limit, from_cursor, to_cursor

STEPS: Final = 2000
"""How many names a page looks at, at most."""
_AT_ONCE: Final = 100


def list_folder(
    connection: Connection,
    *,
    job: str,
    run_id: str | None,
    folder: bytes,
    cursor: str | None,
    limit: int,
) -> Page[Member]:
    """List what lies in `folder` (empty for the top) in a snapshot, the newest without an id.

    A folder that is not there is empty. Raises NotFoundError for a job or a snapshot.
    """
    limit = checked_limit(limit)
    key = from_cursor(cursor, (bool, str))
    number = job_number(connection, job)
    seq = snapshot_number(connection, job, run_id)
    prefix = stored_name(folder)
    listing = _Listing(connection, number, seq, prefix + "/" if prefix else "")
    phases = [(True, ""), (False, "")]
    if key is not None:
        phases = [(True, str(key[1])), (False, "")] if key[0] else [(False, str(key[1]))]
    items: list[Member] = []
    steps = 0
    for in_folders, last in phases:
        before = last
        for name, member in listing.found(last, folders=in_folders, count=limit + 1):
            if member is not None:
                if len(items) == limit:
                    return Page(tuple(items), to_cursor(in_folders, before))
                items.append(member)
            before = name
            steps += 1
            if steps >= STEPS:
                return Page(tuple(items), to_cursor(in_folders, before))
    return Page(tuple(items))


class _Listing:
    """A folder that is gone through; `prefix` is its name as stored, with a slash, or empty."""

    def __init__(self, connection: Connection, job: int, seq: int, prefix: str) -> None:
        self._connection = connection
        self._names = names_of(connection)
        self._job = job
        self._seq = seq
        self._prefix = prefix

    def found(self, last: str, *, folders: bool, count: int) -> Iterator[tuple[str, Member | None]]:
        """Yield each name after `last`, and the member that it stands for, if any."""
        start = self._after(last) if last else self._prefix
        count = min(count, _AT_ONCE)
        while True:
            keys = children(
                self._connection, self._job, self._prefix, start, count, folders=folders
            )
            names = [name for name in self._expanded(keys) if name > last]
            yield from zip(names, self._members(names, folders=folders), strict=True)
            if len(keys) < count:
                return
            last = names[-1] if names else last
            # All names of a key that is cut are there.
            cut = self._names.is_cut(keys[-1]) and "/" not in keys[-1][len(self._prefix) :]
            start = keys[-1] + AFTER if cut else self._after(keys[-1])

    def _after(self, name: str) -> str:
        """Give where the search goes on after a name."""
        child, slash, _ = name[len(self._prefix) :].partition("/")
        if slash:
            return f"{self._prefix}{child}0"
        return name if self._names.is_cut(self._names.cut(name)) else name + AFTER

    def _expanded(self, keys: list[str]) -> Iterator[str]:
        for key in keys:
            if self._names.is_cut(key) and "/" not in key[len(self._prefix) :]:
                yield from self._without_repeats(long_names(self._connection, self._job, key))
            else:
                yield key

    def _without_repeats(self, names: list[str]) -> Iterator[str]:
        """Yield of what lies in folders below only the first name."""
        seen = ""
        for name in names:
            child, slash, _ = name[len(self._prefix) :].partition("/")
            if slash and child == seen:
                continue
            seen = child if slash else ""
            yield name

    def _members(self, names: list[str], *, folders: bool) -> Iterator[Member | None]:
        """Yield the members that names stand for in the snapshot."""
        owns = [self._child(name) for name in names]
        rows = in_snapshot(
            self._connection, self._job, list(dict.fromkeys(owns)), self._seq, COLUMNS
        )
        for name, own in zip(names, owns, strict=True):
            row = rows.get(own)
            if name == own:
                is_folder = row is not None and row[1] == FOLDER
                yield member_of(row) if row is not None and is_folder == folders else None
            elif row is not None or not self._is_implied(own + "/", folders=folders):
                yield None
            else:
                yield implied_folder(own)

    def _child(self, name: str) -> str:
        return self._prefix + name[len(self._prefix) :].partition("/")[0]

    def _is_implied(self, folder: str, *, folders: bool) -> bool:
        """Whether only names of what lies in a folder tell of it: of folders, or of none."""
        among = is_below(self._connection, self._job, folder, self._seq, folders=True)
        if folders:
            return among or is_below(self._connection, self._job, folder, self._seq)
        return not among and is_below(self._connection, self._job, folder, self._seq)
