"""The plan of a restore: what goes where, in how many batches, before anything is written.

`plan_restore` writes the batches as small files into a work folder for the workers; the order is
then `make_folders`, `extract_batch` for each batch in any order and side by side, `finish`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from pybak.display import printable
from pybak.entries import FOLDER
from pybak.errors import PlanError, WrongPasswordError
from pybak.formats.archive import Archive, Limits
from pybak.formats.opening import open_archive
from pybak.formats.zip_aes import ADVICE
from pybak.problems import Problem
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.restore.choose import choose
from pybak.restore.delete import DeletePlan, plan_delete
from pybak.restore.items import Folder, Item, Job, Node, write_batch, write_index
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
from pybak.restore.select import Selector
from pybak.restore.shares import by_folder, deal
from pybak.restore.taken_attributes import may_have_attributes
from pybak.restore.target import checked_target, current_umask, ignores_case
from pybak.units import format_count, format_size


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a restore, beside archive and target."""

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


class Prepared(msgspec.Struct, frozen=True):
    """A plan in memory: what `plan_restore` puts on disk.

    `headers` stand for folders and links whose attributes only the archive's stream tells.
    `surplus` is what may be deleted, None if nothing may.
    """

    job: Job
    label: str
    files: list[Item]
    links: list[Item]
    folders: list[Folder]
    headers: list[Item]
    size: int
    failed: int
    skipped: int
    problems: tuple[Problem, ...]
    surplus: DeletePlan | None = None

    @property
    def total(self) -> int:
        """Files and links that were asked for, those that can't be restored included."""
        return len(self.files) + len(self.links) + self.failed + self.skipped

    def summary(self) -> str:
        """Say in a few lines what would be done."""
        return summarise(self, 0)


def summarise(plan: RestorePlan | Prepared, batches: int) -> str:
    """Say in a few lines what a plan is about."""
    files, links, folders = (
        part if isinstance(part, int) else len(part)
        for part in (plan.files, plan.links, plan.folders)
    )
    what = f"{format_count(files, 'file')} ({format_size(plan.size)})"
    how = "never replaced" if plan.job.overwrite == NEVER else f"replaced {plan.job.overwrite}"
    lines = [
        f"{plan.label} to {printable(plan.job.target)}",
        f"  {what}, {format_count(links, 'link')}, {format_count(folders, 'folder')}",
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
    volumes: Sequence[bytes],
    target: bytes,
    wish: Wish | None = None,
    *,
    password: bytes | None = None,
    may_write: bool = True,
) -> Prepared:
    """Decide what a restore does, without batches and without writing anything for it.

    `volumes` are the archive's files in order. `target` may be missing; links in it are followed.
    With `may_write` a file may be made and removed in an empty target to learn whether its file
    system ignores case. Raises PlanError for a target that can't be a folder and for bad
    patterns; WrongPasswordError; ArchiveError if the archive as a whole can't be used: damaged,
    or a bomb by its limits; NotFoundError or StorageError if it can't be opened.
    """
    wish = wish or Wish()
    target = _checked(wish, target)
    with open_archive(_absolute(volumes), password=password) as archive:
        return _prepare(archive, volumes, target, wish, may_write=may_write)


def plan_restore(
    volumes: Sequence[bytes],
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
    first. Raises as `prepare` does, and Interrupted once `should_stop` says so.
    """
    wish = wish or Wish()
    target = _checked(wish, target)
    with open_archive(_absolute(volumes), password=password) as archive:
        prepared = _prepare(
            archive, volumes, target, wish, may_write=True, spared=[os.fsencode(work_dir)]
        )
        if prepared.total or prepared.folders or prepared.surplus is not None:
            sealed = wrapped_volumes(archive.source)
            authenticate(sealed, workers=os.cpu_count() or 1, should_stop=should_stop)
        delete_file = None
        if prepared.surplus is not None:
            delete_file = work_dir / "restore-delete"
            prepared.surplus.save(delete_file)
        job = msgspec.structs.replace(
            prepared.job,
            index_file=write_index(work_dir / "restore-index", archive),
            delete_file=str(delete_file or ""),
        )
        in_runs, tasks = runs_of(archive, tasks)
        rows = [*prepared.files, *prepared.headers] if in_runs else by_folder(prepared.files)
        batches = []
        for number, items in enumerate(deal(rows, tasks, in_runs=in_runs)):
            path = work_dir / f"restore-{number:04d}"
            write_batch(path, job, items)
            batches.append(path)
    folders_file, links_file = work_dir / "restore-folders", work_dir / "restore-links"
    write_batch(folders_file, job, prepared.folders)
    write_batch(links_file, job, prepared.links)
    return RestorePlan(
        job, prepared.label, len(prepared.files), len(prepared.links),
        len(prepared.folders), prepared.size, prepared.failed, prepared.skipped,
        prepared.problems, tuple(batches), folders_file, links_file, work_dir / "restore-kept",
        work_dir / "restore-opened", delete_file,
    )  # fmt: skip


def runs_of(archive: Archive, tasks: int) -> tuple[bool, int]:
    """Tell whether batches must be runs of the archive, and how many batches make sense."""
    if archive.index is None:
        return False, tasks
    # Without places to start at, a second batch would unpack all that the first one does.
    return True, tasks if archive.format == "tar" else max(1, min(tasks, len(archive.index)))


def locked(archive: Archive) -> WrongPasswordError:
    """Make the error that says that a password is missing."""
    return WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")


def _absolute(volumes: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(os.path.abspath(path) for path in volumes)


def _checked(wish: Wish, target: bytes) -> bytes:
    for value, known, what in (
        (wish.overwrite, OVERWRITE, "overwrite mode"),
        (wish.owner, OWNERS, "way to set owners"),
    ):
        if value not in known:
            raise PlanError(f"{value!r} is no {what}; choose of {', '.join(known)}")
    return checked_target(target)


def _prepare(
    archive: Archive,
    volumes: Sequence[bytes],
    target: bytes,
    wish: Wish,
    *,
    may_write: bool,
    spared: Sequence[bytes] = (),
) -> Prepared:
    is_root = os.geteuid() == 0
    selector = Selector(wish.include, wish.exclude)
    listing = archive.listing(wish.limits)
    chosen = choose(listing, selector, finder(wish.owner), is_root=is_root)
    # Empty files are never encrypted: they say nothing about whether anything can be read.
    if listing.encrypted and not any(item.member.size for item in chosen.files):
        raise locked(archive)
    archive.check_limits(chosen.listed, wish.limits)
    problems = chosen.problems
    clashing = same_but_for_case(chosen, target, may_write=may_write)
    found_names = (name_below(path, target) for path in volumes)
    own_names = frozenset(name for name in found_names if name is not None)
    files, links = (
        [item for item in items if is_possible(item, clashing, own_names, problems)]
        for items in (chosen.files, chosen.links)
    )
    folders: list[Folder] = []
    for folder in chosen.folders:
        if is_own(folder.path, own_names):
            problems.append(own_problem(folder.path))
            continue
        folders.append(folder)
        if folder.path in clashing:
            problems.append(case_problem(folder.path, clashing[folder.path]))
    dropped = len(chosen.files) + len(chosen.links) - len(files) - len(links)
    surplus = None
    if wish.deletes:
        plan = plan_delete(
            listing,
            (row.path for rows in (files, links, folders) for row in rows),
            include=wish.include,
            exclude=wish.exclude,
            spared=_nodes([*volumes, *spared]),
            tells_case=not ignores_case(target, may_write=may_write),
        )
        if isinstance(plan, Problem):
            problems.append(plan)
        else:
            surplus = plan
    gives = sets_owner(wish.owner, is_root=is_root)
    job = Job(
        volumes=_absolute(volumes),
        identity=archive.identity,
        target=target,
        overwrite=wish.overwrite,
        token=os.urandom(4).hex(),
        umask=current_umask(),
        sets_owner=gives,
        knows_attributes=listing.has_manifest and archive.format.startswith("tar"),
        own_nodes=frozenset(_nodes(volumes)),
    )
    # Only root may give a link attributes.
    headers = chosen.headers + (links if gives and is_root else [])
    return Prepared(
        job, archive.label, files, links, folders,
        [_header(item) for item in headers if may_have_attributes(item)],
        sum(item.member.size for item in files), chosen.failed + dropped, chosen.skipped,
        tuple(problems), surplus,
    )  # fmt: skip


def _header(item: Item) -> Item:
    return Item(item.path, FOLDER, item.member, item.limit, 0, 0, 1)


def _nodes(paths: Iterable[bytes]) -> list[Node]:
    return [(status.st_dev, status.st_ino) for status in map(os.stat, paths)]
