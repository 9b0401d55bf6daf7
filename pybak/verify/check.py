"""Check an archive without writing its contents anywhere.

`plan_verify` looks at the structure: what the archive's own records and the manifest tell must be
the same. `verify_batch`, once for each batch, in any order and side by side, reads members:
headers, sizes, checksums and authentication codes of the format, SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pybak.display import printable
from pybak.entries import LINK
from pybak.errors import ArchiveError, StorageError
from pybak.formats.archive import ONE_SHOT, Archive, Limits
from pybak.formats.listing import Listed, Listing
from pybak.formats.manifest_facts import Head
from pybak.formats.opening import open_archive
from pybak.formats.tar_reader import TarFile
from pybak.formats.zip_directory import Member
from pybak.paths import absolute
from pybak.problems import DAMAGED, STORAGE, Problem, write_problems
from pybak.restore.account import Progress, ShouldStop
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.restore.dealing import deal, slice_of
from pybak.restore.digest import ContentCheck
from pybak.restore.gather import locked, runs_of
from pybak.restore.items import Item, Job, open_job, read_batch, write_batch, write_index
from pybak.units import format_count, format_size
from pybak.verify.headers import header_fault

_ASK_EVERY = 0.05
_BILLION = 1_000_000_000


class Slice(msgspec.Struct, frozen=True):
    """The `number`th of `slices` runs of an archive, counted from 0."""

    number: int
    slices: int


class VerifyPlan(msgspec.Struct, frozen=True):
    """What a check will read. `members` counts all, the manifest not; `to_read` those read.

    `size` is what is read unpacks to, in bytes. `damaged` counts the members that are known to be
    bad already, each with a problem; `has_manifest` tells whether there are digests to check
    against. `made_by` is the run that the manifest says it is of, `base_run` the one that this was
    compared with.
    """

    job: Job
    label: str
    members: int
    to_read: int
    size: int
    damaged: int
    has_manifest: bool
    problems: tuple[Problem, ...]
    batches: tuple[Path, ...]
    made_by: str = ""
    base_run: str = ""

    def summary(self) -> str:
        """Say in a few lines what will be done."""
        how = "with SHA-256" if self.has_manifest else "without SHA-256; there is no manifest"
        read = format_count(self.to_read, "member")
        if self.to_read < self.members:
            read += f" of {self.members}"
        lines = [
            f"{self.label}",
            f"  {read} ({format_size(self.size)}), {how}",
            f"  in {format_count(len(self.batches), 'batch', 'batches')}",
        ]
        if self.damaged:
            lines.append(f"  damaged, as far as seen: {format_count(self.damaged, 'member')}")
        return "\n".join(lines)


class Checked(msgspec.Struct, frozen=True):
    """What came of one batch: members read, bytes they unpack to, where the bad ones are named.

    `stopped` means that someone asked to stop before all were read. A problem without a path is
    of the archive.
    """

    members: int
    size: int
    stopped: bool
    problems_file: Path


def plan_verify(
    volumes: Sequence[bytes],
    *,
    work_dir: Path,
    tasks: int,
    limits: Limits | None = None,
    password: bytes | None = None,
    sample: Slice | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> VerifyPlan:
    """Check an archive's structure and write at most `tasks` batches into `work_dir`.

    `volumes` are the archive's files in order. With `sample` only a part of the members, and of
    the wrapped volumes, is read. Raises ArchiveError if the archive as a whole is bad, so that no
    member can be told; WrongPasswordError; NotFoundError, PlanError or StorageError if it can't
    be opened.
    """
    limits = limits or Limits()
    volumes = tuple(map(absolute, volumes))
    with open_archive(volumes, password=password) as archive:
        listing = archive.listing(limits)
        archive.check_limits(listing.members, limits)
        checker = _Checker(listing)
        checker.run()
        if listing.encrypted and not any(item.member.size for item in checker.items):
            raise locked(archive)
        sealed = wrapped_volumes(archive.source)
        items = checker.items
        if sample is not None:
            items = slice_of(items, sample.number, sample.slices)
            sealed = sealed[sample.number :: sample.slices]
        authenticate(sealed, workers=os.cpu_count() or 1, should_stop=should_stop)
        index_file = write_index(work_dir / "verify-index", archive)
        job = Job(volumes, archive.identity, index_file)
        in_runs, tasks = runs_of(archive, tasks)
        items = sorted(items, key=_offset)
        batches = []
        for number, batch in enumerate(deal(items, tasks, in_runs=in_runs)):
            path = work_dir / f"verify-{number:04d}"
            write_batch(path, job, batch)
            batches.append(path)
        head = listing.head or Head(0)
        return VerifyPlan(
            job, archive.label, checker.members, len(items),
            sum(item.content_size for item in items), checker.damaged, listing.has_manifest,
            tuple(checker.problems), tuple(batches), head.run_id, head.base_run or "",
        )  # fmt: skip


def _offset(item: Item) -> int:
    return item.member.offset


class _Checker:
    """Collects what is worth reading, and what is known to be bad."""

    def __init__(self, listing: Listing) -> None:
        self.items: list[Item] = []
        self.problems: list[Problem] = []
        self.members = self.damaged = 0
        self._listing = listing
        names = Counter(listed.name for listed in listing.members) if listing.has_manifest else {}
        self._twice = {name for name, count in names.items() if count > 1}

    def run(self) -> None:
        for problem in self._listing.problems:
            self.damaged += 1
            self.problems.append(problem)
        for listed in self._listing.members:
            self.members += 1
            if listed.fault is not None:
                self._bad(listed.name, *listed.fault)
            elif listed.name in self._twice:
                self._bad(listed.name, DAMAGED, "the archive holds it more than once")
            elif listed.remark:
                self._bad(listed.name, DAMAGED, listed.remark)
            else:
                self.items.append(_item(listed))
        for name, _ in self._listing.missing:
            self.members += 1
            self._bad(name, DAMAGED, "the manifest lists it, the archive does not hold it")

    def _bad(self, name: bytes, code: str, message: str) -> None:
        self.damaged += 1
        self.problems.append(Problem(os.fsdecode(name), code, message))


def _item(listed: Listed) -> Item:
    sha256 = listed.sha256
    if listed.kind == LINK and listed.link is not None and isinstance(listed.locator, Member):
        sha256 = hashlib.sha256(listed.link).hexdigest()  # in ZIP files the content
    return Item(
        listed.name, listed.kind, listed.locator, listed.limit,
        *divmod(listed.mtime_ns, _BILLION), listed.precision, listed.mode, listed.uid, listed.gid,
        sha256, listed.parts, listed.link, listed.device, listed.data_map,
    )  # fmt: skip


def verify_batch(
    batch: Path,
    *,
    password: bytes | None = None,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Read the members of the batch file `batch` and count those that are bad.

    The problems are written beside the batch file, to a file of this try's own. Raises
    ArchiveError if the archive is no longer the one that was planned for, NotFoundError or
    StorageError if it can't be opened.
    """
    job, items = read_batch(batch, Item)
    with open_job(job, password) as archive:
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
        self, archive: Archive, should_stop: ShouldStop | None, progress: Progress | None
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
            self._once_more(item)
        except ArchiveError as error:
            self._problems.append(Problem(os.fsdecode(item.path), DAMAGED, str(error)))
        except StorageError as error:
            self._problems.append(Problem(os.fsdecode(item.path), STORAGE, str(error)))
        if self._stopped:
            return False
        self._members += 1
        self._size += item.content_size
        return True

    def close(self, problems_file: Path) -> Checked:
        """Write the problems down and give the counts."""
        if isinstance(self._archive, TarFile) and not self._stopped:
            try:
                self._problems += (Problem("", DAMAGED, text) for text in self._archive.finish())
            except (ArchiveError, StorageError) as error:
                self._problems.append(Problem("", DAMAGED, str(error)))
        write_problems(problems_file, self._problems)
        if self._progress and not self._stopped:
            self._progress(self._members, self._size, b"")
        return Checked(self._members, self._size, self._stopped, problems_file)

    def _once_more(self, item: Item) -> None:
        """Read a member; if it is damaged, and came over a network, fetch it once more."""
        try:
            self._read(item)
        except ArchiveError:
            if not self._archive.again():
                raise
            self._read(item)

    def _read(self, item: Item) -> None:
        member = item.member
        self._ask(item)
        if self._stopped:
            return
        fault = header_fault(self._archive, item)
        if fault:
            raise self._damaged(item, fault)
        content = ContentCheck(item)
        if member.size <= ONE_SHOT and member.stored_size <= ONE_SHOT and item.data_map is None:
            content.update(self._archive.read(member, item.limit))
        else:
            for chunk in self._archive.chunks(member, item.limit):
                self._ask(item)
                if self._stopped:
                    return
                content.update(chunk)
        if not content.matches():
            raise self._damaged(item, "is damaged: it is not what the manifest says")

    def _damaged(self, item: Item, what: str) -> ArchiveError:
        name = printable(item.member.name)
        return ArchiveError(f"{self._archive.label}: member {name} {what}")

    def _ask(self, item: Item) -> None:
        now = time.monotonic()
        if now - self._asked_at < _ASK_EVERY:
            return
        self._asked_at = now
        if self._should_stop and self._should_stop():
            self._stopped = True
        elif self._progress:
            self._progress(self._members, self._size, item.path)
