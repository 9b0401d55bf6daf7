"""From listings of archives to what is restored of them: items, folders, what is refused and why.

Touches nothing on disk.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec

from pybak.display import printable
from pybak.entries import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    KIND_NAMES,
    LINK,
)
from pybak.formats.archive import MAX_ID, TooLargeError
from pybak.formats.listing import NO_OWNER, Listed, Listing, bounded_time
from pybak.problems import DAMAGED, NO_MATCH, NOT_FOUND, UNSUPPORTED, Problem
from pybak.restore.hard_links import FirstNames, Unusable
from pybak.restore.items import Folder, Item
from pybak.restore.names import flaw_of, path_of
from pybak.restore.owners import FindOwner, OwnerNames
from pybak.restore.select import Selector
from pybak.restore.snapshot import Reference, Share
from pybak.units import format_size

_MAX_SECONDS: Final = 1 << 60
_MAX_FOLDERS: Final = 1 << 30  # bytes of names of folders that are no members
_BILLION: Final = 1_000_000_000
_DEVICES: Final = frozenset({CHAR_DEVICE, BLOCK_DEVICE})
_RESTORED: Final = frozenset({FILE, LINK, HARD_LINK, FIFO, FOLDER, *_DEVICES})


class Chosen(NamedTuple):
    """What to restore of one archive; `problems` are about members left out.

    `items` are in the archive's order, folders among them. `listed` are the files chosen, for
    limits to be checked. `failed` and `skipped` count the files and links among the problems.
    """

    items: list[Item]
    listed: list[Listed]
    problems: list[Problem]
    failed: int
    skipped: int


class Sorted(NamedTuple):
    """The items of one archive by when they are made.

    `files` are what batches write: files, FIFOs, devices; `links` come after all of them: hard
    links, then symbolic ones. `headers` are the folders that are members.
    """

    files: list[Item]
    links: list[Item]
    headers: list[Item]


def choose(
    listing: Listing,
    selector: Selector,
    find_owner: FindOwner,
    *,
    is_root: bool,
    share: Share | None = None,
    owners: Mapping[str, OwnerNames] | None = None,
) -> Chosen:
    """Pick what `selector` wants, of all members or of what `share` takes.

    `find_owner` gives the ids that an owner means here; `owners` are what ids meant to the runs
    that told of references.
    """
    names = share.names if share is not None else None
    picker = _Picker(listing, selector, find_owner, is_root=is_root, names=names)
    for number, listed in enumerate(listing.members):
        picker.add(number, listed)
    if share is not None and share.references:
        picker.add_references(listing.members, share.references, owners or {})
    picker.report_missing(listing.missing)
    if names is None:
        picker.report_elsewhere(listing)
    return Chosen(picker.settle(), picker.taken, picker.problems, picker.failed, picker.skipped)


def unmatched(selector: Selector) -> list[Problem]:
    """Name the include patterns that have matched nothing, once everything was chosen."""
    message = "include pattern that matches no member"
    return [Problem(pattern, NO_MATCH, message) for pattern in selector.unmatched()]


class _Picker:
    """Collects items in the listing's order; of members with one path, the last wins."""

    def __init__(
        self,
        listing: Listing,
        selector: Selector,
        find_owner: FindOwner,
        *,
        is_root: bool,
        names: AbstractSet[bytes] | None,
    ) -> None:
        self.problems = list(listing.problems)
        self.taken: list[Listed] = []
        self.failed = self.skipped = 0
        self._items: list[Item | None] = []
        self._first_names = FirstNames(listing.members)
        self._selector = selector
        self._takes_all = selector.takes_all
        self._find_owner = find_owner
        self._is_root = is_root
        self._names = names
        self._places: dict[bytes, int] = {}
        self._copies: dict[bytes, Item] = {}

    def add(self, number: int, listed: Listed) -> None:
        """Take one member, the listing's `number`th, or say why not."""
        kind = listed.kind
        if self._names is not None and listed.name not in self._names:
            return
        path = self._checked(listed, self._first_names.path(number))
        if path is None:
            return
        if kind not in _RESTORED:
            self._refuse(path, kind, UNSUPPORTED, f"is a {KIND_NAMES[kind]}; these are left out")
        elif kind in _DEVICES and not self._is_root:
            message = f"is a {KIND_NAMES[kind]}, which only root can make"
            self._refuse(path, kind, UNSUPPORTED, message)
        elif kind == HARD_LINK:
            self._add_hard_link(path, number)
        else:
            self._put(path, self._item(path, kind, listed))
            if kind == FILE:
                self.taken.append(listed)

    def _checked(self, listed: Listed, path: bytes | None) -> bytes | None:
        """Give the path of a member; None if it is not wanted, or can't be had and that is told.

        `path` is what `path_of` makes of its name.
        """
        name, kind = listed.name, listed.kind
        if path is None:
            if self._takes_all or self._selector.wants(name, is_folder=kind == FOLDER):
                self._refuse(name, kind, DAMAGED, f"refused: its name {flaw_of(name)}")
            return None
        if not path:
            if kind != FOLDER:
                self._refuse(name, kind, DAMAGED, "refused: it has no name")
            return None
        if not self._takes_all and not self._selector.wants(path, is_folder=kind == FOLDER):
            return None
        if listed.fault is not None:
            self._refuse(path, kind, *listed.fault)
            return None
        if listed.remark:
            # A good manifest tells of it otherwise, or not at all: it may be anyone's.
            self._refuse(path, kind, DAMAGED, f"refused: {listed.remark}")
            return None
        return path

    def add_references(
        self,
        members: Iterable[Listed],
        references: Mapping[bytes, Reference],
        owners: Mapping[str, OwnerNames],
    ) -> None:
        """Take the contents of members for files that are called otherwise or differ otherwise."""
        by_member: dict[bytes, list[bytes]] = {}
        for name, one in references.items():
            by_member.setdefault(one.member, []).append(name)
        taken = {listed.name for listed in self.taken}
        for listed in members:
            for name in by_member.get(listed.name, ()):
                one = references[name]
                told = owners.get(one.told_by, OwnerNames())
                self._add_reference(_as_named(listed, name, one, told))
            if listed.name in by_member and listed.name not in taken:
                self.taken.append(listed)

    def _add_reference(self, listed: Listed) -> None:
        path = self._checked(listed, path_of(listed.name))
        if path is None:
            return
        if listed.kind != FILE:
            message = f"refused: the archive holds a {KIND_NAMES[listed.kind]} in its place"
            self._refuse(path, FILE, DAMAGED, message)
            return
        item = self._item(path, FILE, listed)
        self._copies[path] = msgspec.structs.replace(item, is_content=True)

    def _add_hard_link(self, path: bytes, number: int) -> None:
        try:
            first_path, first, is_there = self._first_names.find(number)
        except Unusable as error:
            self._refuse(path, HARD_LINK, error.code, str(error))
            return
        if first.kind == FILE and is_there:
            item = self._item(path, HARD_LINK, first, link=first_path)
        elif first.kind in _DEVICES and not self._is_root:
            message = f"is a {KIND_NAMES[first.kind]}, which only root can make"
            self._refuse(path, HARD_LINK, UNSUPPORTED, message)
            return
        else:
            # Never linked to: another link, FIFO or device of the same kind does as well. So does
            # another file where what the link stands for gave way to a later member.
            item = self._item(path, first.kind, first)
            if first.kind == FILE:
                self.taken.append(first)
        self._put(path, item)

    def _item(self, path: bytes, kind: str, listed: Listed, *, link: bytes | None = None) -> Item:
        seconds, nanos = divmod(listed.mtime_ns, _BILLION)
        if not -_MAX_SECONDS < seconds < _MAX_SECONDS:
            seconds = max(min(seconds, _MAX_SECONDS), -_MAX_SECONDS)
        uid, gid = self._find_owner(listed)
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            uid = gid = NO_OWNER
        return Item(
            path, kind, listed.locator, listed.limit, seconds, nanos, listed.precision,
            listed.mode, uid, gid, listed.sha256, listed.parts,
            listed.link if link is None else link, listed.device, listed.data_map,
            listed.is_sparse,
        )  # fmt: skip

    def _put(self, path: bytes, item: Item) -> None:
        place = self._places.setdefault(path, len(self._items))
        if place < len(self._items):
            earlier = self._items[place]
            self._items[place] = None
            self._places[path] = len(self._items)
            if earlier is not None:
                message = "the archive holds it more than once; the last one is restored"
                self._refuse(path, earlier.kind, UNSUPPORTED, message)
        self._items.append(item)

    def _refuse(self, path: bytes, kind: str, code: str, message: str) -> None:
        problem = Problem(os.fsdecode(path), code, message)
        self.problems.append(problem)
        if kind != FOLDER:
            if problem.is_skip:
                self.skipped += 1
            else:
                self.failed += 1

    def report_missing(self, missing: Iterable[tuple[bytes, str]]) -> None:
        """Name what the manifest lists and the archive does not hold."""
        for name, kind in missing:
            if self._names is not None and name not in self._names:
                continue
            if self._takes_all or self._selector.wants(name, is_folder=kind == FOLDER):
                message = "the manifest lists it, the archive does not hold it"
                self._refuse(name, kind, DAMAGED, message)

    def report_elsewhere(self, listing: Listing) -> None:
        """Name what belongs to the archive's snapshot anew and lies in other archives."""
        lenders = listing.head.lenders if listing.head is not None else {}
        for one in listing.references:
            if self._takes_all or self._selector.wants(
                os.fsencode(one.path), is_folder=one.type == FOLDER
            ):
                lender = lenders.get(one.run)
                archive = printable(lender) if lender else f"the archive of run {one.run}"
                member = one.path if one.member is None else one.member
                self._refuse(
                    os.fsencode(one.path), one.type, NOT_FOUND,
                    f"is not in this archive: its content is in {archive}, as "
                    f"{printable(member)}; restore the run, or that member",
                )  # fmt: skip

    def settle(self) -> list[Item]:
        """Give what was put; hard links whose first name was not chosen get another first name."""
        items = [item for item in self._items if item is not None]
        # No link stands for those that have only their content of the archive.
        return [*self._first_names.settle(items), *self._copies.values()]


def _as_named(listed: Listed, name: bytes, reference: Reference, told: OwnerNames) -> Listed:
    """Give a member as a file of another name, and with what else is known of that."""
    uid, gid = reference.uid, reference.gid
    return msgspec.structs.replace(
        listed, name=name, mtime_ns=bounded_time(reference.mtime_ns), precision=1,
        mode=reference.mode & 0o7777, uid=uid, gid=gid,
        user=told.users.get(uid) or (listed.user if listed.uid == uid else ""),
        group=told.groups.get(gid) or (listed.group if listed.gid == gid else ""),
    )  # fmt: skip


def sort_out(items: Iterable[Item], folders: Collection[bytes]) -> tuple[Sorted, list[Problem]]:
    """Sort items by when they are made; leave out what must be a folder for the sake of others.

    `folders` are the paths of all folders of the restore. The problems name what was left out.
    """
    files: list[Item] = []
    hard_links: list[Item] = []
    links: list[Item] = []
    headers: list[Item] = []
    problems: list[Problem] = []
    places = {LINK: links, HARD_LINK: hard_links, FOLDER: headers}
    for item in items:
        if item.kind != FOLDER and item.path in folders:
            message = f"is a {KIND_NAMES[item.kind]} and a folder in this archive"
            problems.append(Problem(os.fsdecode(item.path), DAMAGED, message))
        else:
            places.get(item.kind, files).append(item)
    return Sorted(files, hard_links + links, headers), problems


def folders_of(parts: Iterable[tuple[Sequence[Item], bool]]) -> dict[bytes, Folder]:
    """Give by path the folders that are members, and all the folders that members lie in.

    Each part is the items of one archive, and whether that one knows all attributes. Raises
    TooLargeError if names as deep as they may be ask for more than memory can hold.
    """
    parts = list(parts)
    folders = {
        item.path: Folder(
            item.path, True, item.seconds, item.nanos, item.mode, item.uid, item.gid, knows
        )
        for items, knows in parts
        for item in items
        if item.kind == FOLDER
    }
    done: set[bytes] = set()
    weight = 0
    for items, _ in parts:
        for item in items:
            path = item.path
            while (path := path.rpartition(b"/")[0]) and path not in done:
                done.add(path)
                if path not in folders:
                    folders[path] = Folder(path)
                    weight += len(path)
            if weight > _MAX_FOLDERS:
                raise TooLargeError(
                    f"the folders that members lie in take more than {format_size(_MAX_FOLDERS)} "
                    "of names, like a bomb; it is not restored"
                )
    return folders
