"""The plan of a restore: what goes where, in how many batches, before anything is written.

`plan_restore` writes the batches as small files into a work folder for the workers; the order is
then `make_folders`, `extract_batch` for each batch in any order and side by side, `finish`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pybak.display import printable
from pybak.errors import PlanError
from pybak.formats.zip_reader import Limits
from pybak.problems import STORAGE, Problem
from pybak.restore.choose import Chosen, choose
from pybak.restore.items import Folder, Item, Job, share_out, write_batch
from pybak.restore.names import folded
from pybak.restore.overwrite import ALWAYS, IF_CHANGED, IF_NEWER, NEVER
from pybak.restore.select import Selector
from pybak.units import format_count, format_size

OVERWRITE: Final = (NEVER, IF_NEWER, IF_CHANGED, ALWAYS)

_UMASK = re.compile(r"^Umask:\s*([0-7]+)", re.MULTILINE)
_Row = TypeVar("_Row", Item, Folder)


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

    @property
    def total(self) -> int:
        """Files and links that were asked for, those that can't be restored included."""
        return self.files + self.links + self.failed + self.skipped

    def summary(self) -> str:
        """Say in a few lines what will be done."""
        return summarise(self, len(self.batches))


class Prepared(msgspec.Struct, frozen=True):
    """A plan in memory: what `plan_restore` puts on disk."""

    job: Job
    label: str
    files: list[Item]
    links: list[Item]
    folders: list[Folder]
    size: int
    failed: int
    skipped: int
    problems: tuple[Problem, ...]

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
    if plan.problems:
        lines.append(f"  left out: {format_count(len(plan.problems), 'entry', 'entries')}")
    return "\n".join(lines)


def prepare(
    archive: bytes,
    target: bytes,
    *,
    overwrite: str = IF_CHANGED,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limits: Limits | None = None,
    may_write: bool = True,
) -> Prepared:
    """Decide what a restore does, without batches and without writing anything for it.

    `target` may be missing; links in it are followed. With `may_write` a file may be made and
    removed in an empty target to learn whether its file system ignores case. Raises PlanError
    for a target that can't be a folder and for bad patterns, and what `choose` raises.
    """
    if overwrite not in OVERWRITE:
        raise PlanError(f"{overwrite!r} is no overwrite mode; choose of {', '.join(OVERWRITE)}")
    target = _checked_target(target)
    chosen = choose(os.path.abspath(archive), Selector(include, exclude), limits or Limits())
    problems = chosen.problems
    clashing = _same_but_for_case(chosen, target, may_write=may_write)
    own_name = _name_below(archive, target)
    files, links = (
        [item for item in items if _is_possible(item, clashing, own_name, problems)]
        for items in (chosen.files, chosen.links)
    )
    for folder in chosen.folders:
        if folder.path in clashing:
            problems.append(_case_problem(folder.path, clashing[folder.path]))
    dropped = len(chosen.files) + len(chosen.links) - len(files) - len(links)
    job = Job(
        archive=os.path.abspath(archive),
        identity=chosen.identity,
        target=target,
        overwrite=overwrite,
        token=os.urandom(4).hex(),
        umask=_umask(),
    )
    return Prepared(
        job, chosen.label, files, links, chosen.folders,
        sum(item.member.size for item in files), chosen.failed + dropped, chosen.skipped,
        tuple(problems),
    )  # fmt: skip


def plan_restore(
    archive: bytes,
    target: bytes,
    *,
    work_dir: Path,
    tasks: int,
    overwrite: str = IF_CHANGED,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limits: Limits | None = None,
) -> RestorePlan:
    """Decide what a restore does and write at most `tasks` batches into `work_dir`.

    Writes nothing elsewhere. The batches come largest first. Raises as `prepare` does.
    """
    prepared = prepare(
        archive, target, overwrite=overwrite, include=include, exclude=exclude, limits=limits
    )
    batches = []
    for number, items in enumerate(share_out(by_folder(prepared.files), tasks)):
        path = work_dir / f"restore-{number:04d}"
        write_batch(path, prepared.job, items)
        batches.append(path)
    folders_file, links_file = work_dir / "restore-folders", work_dir / "restore-links"
    write_batch(folders_file, prepared.job, prepared.folders)
    write_batch(links_file, prepared.job, by_folder(prepared.links))
    return RestorePlan(
        prepared.job, prepared.label, len(prepared.files), len(prepared.links),
        len(prepared.folders), prepared.size, prepared.failed, prepared.skipped,
        prepared.problems, tuple(batches), folders_file, links_file, work_dir / "restore-kept",
        work_dir / "restore-opened",
    )  # fmt: skip


def by_folder(items: list[Item]) -> list[Item]:
    """Give the items folder by folder, the folders in the order in which the archive has them."""
    first: dict[bytes, int] = {}
    for item in items:
        folder = item.path.rpartition(b"/")[0]
        offset = item.member.offset
        if offset <= first.setdefault(folder, offset):
            first[folder] = offset
    return sorted(
        items, key=lambda item: (first[item.path.rpartition(b"/")[0]], item.member.offset)
    )


def _checked_target(target: bytes) -> bytes:
    """Give the absolute target; raise PlanError unless it is, or can become, a folder."""
    path = os.path.realpath(target)
    above = path
    while True:
        try:
            status = os.stat(above)
            break
        except FileNotFoundError:
            above = os.path.dirname(above)
        except NotADirectoryError:
            above = os.path.dirname(above)
        except (OSError, ValueError) as error:
            message = f"{printable(target)}: can't be the target ({error}); choose another folder"
            raise PlanError(message) from error
    if not stat.S_ISDIR(status.st_mode):
        what = "it" if above == path else printable(above)
        raise PlanError(f"{printable(target)}: {what} is a file; name a folder to restore to")
    return path


def _is_possible(
    item: Item, clashing: dict[bytes, bytes], own_name: bytes | None, problems: list[Problem]
) -> bool:
    if item.path in clashing:
        problems.append(_case_problem(item.path, clashing[item.path]))
        return False
    if item.path == own_name:
        message = "would replace the archive that is being restored"
        problems.append(Problem(os.fsdecode(item.path), STORAGE, message))
        return False
    return True


def _name_below(archive: bytes, target: bytes) -> bytes | None:
    """Give the archive's own path below the target, or None if it lies elsewhere."""
    path = os.path.realpath(archive)
    prefix = target if target.endswith(b"/") else target + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _case_problem(path: bytes, other: bytes) -> Problem:
    message = f"differs only by case from {printable(other)}, which the target can't tell apart"
    return Problem(os.fsdecode(path), STORAGE, message)


def _same_but_for_case(chosen: Chosen, target: bytes, *, may_write: bool) -> dict[bytes, bytes]:
    """Give the paths that the target would take for another path, with that path."""
    seen: dict[str, bytes] = {}
    clashing: dict[bytes, bytes] = {}
    rows: tuple[Sequence[Item | Folder], ...] = (chosen.folders, chosen.files, chosen.links)
    for part in rows:
        for row in part:
            other = seen.setdefault(folded(row.path), row.path)
            if other is not row.path:
                clashing[row.path] = other
    return clashing if clashing and ignores_case(target, may_write=may_write) else {}


def ignores_case(target: bytes, *, may_write: bool) -> bool:
    """Find out whether the file system of `target` takes `a` and `A` for one name.

    Looks at what is there; in an empty folder a file is made and removed if `may_write`.
    """
    folder = target
    while True:
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        for name in names:
            swapped = name.swapcase()
            if swapped != name and swapped not in names:
                return _is_same(os.path.join(folder, name), os.path.join(folder, swapped))
        if may_write and not names and os.path.isdir(folder):
            return _probe(folder)
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above


def _probe(folder: bytes) -> bool:
    probe = os.path.join(folder, b".pybak-probe-" + os.urandom(4).hex().encode())
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    try:
        return _is_same(probe, os.path.join(folder, os.path.basename(probe).upper()))
    finally:
        os.unlink(probe)


def _is_same(path: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


def _umask() -> int:
    """Give the process's umask, without changing it where the system can tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    found = _UMASK.search(text)
    if found:
        return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
