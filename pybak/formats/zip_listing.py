"""What a ZIP archive holds: its directory compared with its manifest, as one listing."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from pybak.entries import FILE, FOLDER, KIND_NAMES, LINK
from pybak.errors import ArchiveError
from pybak.formats.archive import MAX_ID, Limits
from pybak.formats.listing import NO_MODE, NO_OWNER, Listed, Listing, bounded_time
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.manifest_bounds import Bounds
from pybak.formats.manifest_facts import Fact
from pybak.formats.manifest_reader import Manifest, read_manifest
from pybak.formats.volume_probe import probe_volumes, probe_zip
from pybak.formats.zip_directory import METHOD_AES, PRECISION_DOS, Directory, Member
from pybak.problems import DAMAGED, UNREADABLE, Problem

if TYPE_CHECKING:
    from pybak.formats.zip_reader import ZipFile

_MAX_PACKED = 2 << 30
_UNPROTECTED = "is not protected by the password"
_TWICE = "the archive holds it more than once"


def list_zip(archive: ZipFile, limits: Limits, names: AbstractSet[bytes] | None = None) -> Listing:
    """List all members in the directory's order, or only those called as in `names`.

    What the directory and the manifest tell differently is a member's `fault` or `remark`; a
    damaged manifest is a problem of the listing, and the directory alone then counts. Where a
    password protects an archive of ours, whatever it does not protect is a fault. Raises
    ArchiveError if the directory can't be read, and for a wrong password.
    """
    wanted = None if names is None else {*names, MEMBER_NAME}
    directory = archive.directory(max_members=limits.members, names=wanted)
    if archive.has_password:
        archive.check_password(directory)
    index = find_manifest(directory)
    manifest: Manifest[Fact] | None = None
    facts: dict[bytes, Fact] = {}
    problems: list[Problem] = []
    if index is not None and not archive.is_locked(directory.members[index]):
        try:
            manifest, facts = _facts(archive, directory, index, wanted)
        except ArchiveError as error:
            manifest = None
            message = f"{error}; contents are checked by CRC-32 only"
            problems.append(Problem(os.fsdecode(MEMBER_NAME), DAMAGED, message))
    is_protected = index is not None and _is_protected(directory)
    if manifest is not None and not is_protected and _is_packed_again(directory, facts):
        index, manifest, facts = None, None, {}
    strangers = probe_volumes(
        archive.source,
        manifest.head.split if manifest else None,
        manifest.volume_starts if manifest else (),
        lambda: probe_zip(archive, directory),
    )
    problems += (Problem(archive.label, DAMAGED, text) for text in strangers)
    merger = _Merger(archive, directory, manifest, facts, is_protected=is_protected)
    members = [merger.merge(number) for number in range(len(directory.members)) if number != index]
    return Listing(
        members, index is not None, problems,
        [(name, fact.type) for name, fact in facts.items() if names is None or name in names],
        merger.locked > 0, manifest.head if manifest else None,
        manifest.references if manifest else (), manifest.status if manifest else "",
        manifest.users if manifest else {}, manifest.groups if manifest else {},
    )  # fmt: skip


def find_manifest(directory: Directory) -> int | None:
    """Give the index of the manifest among the members, or None in archives of other tools.

    The last one, and one that is not encrypted only if there is no other.
    """
    found = [
        (member.method == METHOD_AES, index)
        for index, member in enumerate(directory.members)
        if member.name == MEMBER_NAME
    ]
    return max(found)[1] if found else None


def _facts(
    archive: ZipFile, directory: Directory, index: int, names: AbstractSet[bytes] | None
) -> tuple[Manifest[Fact], dict[bytes, Fact]]:
    """Read the manifest and its members' lines, or those that `directory` was read for."""
    if names is not None:
        with contextlib.suppress(ArchiveError):
            manifest = _read(archive, directory, index, names)
            facts = manifest.by_name()
            found = set(map(_name, directory.members)) - {MEMBER_NAME}
            if found <= facts.keys():
                return manifest, facts
        # Written in other words than ours, lacking some of them, or damaged.
    manifest = _read(archive, directory, index)
    return manifest, manifest.by_name()


def _read(
    archive: ZipFile,
    directory: Directory,
    index: int,
    names: AbstractSet[bytes] | None = None,
) -> Manifest[Fact]:
    member = directory.members[index]
    if index in directory.clashes or member.stored_size > _MAX_PACKED:
        raise ArchiveError(f"{archive.label}: the manifest is damaged")
    if not member.is_encrypted and _is_protected(directory):
        raise ArchiveError(f"{archive.label}: the manifest is not protected by the password")
    chunks = archive.chunks(member, directory.limits[index])
    bounds = Bounds(2 * directory.total + 1000, archive.size, has_pieces=False)
    try:
        return read_manifest(chunks, bounds, names)
    except ArchiveError as error:
        if str(error).startswith(archive.label):
            raise
        raise ArchiveError(f"{archive.label}: {error}") from error


def _is_packed_again(directory: Directory, facts: dict[bytes, Fact]) -> bool:
    """Whether a manifest is only a file that was unpacked from an archive of ours.

    Other programs store its folder, too, which such an archive has not.
    """
    folder = os.path.dirname(MEMBER_NAME)
    return folder not in facts and any(_name(one) == folder for one in directory.members)


def _is_protected(directory: Directory) -> bool:
    """Whether any member is encrypted, so that in an archive of ours all must be."""
    return any(member.method == METHOD_AES for member in directory.members)


class _Merger:
    """Makes one record of what the directory and the manifest tell about a member."""

    def __init__(
        self,
        archive: ZipFile,
        directory: Directory,
        manifest: Manifest[Fact] | None,
        facts: dict[bytes, Fact],
        *,
        is_protected: bool,
    ) -> None:
        self.locked = 0
        self._is_protected = is_protected
        self._archive = archive
        self._directory = directory
        self._manifest = manifest
        self._facts = facts
        # Readers differ in which one they take, and the manifest can't tell which one it means.
        names = Counter(map(_name, directory.members)) if manifest else {}
        self._twice = {name for name, count in names.items() if count > 1}

    def merge(self, number: int) -> Listed:
        member = self._directory.members[number]
        name = _name(member)
        # Taken out, so that in the end those are left that the archive should hold as well.
        fact = self._facts.pop(name, None)
        mode = member.mode
        kind = FILE if mode >> 12 == 0o10 and member.name[-1:] != b"/" else member.kind
        fault = self._fault(number, member, kind, fact)
        remark = self._remark(member, kind, fact)
        limit = self._directory.limits[number]
        size = member.size if kind == FILE else 0
        if fact is None or self._manifest is None:
            mtime_ns, precision = member.mtime()
            # Many tools write no mode at all; a mode without any bit is taken for none.
            return Listed(
                name, kind, size, bounded_time(mtime_ns), precision, member, limit,
                mode=stat.S_IMODE(mode) if mode else NO_MODE, fault=fault, remark=remark,
            )  # fmt: skip
        uid, gid = fact.uid, fact.gid
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            uid = gid = NO_OWNER
        return Listed(
            name, kind, size, bounded_time(fact.mtime_ns), 1, member, limit,
            fact.mode & 0o7777, uid, gid,
            self._manifest.users.get(uid, ""), self._manifest.groups.get(gid, ""),
            link=os.fsencode(fact.link) if kind == LINK and fact.link is not None else None,
            sha256=fact.sha256 or "", parts=fact.parts, is_sparse=fact.holes, fault=fault,
            remark=remark,
        )  # fmt: skip

    def _fault(
        self, number: int, member: Member, kind: str, fact: Fact | None
    ) -> tuple[str, str] | None:
        if number in self._directory.clashes and kind != FOLDER:
            return DAMAGED, "its bytes overlap others or lie outside"
        if _name(member) in self._twice:
            return DAMAGED, _TWICE
        if self._is_protected:
            if not member.is_encrypted and (member.size or member.stored_size):
                return DAMAGED, f"{_UNPROTECTED}; others may have put it into the archive"
            if fact is None and self._manifest is not None:
                return DAMAGED, f"{_UNPROTECTED}: the manifest does not list it"
        if fact is not None and kind != fact.type:
            said = KIND_NAMES.get(fact.type, "something unknown")
            return DAMAGED, f"is a {KIND_NAMES[kind]} where the manifest says {said}"
        if kind == FOLDER:
            return None
        refusal = self._archive.refusal(member)
        if refusal:
            self.locked += self._archive.is_locked(member)
            return UNREADABLE, refusal
        return None

    def _remark(self, member: Member, kind: str, fact: Fact | None) -> str:
        if self._manifest is None:
            return ""
        if _name(member) in self._twice:
            return _TWICE
        if fact is None:
            return "the archive holds it, the manifest does not list it"
        return _contradiction(member, kind, fact)


def _name(member: Member) -> bytes:
    return member.name.rstrip(b"/")


def _contradiction(member: Member, kind: str, fact: Fact) -> str:
    """Say in what the directory and the manifest differ."""
    if kind == FILE and member.size != fact.size:
        return f"has {member.size} bytes where the manifest says {fact.size}"
    if member.mode and stat.S_IMODE(member.mode) != fact.mode & 0o7777:
        return f"has mode {stat.S_IMODE(member.mode):o} where the manifest says {fact.mode:o}"
    if member.extra:
        mtime_ns, precision = member.mtime()
        if precision < PRECISION_DOS and mtime_ns // precision != fact.mtime_ns // precision:
            return "has another time than the manifest says"
    return ""
