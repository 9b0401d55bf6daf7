"""The plan of a restore: what goes where, in how many batches, before anything is written.

`plan_restore` writes the batches as small files into a work folder for the workers; the order is
then `make_folders`, `extract_batch` for each batch in any order and side by side, `finish`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from pybak.casing import ignores_case
from pybak.display import printable
from pybak.entries import FOLDER
from pybak.errors import PlanError
from pybak.formats.archive import Limits
from pybak.problems import Problem
from pybak.restore.choose import Sorted, folders_of, sort_out
from pybak.restore.dealing import Pile, by_folder, spread
from pybak.restore.delete import DeletePlan, plan_delete
from pybak.restore.gather import Gathered, Origin, Question, gather
from pybak.restore.items import Folder, Item, Job, Node, write_batch, write_parts
from pybak.restore.obstacles import (
    case_problem,
    is_own,
    is_possible,
    name_below,
    own_problem,
    same_but_for_case,
)
from pybak.restore.overwrite import IF_CHANGED, NEVER, OVERWRITE
from pybak.restore.owners import AUTO, OWNERS, finder, sets_owner
from pybak.restore.snapshot import Share
from pybak.restore.taken_attributes import may_have_attributes
from pybak.restore.target import check_writable, checked_target, current_umask
from pybak.storage.opening import is_remote
from pybak.units import format_count, format_size


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a restore, beside archives and target."""

    overwrite: str = IF_CHANGED
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    owner: str = AUTO
    deletes: bool = False
    limits: Limits = Limits()


class RestorePlan(msgspec.Struct, frozen=True):
    """What a restore will do. `files`, `links` and `size` (bytes) count what is to be written.

    `problems` are about members left out; `failed` and `skipped` count the files and links among
    them. Paths are of files in the work folder.
    """

    job: Job
    label: str
    files: int
    links: int
    folders: int
    size: int
    failed: int
    skipped: int
    problems: tuple[Problem, ...]
    batches: tuple[Path, ...]
    folders_file: Path
    links_file: Path
    kept_file: Path
    opened_file: Path
    delete_file: Path | None = None

    @property
    def total(self) -> int:
        """Files and links that were asked for, those that can't be restored included."""
        return self.files + self.links + self.failed + self.skipped

    def summary(self) -> str:
        """Say in a few lines what will be done."""
        return summarise(self, len(self.batches))


class Part(msgspec.Struct, frozen=True):
    """What is restored of one archive.

    `headers` stand for folders and links whose attributes only the archive's stream tells.
    `in_runs` tells whether a batch must be a run of the archive, `most` how many make sense.
    """

    job: Job
    files: list[Item]
    links: list[Item]
    headers: list[Item]
    in_runs: bool
    most: int


class Prepared(msgspec.Struct, frozen=True):
    """A plan in memory: what `plan_restore` puts on disk.

    `job` is what all archives have in common. `surplus` is what may be deleted, None if nothing
    may.
    """

    job: Job
    label: str
    parts: list[Part]
    folders: list[Folder]
    failed: int
    skipped: int
    problems: tuple[Problem, ...]
    surplus: DeletePlan | None = None

    @property
    def paths(self) -> Iterator[bytes]:
        """Where all goes that there is to make, below the target."""
        yield from (folder.path for folder in self.folders)
        yield from (item.path for part in self.parts for item in (*part.files, *part.links))

    @property
    def files(self) -> int:
        """How many files there are to write."""
        return sum(len(part.files) for part in self.parts)

    @property
    def links(self) -> int:
        """How many links there are to make."""
        return sum(len(part.links) for part in self.parts)

    @property
    def size(self) -> int:
        """The bytes that the files have."""
        return sum(item.member.size for part in self.parts for item in part.files)

    @property
    def total(self) -> int:
        """Files and links that were asked for, those that can't be restored included."""
        return self.files + self.links + self.failed + self.skipped

    def summary(self) -> str:
        """Say in a few lines what would be done."""
        return summarise(self, 0)


def summarise(plan: RestorePlan | Prepared, batches: int) -> str:
    """Say in a few lines what a plan is about."""
    folders = plan.folders if isinstance(plan.folders, int) else len(plan.folders)
    what = f"{format_count(plan.files, 'file')} ({format_size(plan.size)})"
    how = "never replaced" if plan.job.overwrite == NEVER else f"replaced {plan.job.overwrite}"
    lines = [
        f"{plan.label} to {printable(plan.job.target)}",
        f"  {what}, {format_count(plan.links, 'link')}, {format_count(folders, 'folder')}",
        f"  what is there already: {how}",
    ]
    if batches:
        lines.append(f"  in {format_count(batches, 'batch', 'batches')}")
    if plan.job.delete_file or (isinstance(plan, Prepared) and plan.surplus):
        lines.append("  what the archive does not hold: deleted")
    if plan.problems:
        lines.append(f"  left out: {format_count(len(plan.problems), 'entry', 'entries')}")
    return "\n".join(lines)


def prepare(
    shares: Sequence[Share],
    target: bytes,
    wish: Wish | None = None,
    *,
    password: bytes | None = None,
    may_write: bool = True,
) -> Prepared:
    """Decide what a restore does, without batches and without writing anything for it.

    `shares` make up the snapshot. `target` may be missing; links in it are followed. With
    `may_write` a file may be made and removed in an empty target to learn whether its file
    system ignores case. An archive that can't be used is told name by name; only where there is
    none that gives anything, what is wrong with it is raised: ArchiveError for damage,
    NotFoundError or StorageError if it can't be opened. Raises PlanError for a target that can't
    be a folder and for bad patterns, WrongPasswordError, and TooLargeError for a bomb by its
    limits.
    """
    return _Preparation(shares, target, wish or Wish(), password).run(may_write=may_write)


def plan_restore(
    shares: Sequence[Share],
    target: bytes,
    wish: Wish | None = None,
    *,
    work_dir: Path,
    tasks: int,
    password: bytes | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RestorePlan:
    """Decide what a restore does and write at most `tasks` batches into `work_dir`.

    Writes nothing elsewhere; what is wrapped is authenticated first. The batches come largest
    first. Raises as `prepare` does, Interrupted once `should_stop` says so, and StorageError for a
    target in which nothing can be made.
    """
    preparation = _Preparation(shares, target, wish or Wish(), password)
    prepared = preparation.run(
        may_write=True, work_dir=work_dir, tasks=tasks, should_stop=should_stop
    )
    check_writable(prepared.job.target, prepared.paths)
    delete_file = None
    if prepared.surplus is not None:
        delete_file = work_dir / "restore-delete"
        prepared.surplus.save(delete_file)
    common = msgspec.structs.replace(prepared.job, delete_file=str(delete_file or ""))
    jobs = [
        msgspec.structs.replace(part.job, delete_file=common.delete_file) for part in prepared.parts
    ]
    batches = []
    for number, hand in enumerate(spread([_pile(part) for part in prepared.parts], tasks)):
        path = work_dir / f"restore-{number:04d}"
        write_parts(path, ((jobs[one], items) for one, items in hand))
        batches.append(path)
    folders_file, links_file = work_dir / "restore-folders", work_dir / "restore-links"
    write_batch(folders_file, common, prepared.folders)
    with_links = zip(jobs, prepared.parts, strict=True)
    write_parts(links_file, ((job, part.links) for job, part in with_links if part.links))
    return RestorePlan(
        common, prepared.label, prepared.files, prepared.links,
        len(prepared.folders), prepared.size, prepared.failed, prepared.skipped,
        prepared.problems, tuple(batches), folders_file, links_file, work_dir / "restore-kept",
        work_dir / "restore-opened", delete_file,
    )  # fmt: skip


def _pile(part: Part) -> Pile:
    rows = [*part.files, *part.headers] if part.in_runs else by_folder(part.files)
    return Pile(rows, part.in_runs, part.most)


class _Preparation:
    """Takes together what the archives give, and leaves out what the target can't take."""

    def __init__(
        self, shares: Sequence[Share], target: bytes, wish: Wish, password: bytes | None
    ) -> None:
        for value, known, what in (
            (wish.overwrite, OVERWRITE, "overwrite mode"),
            (wish.owner, OWNERS, "way to set owners"),
        ):
            if value not in known:
                raise PlanError(f"{value!r} is no {what}; choose of {', '.join(known)}")
        self._shares = shares
        self._target = checked_target(target)
        self._wish = wish
        self._password = password
        self._volumes = [path for share in shares for path in share.volumes if not is_remote(path)]
        self._is_root = os.geteuid() == 0
        self._sets_owner = sets_owner(wish.owner, is_root=self._is_root)
        self._problems: list[Problem] = []
        self._failed = self._skipped = 0

    def run(
        self,
        *,
        may_write: bool,
        work_dir: Path | None = None,
        tasks: int = 1,
        should_stop: Callable[[], bool] | None = None,
    ) -> Prepared:
        wish = self._wish
        job = Job(
            target=self._target,
            overwrite=wish.overwrite,
            token=os.urandom(4).hex(),
            umask=current_umask(),
            sets_owner=self._sets_owner,
            own_nodes=frozenset(_nodes(self._volumes)),
        )
        question = Question(
            wish.include, wish.exclude, finder(wish.owner), wish.limits, wish.deletes, tasks,
            self._password, work_dir, should_stop,
        )  # fmt: skip
        gathered = gather(self._shares, question, job)
        self._problems += gathered.problems
        self._failed, self._skipped = gathered.failed, gathered.skipped
        by_path = folders_of(
            (origin.items, origin.job.knows_attributes) for origin in gathered.origins
        )
        sorted_out = [self._sorted(origin, by_path) for origin in gathered.origins]
        folders = sorted(by_path.values(), key=_path)
        clashing = same_but_for_case(
            chain([folders], (one.files for one in sorted_out), (one.links for one in sorted_out)),
            self._target,
            may_write=may_write,
        )
        own_names = self._own_names()
        parts = [
            self._part(origin, one, clashing, own_names)
            for origin, one in zip(gathered.origins, sorted_out, strict=True)
        ]
        folders = self._possible(folders, clashing, own_names)
        surplus = None
        if wish.deletes:
            spared = [*self._volumes, *([os.fsencode(work_dir)] if work_dir else [])]
            surplus = self._surplus(gathered, folders, spared, may_write=may_write)
        return Prepared(
            job, self._label(gathered), parts, folders, self._failed, self._skipped,
            tuple(self._problems), surplus,
        )  # fmt: skip

    def _label(self, gathered: Gathered) -> str:
        if len(self._shares) == 1 and gathered.origins:
            return gathered.origins[0].label
        others = len(gathered.origins) - 1
        label = printable(self._shares[-1].archive) if self._shares else ""
        return label if others < 1 else f"{label} and {others} more"

    def _sorted(self, origin: Origin, folders: dict[bytes, Folder]) -> Sorted:
        found, problems = sort_out(origin.items, folders)
        self._problems += problems
        self._failed += len(problems)
        return found

    def _own_names(self) -> frozenset[bytes]:
        found = (name_below(path, self._target) for path in self._volumes)
        return frozenset(name for name in found if name is not None)

    def _part(
        self,
        origin: Origin,
        found: Sorted,
        clashing: dict[bytes, bytes],
        own_names: frozenset[bytes],
    ) -> Part:
        files, links = (
            [item for item in items if is_possible(item, clashing, own_names, self._problems)]
            for items in (found.files, found.links)
        )
        self._failed += len(found.files) + len(found.links) - len(files) - len(links)
        # Only root may give a link attributes.
        headers = found.headers + (links if self._sets_owner and self._is_root else [])
        return Part(
            origin.job, files, links,
            [_header(item) for item in headers if may_have_attributes(item)],
            origin.in_runs, origin.most,
        )  # fmt: skip

    def _possible(
        self, folders: list[Folder], clashing: dict[bytes, bytes], own_names: frozenset[bytes]
    ) -> list[Folder]:
        kept: list[Folder] = []
        for folder in folders:
            if is_own(folder.path, own_names):
                self._problems.append(own_problem(folder.path))
                continue
            kept.append(folder)
            if folder.path in clashing:
                self._problems.append(case_problem(folder.path, clashing[folder.path]))
        return kept

    def _surplus(
        self, gathered: Gathered, folders: list[Folder], spared: list[bytes], *, may_write: bool
    ) -> DeletePlan | None:
        if gathered.doubt is not None:
            self._problems.append(gathered.doubt)
            return None
        return plan_delete(
            chain.from_iterable(gathered.held),
            (folder.path for folder in folders),
            include=self._wish.include,
            exclude=self._wish.exclude,
            spared=_nodes(spared),
            tells_case=not ignores_case(self._target, may_write=may_write),
        )


def _path(folder: Folder) -> bytes:
    return folder.path


def _header(item: Item) -> Item:
    return Item(item.path, FOLDER, item.member, item.limit, 0, 0, 1)


def _nodes(paths: Iterable[bytes]) -> list[Node]:
    """Give the nodes of those files that are there; opening an archive tells of the others."""
    found: list[Node] = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        found.append((status.st_dev, status.st_ino))
    return found
