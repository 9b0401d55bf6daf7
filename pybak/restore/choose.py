"""From an archive to what is to be restored of it: items, folders, and what is refused and why.

Reads the archive's directory and manifest; touches nothing else.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from pybak.entries import FILE, FOLDER, KIND_NAMES, LINK
from pybak.errors import ArchiveError
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.zip_reader import MAX_ID, Identity, Limits, Member, ZipFile
from pybak.problems import DAMAGED, NO_MATCH, UNREADABLE, UNSUPPORTED, Problem
from pybak.restore.facts import Fact, find_manifest, read_facts
from pybak.restore.items import NO_OWNER, Folder, Item
from pybak.restore.names import UnsafeName, safe_name
from pybak.restore.select import Selector

_MAX_SECONDS = 1 << 60
_BILLION = 1_000_000_000


class Chosen(NamedTuple):
    """What to restore. Folders come parents first; `problems` are about members left out.

    `failed` and `skipped` count the files and links among those.
    """

    label: str
    identity: Identity
    has_manifest: bool
    files: list[Item]
    links: list[Item]
    folders: list[Folder]
    problems: list[Problem]
    failed: int
    skipped: int


def choose(archive: bytes, selector: Selector, limits: Limits) -> Chosen:
    """Read what an archive holds and pick what `selector` wants.

    Raises ArchiveError if the archive as a whole can't be used: damaged, encrypted, or a bomb by
    `limits`; NotFoundError, PlanError or StorageError if it can't be opened.
    """
    with ZipFile(archive) as source:
        directory = source.directory(max_members=limits.members)
        problems: list[Problem] = []
        facts: dict[bytes, Fact] = {}
        manifest = find_manifest(directory)
        if manifest is not None:
            try:
                facts = read_facts(source, directory, manifest)
            except ArchiveError as error:
                message = f"{error}; contents are checked by CRC-32 only"
                problems.append(Problem(os.fsdecode(MEMBER_NAME), DAMAGED, message))
        picker = _Picker(source, selector, facts, problems)
        for index, member in enumerate(directory.members):
            if member.name != MEMBER_NAME:
                picker.add(member, directory.limits[index], index in directory.clashes)
        picker.report_missing()
        items = [item for item in picker.items if item is not None]
        if not items and picker.encrypted:
            raise ArchiveError(f"{source.label}: is encrypted; this version can't open it")
        source.check_limits([item.member for item in items], limits)
        folders = _folders(items)
        files, links = picker.split(items, folders)
        problems += (
            Problem(pattern, NO_MATCH, "include pattern that matches no member")
            for pattern in selector.unmatched()
        )
        return Chosen(
            source.label, source.identity, manifest is not None, files, links,
            sorted(folders.values(), key=_path), problems, picker.failed, picker.skipped,
        )  # fmt: skip


class _Picker:
    """Collects items in the directory's order; of members with one path, the last wins."""

    def __init__(
        self,
        source: ZipFile,
        selector: Selector,
        facts: dict[bytes, Fact],
        problems: list[Problem],
    ) -> None:
        self.items: list[Item | None] = []
        self.encrypted = self.failed = self.skipped = 0
        self._source = source
        self._selector = selector
        self._takes_all = selector.takes_all
        self._facts = facts
        self._had_facts = bool(facts)
        self._problems = problems
        self._places: dict[bytes, int] = {}

    def add(self, member: Member, limit: int, clashes: bool) -> None:
        """Take one member, or say why not."""
        name = member.name
        # Taken out, so that in the end those are left that the archive should hold as well.
        fact = self._facts.pop(name.rstrip(b"/"), None) if self._had_facts else None
        mode = member.mode
        kind = FILE if mode >> 12 == 0o10 and name[-1:] != b"/" else member.kind
        try:
            path = safe_name(name)
        except UnsafeName as error:
            if self._takes_all or self._selector.wants(name, is_folder=kind == FOLDER):
                self._refuse(name, kind, DAMAGED, f"refused: its name {error}")
            return
        if not path:
            if kind != FOLDER:
                self._refuse(name, kind, DAMAGED, "refused: it has no name")
            return
        if not self._takes_all and not self._selector.wants(path, is_folder=kind == FOLDER):
            return
        if not member.is_plain and kind != FOLDER:
            self.encrypted += member.is_encrypted
            self._refuse(path, kind, UNREADABLE, self._source.refusal(member) or "")
            return
        if clashes and kind != FOLDER:
            self._refuse(path, kind, DAMAGED, "its bytes overlap others or lie outside")
            return
        if kind not in (FILE, LINK, FOLDER):
            what = KIND_NAMES[kind]
            self._refuse(path, kind, UNSUPPORTED, f"is a {what}, which is not restored from ZIP")
            return
        if fact is None:
            self._put(path, _item(path, kind, member, limit))
        elif fact.type != kind:
            self._refuse(path, kind, DAMAGED, "is of another kind than the manifest says")
        else:
            seconds, nanos = divmod(fact.mtime_ns, _BILLION)
            uid, gid = fact.uid, fact.gid
            if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
                uid = gid = NO_OWNER
            if not -_MAX_SECONDS < seconds < _MAX_SECONDS:
                seconds = max(min(seconds, _MAX_SECONDS), -_MAX_SECONDS)
            self._put(
                path,
                Item(
                    path, kind, member, limit, seconds, nanos, 1, fact.mode & 0o7777, uid, gid,
                    fact.sha256 or "", fact.parts,
                ),
            )  # fmt: skip

    def _put(self, path: bytes, item: Item) -> None:
        place = self._places.setdefault(path, len(self.items))
        if place < len(self.items):
            earlier = self.items[place]
            self.items[place] = None
            self._places[path] = len(self.items)
            if earlier is not None:
                message = "the archive holds it more than once; the last one is restored"
                self._refuse(path, earlier.kind, UNSUPPORTED, message)
        self.items.append(item)

    def _refuse(self, path: bytes, kind: str, code: str, message: str) -> None:
        problem = Problem(os.fsdecode(path), code, message)
        self._problems.append(problem)
        if kind != FOLDER:
            if problem.is_skip:
                self.skipped += 1
            else:
                self.failed += 1

    def report_missing(self) -> None:
        """Name what the manifest lists and the archive does not hold."""
        for name, fact in self._facts.items():
            if self._takes_all or self._selector.wants(name, is_folder=fact.type == FOLDER):
                message = "the manifest lists it, the archive does not hold it"
                self._refuse(name, fact.type, DAMAGED, message)

    def split(
        self, items: list[Item], folders: dict[bytes, Folder]
    ) -> tuple[list[Item], list[Item]]:
        """Give files and links, without those that must be folders for the sake of others."""
        files: list[Item] = []
        links: list[Item] = []
        for item in items:
            if item.kind == FOLDER:
                continue
            if item.path in folders:
                message = f"is a {KIND_NAMES[item.kind]} and a folder in this archive"
                self._refuse(item.path, item.kind, DAMAGED, message)
                continue
            (files if item.kind == FILE else links).append(item)
        return files, links


def _item(path: bytes, kind: str, member: Member, limit: int) -> Item:
    """Make an item of what the archive's directory tells, without a manifest."""
    mtime_ns, precision = member.mtime()
    seconds, nanos = divmod(mtime_ns, _BILLION)
    # Many tools write no mode at all; a mode without any bit is taken for none.
    mode = stat.S_IMODE(member.mode) if member.mode else -1
    return Item(
        path, kind, member, limit, seconds, nanos, precision, mode, NO_OWNER, NO_OWNER, ""
    )  # fmt: skip


def _folders(items: list[Item]) -> dict[bytes, Folder]:
    """Give the folder members and all the folders that members lie in."""
    folders = {
        item.path: Folder(
            item.path, True, item.seconds, item.nanos, item.mode, item.uid, item.gid
        )
        for item in items
        if item.kind == FOLDER
    }  # fmt: skip
    done: set[bytes] = set()
    for item in items:
        path = item.path
        while (path := path.rpartition(b"/")[0]) and path not in done:
            done.add(path)
            if path not in folders:
                folders[path] = Folder(path)
    return folders


def _path(folder: Folder) -> bytes:
    return folder.path
