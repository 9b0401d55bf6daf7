"""The archives of a snapshot looked through, each once: what is restored of which.

Archives that hold nothing that is wanted are not opened. What can't be had because an archive is
lost, damaged or another one than the run wrote is told name by name, as long as there is another
archive that gives something; so is what a password does not open, if it opens another archive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from pybak.display import printable
from pybak.entries import FILE, FOLDER
from pybak.errors import ArchiveError, PlanError, PyBakError, StorageError, WrongPasswordError
from pybak.formats.archive import Archive, Limits, TooLargeError, check_sizes
from pybak.formats.listing import NO_OWNER, Listed, Listing
from pybak.formats.opening import open_archive
from pybak.formats.zip_aes import ADVICE
from pybak.formats.zip_directory import Member
from pybak.formats.zip_members import DEFLATE_RATIO, DEFLATE_SLOP
from pybak.problems import CHANGES_ONLY, DAMAGED, STORAGE, WRONG_PASSWORD, Problem
from pybak.report.phrases import only_changes
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.restore.choose import Chosen, choose, unmatched
from pybak.restore.delete import of_partial, why_incomplete
from pybak.restore.items import Item, Job, write_index
from pybak.restore.owners import FindOwner, OwnerNames
from pybak.restore.select import Selector
from pybak.restore.snapshot import Share, folders_among, wanted_of
from pybak.units import format_count

ShouldStop = Callable[[], bool]


class Origin(NamedTuple):
    """What is restored of one archive.

    `job` is what its batches share, `in_runs` whether each must be a run of the archive, `most`
    how many of them make sense.
    """

    job: Job
    label: str
    items: list[Item]
    in_runs: bool
    most: int


class Gathered(NamedTuple):
    """What is restored, from where, and what is not.

    `held` are the names of all that the snapshot holds, wanted or not, as far as someone asked for
    them; `doubt` says why they may not be all. `failed` and `skipped` count the files and links
    among the problems.
    """

    origins: list[Origin]
    problems: list[Problem]
    failed: int
    skipped: int
    held: list[AbstractSet[bytes]]
    doubt: Problem | None


class Question(NamedTuple):
    """What is asked of each archive. `tasks` are the most batches; `is_tidying` asks for `held`.

    Without `work_dir` nothing is written down for workers, and nothing authenticated.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    find_owner: FindOwner
    limits: Limits
    is_tidying: bool
    tasks: int
    password: bytes | None
    work_dir: Path | None
    should_stop: ShouldStop | None


def gather(shares: Sequence[Share], question: Question, job: Job) -> Gathered:
    """Look through the archives that hold what is wanted; `job` has what all have in common.

    Raises WrongPasswordError if the password opens no archive, TooLargeError for what looks like a
    bomb, PlanError for a bad pattern; where no archive gives anything, what the first one was lost
    for.
    """
    gatherer = _Gatherer(shares, question, job)
    for number, share in enumerate(shares):
        gatherer.add(number, share)
    return gatherer.close()


def runs_of(archive: Archive, tasks: int) -> tuple[bool, int]:
    """Tell whether batches must be runs of the archive, and how many batches make sense."""
    if archive.index is None:
        # What is fetched from far is read ahead, so neighbours belong to one batch.
        return any(one.version for one in archive.identity), tasks
    # Without places to start at, a second batch would unpack all that the first one does.
    return True, tasks if archive.format == "tar" else max(1, min(tasks, len(archive.index)))


def locked(archive: Archive) -> WrongPasswordError:
    """Make the error that says that a password is missing."""
    return WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")


def check_origin(share: Share, archive: Archive, listing: Listing) -> None:
    """Raise ArchiveError if the archive that lies where a run wrote its own is another one.

    Its manifest tells which run made it. One that has none must have the size that was recorded,
    unless it is seen to be damaged, as one whose end was cut off.
    """
    made_by = listing.head.run_id if listing.head is not None else ""
    if share.run_id and made_by and made_by != share.run_id:
        raise ArchiveError(
            f"{archive.label}: is another archive than run {share.run_id} wrote (it is of run "
            f"{printable(made_by)}); put the right one back"
        )
    if share.size is None or listing.has_manifest or listing.problems or listing.encrypted:
        return
    size = sum(one.size for one in archive.identity)
    if size != share.size:
        raise ArchiveError(
            f"{archive.label}: is another archive than run {share.run_id} wrote: it has {size} "
            f"bytes instead of {share.size}, and no manifest; put the right one back, or restore "
            "this one by its path"
        )


def _without_manifest(share: Share, archive: Archive, listing: Listing) -> list[Problem]:
    """Tell that what a run wrote is damaged although all that is left looks well."""
    if not share.run_id or listing.has_manifest or listing.problems or listing.encrypted:
        return []
    lost = "has lost its manifest, so members may lack and contents are not checked"
    return [Problem(archive.label, DAMAGED, lost)]


class _Gatherer:
    def __init__(self, shares: Sequence[Share], question: Question, job: Job) -> None:
        self._shares = shares
        self._question = question
        self._job = job
        self._selector = Selector(question.include, question.exclude)
        self._origins: list[Origin] = []
        self._problems: list[Problem] = []
        self._failed = self._skipped = 0
        self._held: list[AbstractSet[bytes]] = []
        self._doubt: Problem | None = None
        self._lost: list[tuple[frozenset[bytes], PyBakError]] = []
        self._unpacked = self._stored = self._members = 0
        self._is_unlocked = False
        self._owners: dict[str, OwnerNames] = {}
        self._authentic: set[tuple[bytes, ...]] = set()

    @cached_property
    def _folders(self) -> frozenset[bytes]:
        """What the names tell to be folders; of what can't be opened nothing tells more."""
        return folders_among(self._shares)

    def add(self, number: int, share: Share) -> None:
        """Take what is wanted of an archive, if anything is."""
        if share.lack is not None:
            self._problems.append(share.lack)
            self._doubt = Problem("", STORAGE, "nothing was deleted: the backup is not whole")
        if share.held is not None and self._question.is_tidying:
            self._held.append(share.held)
            if share.is_partial:
                self._doubt = self._doubt or of_partial()
        wanted = wanted_of(share, self._selector)
        names = wanted.held
        if names is not None and not names:
            return
        try:
            if share.trouble is not None:
                raise share.trouble
            self._open(number, wanted)
        except TooLargeError:
            raise
        except WrongPasswordError as error:
            if names is None or self._question.password is None:
                raise
            self._lost.append((names, error))
        except (ArchiveError, StorageError, PlanError) as error:
            if names is None:
                raise
            self._lost.append((names, error))

    def _learn_owners(self, share: Share) -> None:
        """Read what ids meant to the runs that told of the references to an archive."""
        for run_id in {one.told_by for one in share.references.values()}:
            if run_id and run_id not in self._owners:
                found = (one for one in self._shares if one.run_id == run_id and one.volumes)
                self._owners[run_id] = self._owners_told(next(found, None))

    def _owners_told(self, share: Share | None) -> OwnerNames:
        question = self._question
        try:
            if share is not None:
                with open_archive(share.volumes, password=question.password) as archive:
                    listing = archive.listing(question.limits, frozenset())
                    check_origin(share, archive, listing)
                    if question.work_dir is not None:
                        self._authenticate(share, archive)
                    return OwnerNames(listing.users, listing.groups)
        except (ArchiveError, StorageError, PlanError):
            pass  # their numbers are known all the same
        return OwnerNames()

    def _authenticate(self, share: Share, archive: Archive) -> None:
        if share.volumes in self._authentic:
            return
        authenticate(
            wrapped_volumes(archive.source), workers=os.cpu_count() or 1,
            should_stop=self._question.should_stop,
        )  # fmt: skip
        self._authentic.add(share.volumes)

    def _open(self, number: int, share: Share) -> None:
        question = self._question
        self._learn_owners(share)
        with open_archive(share.volumes, password=question.password) as archive:
            listing = archive.listing(question.limits, share.members)
            check_origin(share, archive, listing)
            self._problems += _without_manifest(share, archive, listing)
            chosen = choose(
                listing, self._selector, question.find_owner,
                is_root=os.geteuid() == 0, share=share, owners=self._owners,
            )  # fmt: skip
            # Empty files are never encrypted: they say nothing about whether anything can be read.
            if listing.encrypted and not any(
                item.member.size for item in chosen.items if item.kind == FILE
            ):
                raise locked(archive)
            archive.check_limits(chosen.listed, question.limits)
            job = msgspec.structs.replace(
                self._job,
                volumes=share.volumes,
                identity=archive.identity,
                knows_attributes=listing.has_manifest and archive.format.startswith("tar"),
            )
            if question.work_dir is not None:
                if chosen.items or chosen.failed or chosen.skipped or question.is_tidying:
                    self._authenticate(share, archive)
                path = question.work_dir / f"restore-index-{number:04d}"
                job = msgspec.structs.replace(job, index_file=write_index(path, archive))
            self._is_unlocked = self._is_unlocked or (
                question.password is not None and _is_encrypted(archive, listing)
            )
            in_runs, most = runs_of(archive, question.tasks)
            items = _owned(archive, chosen.items) if job.sets_owner else chosen.items
            self._take(Origin(job, archive.label, items, in_runs, most), chosen)
            self._stored += archive.source.size
        if share.names is None:
            if listing.head is not None and listing.head.base_run:
                note = only_changes(printable(listing.head.base_run))
                self._problems.append(Problem("", CHANGES_ONLY, note))
            if question.is_tidying:
                elsewhere = (os.fsencode(one.path) for one in listing.references)
                self._held.append({*(listed.name for listed in listing.members), *elsewhere})
                self._doubt = self._doubt or why_incomplete(listing)
        else:
            self._report_absent(share, listing)

    def _take(self, origin: Origin, chosen: Chosen) -> None:
        self._origins.append(origin)
        self._problems += chosen.problems
        self._failed += chosen.failed
        self._skipped += chosen.skipped
        self._members += len(chosen.items)
        self._unpacked += sum(map(_unpacked, chosen.listed))

    def _report_absent(self, share: Share, listing: Listing) -> None:
        """Name what was recorded and is not in the archive, nor in its manifest."""
        listed = {listed.name for listed in listing.members}
        lost = {name for name, one in share.references.items() if one.member not in listed}
        listed.update(name for name, _ in listing.missing)
        lost |= (share.names or frozenset()) - listed
        self._refuse(lost, DAMAGED, "the archive that should hold it does not")

    def _refuse(self, names: AbstractSet[bytes], code: str, message: str) -> None:
        for name in sorted(names):
            is_folder = name in self._folders
            if self._selector.takes_all or self._selector.wants(name, is_folder=is_folder):
                self._problems.append(Problem(os.fsdecode(name), code, message))
                self._failed += not is_folder

    def close(self) -> Gathered:
        errors = [error for _, error in self._lost]
        refused = [error for error in errors if isinstance(error, WrongPasswordError)]
        if refused and not self._is_unlocked:
            raise refused[0]
        if errors and not self._origins:
            raise errors[0]
        for names, error in self._lost:
            self._refuse(names, _code(error), f"can't be restored: {error}")
        if len(self._origins) > 1:
            self._check_sum()
        self._problems += unmatched(self._selector)
        return Gathered(
            self._origins, self._problems, self._failed, self._skipped, self._held, self._doubt
        )

    def _check_sum(self) -> None:
        """Raise TooLargeError if the archives together unpack to more than is allowed."""
        limits = self._question.limits
        label = f"{self._origins[-1].label} and the others ({len(self._origins)} archives)"
        if self._members > limits.members:
            count = format_count(limits.members, "member")
            raise TooLargeError(
                f"{label}: hold more than {count}, the most that is allowed; "
                "if you trust them, raise --max-members"
            )
        check_sizes(label, self._stored, self._unpacked, limits)


def _owned(archive: Archive, items: list[Item]) -> list[Item]:
    """Give folders the owners that only their own headers tell. Files ask when they are made."""

    def of(item: Item) -> Item:
        if item.kind != FOLDER or item.uid != NO_OWNER:
            return item
        try:
            found = archive.owner(item.member)
        except (ArchiveError, StorageError):
            return item  # the same header stands before no content
        return msgspec.structs.replace(item, uid=found[0], gid=found[1]) if found else item

    return [of(item) for item in items]


def _code(error: PyBakError) -> str:
    if isinstance(error, WrongPasswordError):
        return WRONG_PASSWORD
    return DAMAGED if isinstance(error, ArchiveError) else STORAGE


def _is_encrypted(archive: Archive, listing: Listing) -> bool:
    return bool(wrapped_volumes(archive.source)) or any(
        isinstance(one.locator, Member) and one.locator.is_encrypted for one in listing.members
    )


def _unpacked(listed: Listed) -> int:
    """Give what a file can unpack to at most, whatever its record claims."""
    member = listed.locator
    if isinstance(member, Member):
        return min(member.size, member.stored_size * DEFLATE_RATIO + DEFLATE_SLOP)
    return member.stored_size
