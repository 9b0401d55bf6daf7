"""What is taken from each archive of a chain, and what becomes of it in the new one.

Most members are taken as they are. Others are told anew: a hard link whose file is not taken
becomes that file, and so does a snapshot's row of which an archive holds the content alone, under
the name of another member (`pybak.catalog.models.FileVersion`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pybak.catalog.engine import Database
from pybak.catalog.facts import Snapshot
from pybak.catalog.history import History
from pybak.catalog.models import escaped, unescaped
from pybak.catalog.rows import COLUMNS, Row, stream, unwrapped
from pybak.display import printable
from pybak.entries import FILE, HARD_LINK
from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats.manifest_facts import FullFact

_BUFFERED: Final = 8 << 20


class Told(NamedTuple):
    """What a file is to be called and to say of itself in the new archive.

    With `is_link` it is a link to the file that is told so, and has what else that has.
    """

    fact: FullFact
    is_link: bool = False


class Wanted(NamedTuple):
    """What is taken from one archive: members as they are, and what is told of others, by name."""

    names: frozenset[bytes]
    told: Mapping[bytes, list[Told]]

    def __len__(self) -> int:
        return len(self.names) + sum(map(len, self.told.values()))


@dataclass
class Taken:
    """What came of an archive: how many members, whose they are, and which are something else."""

    members: int = 0
    users: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    rewritten: list[FullFact] = field(default_factory=list)

    def add(self, other: Taken) -> None:
        """Count what was taken from another archive too."""
        self.members += other.members
        self.users |= other.users
        self.groups |= other.groups
        self.rewritten += other.rewritten


class Rows:
    """The rows of a snapshot by archive: names lie in files of `folder` until they are asked for.

    So memory holds those of one archive at a time.
    """

    def __init__(self, database: Database, snapshot: Snapshot, folder: Path) -> None:
        """Read the names of all members. Raises OSError, CatalogError."""
        self._database = database
        self._snapshot = snapshot
        self._folder = folder
        self._lenders: set[int] = set()
        self._waiting: dict[int, list[bytes]] = {}
        size = 0
        for name, archive, is_reference in History(database).names(snapshot):
            if is_reference:
                self._lenders.add(archive)
                continue
            self._waiting.setdefault(archive, []).append(name)
            size += len(name)
            if size >= _BUFFERED:
                self._write()
                size = 0
        self._write()

    def _path(self, archive: int) -> Path:
        return self._folder / f"names-{archive}"

    def _write(self) -> None:
        for archive, names in self._waiting.items():
            with self._path(archive).open("ab") as out:
                out.write(b"".join(name + b"\0" for name in names))
        self._waiting.clear()

    def take(self, archive: int) -> Wanted:
        """Give what is taken from one archive, once. Raises OSError, CatalogError."""
        path = self._path(archive)
        names: frozenset[bytes] = frozenset()
        with suppress(FileNotFoundError):
            names = frozenset(path.read_bytes().split(b"\0")[:-1])
            path.unlink()
        return Wanted(names, self._told(archive) if archive in self._lenders else {})

    def _told(self, archive: int) -> dict[bytes, list[Told]]:
        snapshot = self._snapshot
        statement = (
            f"SELECT {', '.join(COLUMNS)} FROM file_version "  # noqa: S608 - our own names
            "WHERE job_id = (SELECT id FROM job WHERE name = ?) AND first_seq <= ? "
            "AND (gone_seq IS NULL OR gone_seq > ?) AND archive_id = ? AND member IS NOT NULL "
            "ORDER BY path"
        )
        place = (escaped(snapshot.job), snapshot.seq, snapshot.seq, archive)
        told: dict[bytes, list[Told]] = {}
        with self._database.reading() as connection:
            for row in stream(connection, statement, place):
                member = os.fsencode(unescaped(row[COLUMNS.index("member")]))
                told.setdefault(member, []).append(Told(_fact_of(row)))
        return told


def _fact_of(row: Row) -> FullFact:
    """Give what a row of COLUMNS tells, without its content's digests."""
    one = dict(zip(COLUMNS, row, strict=True))
    device = one["device"]
    return FullFact(
        path=unescaped(one["path"]), type=one["kind"], size=one["size"], mtime_ns=one["mtime_ns"],
        ctime_ns=one["ctime_ns"], inode=unwrapped(one["inode"]), mode=one["mode"], uid=one["uid"],
        gid=one["gid"], dev=None if device is None else unwrapped(device),
    )  # fmt: skip


def find_heirs(lines: Iterable[FullFact], names: frozenset[bytes]) -> dict[bytes, FullFact]:
    """Give the first link that is taken to each file that is not, by the file's name."""
    heirs: dict[bytes, FullFact] = {}
    for line in lines:
        if line.type == HARD_LINK and line.path is not None and line.name in names:
            target = target_of(line)
            if target not in names:
                heirs.setdefault(target, line)
    return heirs


def target_of(link: FullFact) -> bytes:
    """Give the name of the member that a link stands for."""
    return (link.link or "").encode("utf-8", "surrogateescape")


def as_told(file: FullFact, told: Told) -> FullFact:
    """Give the line of a file in other words. Raises ArchiveError for what is no file."""
    if file.type != FILE:
        raise ArchiveError(
            f"{printable(file.name)} is no file, and should be; check it with verify"
        )
    return msgspec.structs.replace(
        told.fact, type=FILE, size=file.size, sha256=file.sha256, parts=file.parts, link=None,
        changed=file.changed, sparse=file.sparse, holes=file.holes,
    )  # fmt: skip


def line_of(fact: FullFact, at: tuple[int, int] | None = None) -> str:
    """Give a member's line for the new manifest; in a tar archive it lies `at` these places."""
    return manifest.record_line(
        fact.name, fact.type, fact.size, fact.mtime_ns, fact.ctime_ns, fact.inode, fact.mode,
        fact.uid, fact.gid, sha256=fact.sha256, parts=fact.parts or None,
        link=None if fact.link is None else target_of(fact),
        changed=fact.changed, device=fact.device, dev=fact.dev, at=at, sparse=fact.sparse,
        holes=fact.holes,
    )  # fmt: skip
