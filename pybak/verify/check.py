"""Check an archive without writing its contents anywhere.

`plan_verify` compares the manifest with the archive's directory; `verify_batch`, once for each
batch, in any order and side by side, reads every member: local header, size, CRC-32, SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter
from pathlib import Path

import msgspec

from pybak.display import printable
from pybak.entries import FILE, KIND_NAMES, LINK
from pybak.errors import ArchiveError, StorageError
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.zip_reader import (
    ONE_SHOT,
    PRECISION_DOS,
    Directory,
    Limits,
    Member,
    ZipFile,
)
from pybak.problems import DAMAGED, STORAGE, UNREADABLE, Problem, write_problems
from pybak.restore.digest import ContentCheck
from pybak.restore.extract import Progress, ShouldStop
from pybak.restore.facts import Fact, find_manifest, read_facts
from pybak.restore.items import NO_OWNER, Item, Job, read_batch, share_out, write_batch
from pybak.units import format_count, format_size

_ASK_EVERY = 0.05


class VerifyPlan(msgspec.Struct, frozen=True):
    """What a check will read. `members` counts all, the manifest not; `size` is in bytes.

    `damaged` counts the members that are known to be bad already, each with a problem;
    `has_manifest` tells whether there are digests to check against.
    """

    job: Job
    label: str
    members: int
    size: int
    damaged: int
    has_manifest: bool
    problems: tuple[Problem, ...]
    batches: tuple[Path, ...]

    def summary(self) -> str:
        """Say in a few lines what will be done."""
        how = "CRC-32 and SHA-256" if self.has_manifest else "CRC-32; there is no manifest"
        lines = [
            f"{self.label}",
            f"  {format_count(self.members, 'member')} ({format_size(self.size)}), by {how}",
            f"  in {format_count(len(self.batches), 'batch', 'batches')}",
        ]
        if self.damaged:
            lines.append(f"  damaged, as far as seen: {format_count(self.damaged, 'member')}")
        return "\n".join(lines)


class Checked(msgspec.Struct, frozen=True):
    """What came of one batch: members read, bytes they unpack to, where the bad ones are named.

    `stopped` means that someone asked to stop before all were read.
    """

    members: int
    size: int
    stopped: bool
    problems_file: Path


def plan_verify(
    archive: bytes, *, work_dir: Path, tasks: int, limits: Limits | None = None
) -> VerifyPlan:
    """Check an archive's structure and write at most `tasks` batches into `work_dir`.

    Raises ArchiveError if the archive as a whole is bad, so that no member can be told;
    NotFoundError, PlanError or StorageError if it can't be opened.
    """
    limits = limits or Limits()
    archive = os.path.abspath(archive)
    with ZipFile(archive) as source:
        directory = source.directory(max_members=limits.members)
        source.check_limits(directory.members, limits)
        checker = _Checker(source, directory)
        checker.run()
        if checker.encrypted and not checker.items:
            raise ArchiveError(f"{source.label}: is encrypted; this version can't open it")
        job = Job(archive, source.identity)
        batches = []
        items = sorted(checker.items, key=_offset)
        for number, batch in enumerate(share_out(items, tasks)):
            path = work_dir / f"verify-{number:04d}"
            write_batch(path, job, batch)
            batches.append(path)
        return VerifyPlan(
            job, source.label, checker.members, sum(item.member.size for item in items),
            checker.damaged, checker.has_manifest, tuple(checker.problems), tuple(batches),
        )  # fmt: skip


def _offset(item: Item) -> int:
    return item.member.offset


class _Checker:
    """Compares the directory with the manifest; collects what is worth reading."""

    def __init__(self, source: ZipFile, directory: Directory) -> None:
        self.items: list[Item] = []
        self.problems: list[Problem] = []
        self.members = self.damaged = self.encrypted = 0
        self._source = source
        self._directory = directory
        self._index = find_manifest(directory)
        self.has_manifest = self._index is not None
        self._facts: dict[bytes, Fact] | None = None

    def run(self) -> None:
        if self._index is not None:
            try:
                self._facts = read_facts(self._source, self._directory, self._index)
            except ArchiveError as error:
                self._bad(MEMBER_NAME, DAMAGED, str(error))
        members, limits, clashes = self._directory[:3]
        names = Counter(member.name for member in members)
        seen_twice = {name for name, count in names.items() if count > 1} if self._facts else set()
        for index, member in enumerate(members):
            if index == self._index:
                continue
            self.members += 1
            fault = self._fault(member, index in clashes, member.name in seen_twice)
            if fault:
                self._bad(member.name, *fault)
            else:
                self._add(member, limits[index])
        for name in self._facts or ():
            self.members += 1
            self._bad(name, DAMAGED, "the manifest lists it, the archive does not hold it")

    def _bad(self, name: bytes, code: str, message: str) -> None:
        self.damaged += 1
        self.problems.append(Problem(os.fsdecode(name), code, message))

    def _fault(self, member: Member, clashes: bool, is_twice: bool) -> tuple[str, str] | None:
        """Say what is wrong with a member before it is read."""
        fact = None
        if self._facts is not None:
            fact = self._facts.get(member.name.rstrip(b"/"))
        if clashes:
            self._forget(member)
            return DAMAGED, "its bytes overlap others or lie outside"
        if self._facts is not None:
            if is_twice:
                self._forget(member)
                return DAMAGED, "the archive holds it more than once"
            if fact is None:
                return DAMAGED, "the archive holds it, the manifest does not list it"
            contradiction = _contradiction(member, fact)
            if contradiction:
                self._forget(member)
                return DAMAGED, contradiction
        refusal = self._source.refusal(member)
        if refusal:
            self._forget(member)
            self.encrypted += member.is_encrypted
            return UNREADABLE, refusal
        return None

    def _forget(self, member: Member) -> None:
        if self._facts is not None:
            self._facts.pop(member.name.rstrip(b"/"), None)

    def _add(self, member: Member, limit: int) -> None:
        name = member.name.rstrip(b"/")
        fact = self._facts.pop(name) if self._facts is not None else None
        sha256 = fact.sha256 or "" if fact else ""
        if fact and fact.type == LINK and fact.link is not None:
            sha256 = hashlib.sha256(os.fsencode(fact.link)).hexdigest()
        self.items.append(
            Item(
                member.name, member.kind, member, limit, 0, 0, 1, -1, NO_OWNER, NO_OWNER, sha256,
                fact.parts if fact else [],
            )
        )  # fmt: skip


def _contradiction(member: Member, fact: Fact) -> str | None:
    """Say in what the directory and the manifest differ."""
    kind = member.kind
    if kind != fact.type:
        said = KIND_NAMES.get(fact.type, "something unknown")
        return f"is a {KIND_NAMES[kind]} where the manifest says {said}"
    if kind == FILE and member.size != fact.size:
        return f"has {member.size} bytes where the manifest says {fact.size}"
    if member.mode and stat.S_IMODE(member.mode) != fact.mode & 0o7777:
        return f"has mode {stat.S_IMODE(member.mode):o} where the manifest says {fact.mode:o}"
    if member.extra:
        mtime_ns, precision = member.mtime()
        if precision < PRECISION_DOS and mtime_ns // precision != fact.mtime_ns // precision:
            return "has another time than the manifest says"
    return None


def verify_batch(
    batch: Path,
    *,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Read the members of the batch file `batch` and count those that are bad.

    The problems are written beside the batch file, to a file of this try's own. Raises
    ArchiveError if the archive is no longer the one that was planned for, NotFoundError or
    StorageError if it can't be opened.
    """
    job, items = read_batch(batch, Item)
    with ZipFile(job.archive) as archive:
        if archive.identity != job.identity:
            raise ArchiveError(f"{archive.label}: changed while it was checked; start again")
        reader = _Reader(archive, should_stop, progress)
        for item in items:
            if not reader.check(item):
                break
        name = f"{batch.name}-{os.urandom(8).hex()}.problems"
        return reader.close(batch.with_name(name))


class _Reader:
    """Reads members through, one after the other, and counts."""

    def __init__(
        self, archive: ZipFile, should_stop: ShouldStop | None, progress: Progress | None
    ) -> None:
        self._archive = archive
        self._should_stop = should_stop
        self._progress = progress
        self._asked_at = float("-inf")
        self._problems: list[Problem] = []
        self._members = self._size = 0
        self._stopped = False

    def check(self, item: Item) -> bool:
        """Read one member. False if it was asked to stop, and then the member is not counted."""
        try:
            self._read(item)
        except ArchiveError as error:
            self._problems.append(Problem(os.fsdecode(item.path), DAMAGED, str(error)))
        except StorageError as error:
            self._problems.append(Problem(os.fsdecode(item.path), STORAGE, str(error)))
        if self._stopped:
            return False
        self._members += 1
        self._size += item.member.size
        return True

    def close(self, problems_file: Path) -> Checked:
        """Write the problems down and give the counts."""
        write_problems(problems_file, self._problems)
        if self._progress and not self._stopped:
            self._progress(self._members, self._size, b"")
        return Checked(self._members, self._size, self._stopped, problems_file)

    def _read(self, item: Item) -> None:
        member = item.member
        self._ask(item)
        if self._stopped:
            return
        content = ContentCheck(item)
        if member.size <= ONE_SHOT and member.stored_size <= ONE_SHOT:
            content.update(self._archive.read(member, item.limit))
        else:
            for chunk in self._archive.chunks(member, item.limit):
                self._ask(item)
                if self._stopped:
                    return
                content.update(chunk)
        if not content.matches():
            name = printable(member.name)
            raise ArchiveError(
                f"{self._archive.label}: member {name} is damaged: it is not what the manifest says"
            )

    def _ask(self, item: Item) -> None:
        now = time.monotonic()
        if now - self._asked_at < _ASK_EVERY:
            return
        self._asked_at = now
        if self._should_stop and self._should_stop():
            self._stopped = True
        elif self._progress:
            self._progress(self._members, self._size, item.path)
