"""The first and the last step of a mirror: clear the way; then links, deletions, folders.

Folders get their modes and times last and deepest first, because writing into a folder moves its
time and may need its mode.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from pybak.attributes import read_attributes
from pybak.display import printable
from pybak.entries import FILE
from pybak.errors import SourceError, StorageError, reason
from pybak.folders import Folders
from pybak.looks import dress
from pybak.mirror.account import Outcome, Progress, ShouldStop
from pybak.mirror.copy import Copier
from pybak.mirror.files import looks_of
from pybak.mirror.plan import MirrorPlan, folders_of, links_of, not_deleted, surplus_of
from pybak.mirror.rows import (
    NEW,
    UPDATE,
    FolderRow,
    MirrorJob,
    Row,
    SurplusRow,
    inode_of,
    read_batch,
)
from pybak.mirror.surplus import open_up, remove_temporaries
from pybak.problems import STORAGE

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(work_dir: Path, plan: MirrorPlan) -> None:
    """Make the target, remove what killed runs left in it and what stands in folders' places.

    Raises StorageError if the target can't be made or can't be written at all.
    """
    job = MirrorJob.load(work_dir)
    name = printable(job.target)
    try:
        if job.target_root is None:
            os.makedirs(job.target, mode=0o700 if job.only is None else 0o777, exist_ok=True)
            status = os.stat(job.target, follow_symlinks=False)
            job = msgspec.structs.replace(job, target_root=inode_of(status))
            job.save(work_dir)
        with Folders(job.target, inode=job.target_root) as folders:
            if os.statvfs(job.target).f_flag & os.ST_RDONLY:
                raise StorageError(f"{name}: the file system is read-only; mount it to be written")
            remove_temporaries(plan.temporaries, folders)
            for row in folders_of(plan):
                if row.in_the_way:
                    _clear(folders, row.path)
    except OSError as error:
        raise StorageError(
            f"{name}: {reason(error).lower()}; choose a folder you can write"
        ) from error


def _clear(folders: Folders, path: bytes) -> None:
    """Remove a file or a link that stands where a folder goes; what fails is told later."""
    above, _, name = path.rpartition(b"/")
    with contextlib.suppress(OSError):
        fd = folders.fd(above)
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return
        try:
            os.unlink(name, dir_fd=fd)
        except PermissionError:
            if open_up(fd):
                os.unlink(name, dir_fd=fd)


def finish(
    work_dir: Path,
    plan: MirrorPlan,
    copied: Outcome,
    *,
    should_stop: ShouldStop = lambda: False,
    progress: Progress = lambda _files, _size, _path: None,
) -> Outcome:
    """Make hard links, delete what is too much, put files in folders' places, complete folders.

    `copied` is what came of the copies. Unless all of it is in place nothing is deleted: what is
    gone from the source may have been the last copy of what could not be made. If it is asked to
    stop, the folders are completed all the same, as far as they are there. Raises OSError if source
    or target can't be opened any more.
    """
    job = MirrorJob.load(work_dir)
    with Copier(job, should_stop=should_stop, progress=progress) as copier:
        if _link(copier, plan) and not should_stop():
            _replace_and_delete(copier, plan, copied)
        _complete_all(copier, job, folders_of(plan))
        return copier.finish()


def _replace_and_delete(copier: Copier, plan: MirrorPlan, copied: Outcome) -> None:
    """Empty folders that files take the place of, put these there, and delete all else."""
    late = {row.path for batch in plan.late for row in read_batch(batch)}
    first: list[SurplusRow] = []
    rest: list[SurplusRow] = []
    for row in surplus_of(plan):
        (first if _is_in(row.path, late) else rest).append(row)
    outcome = copier.outcome
    if copied.is_all_there and outcome.is_all_there:
        copier.delete(first)
    if not _copy_late(copier, plan):
        return
    if copied.is_all_there and outcome.is_all_there:
        copier.delete(rest)
    elif plan.deletes:
        what = "nothing else" if outcome.deleted or outcome.folders_deleted else "nothing"
        why = "not all could be copied; see what failed or vanished, and run again"
        copier.account.problems.append(not_deleted(why, what))


def _is_in(path: bytes, folders: set[bytes]) -> bool:
    if not folders:
        return False
    while path and path not in folders:
        path = path.rpartition(b"/")[0]
    return bool(path)


def close_up(work_dir: Path, plan: MirrorPlan) -> None:
    """Complete the folders after a run that ended early, as far as that can be done."""
    job = MirrorJob.load(work_dir)
    if job.target_root is None:
        return  # nothing was made
    with contextlib.suppress(OSError), Copier(job) as copier:
        _complete_all(copier, job, folders_of(plan), makes=False)


def _link(copier: Copier, plan: MirrorPlan) -> bool:
    """Make further names of files; False if it was asked to stop."""
    firsts: dict[bytes, bytes] = {}
    for row in links_of(plan):
        first = firsts.get(row.first, row.first)
        if copier.link(first, row.path):
            copier.outcome.copied += row.is_new
            copier.outcome.updated += not row.is_new
            continue
        # The first name could not be copied, or has all the names it can have.
        done = copier.outcome.copied + copier.outcome.updated
        if not copier.copy(Row(row.path, FILE, NEW if row.is_new else UPDATE, row.size)):
            return False
        if copier.outcome.copied + copier.outcome.updated > done:
            firsts[row.first] = row.path
    return True


def _copy_late(copier: Copier, plan: MirrorPlan) -> bool:
    """Copy what takes the place of folders; False if it was asked to stop."""
    return all(copier.copy(row) for batch in plan.late for row in read_batch(batch))


def _complete_all(
    copier: Copier, job: MirrorJob, rows: Iterable[FolderRow], *, makes: bool = True
) -> None:
    rows = [row for row in rows if row.path or job.only is None]
    for row in rows if makes else ():
        if row.is_new:
            _make(copier, row.path)
    # A folder sorts before what lies in it.
    for row in sorted(rows, key=lambda row: row.path, reverse=True):
        try:
            _complete(copier, job, row)
        except SourceError as error:
            copier.account.note(row.path, error.code, str(error))
        except FileNotFoundError:
            continue  # gone from the source, or never made: that was told
        except OSError as error:
            message = f"can't get its mode and time: {reason(error)}"
            copier.account.note(row.path, STORAGE, message)


def _make(copier: Copier, path: bytes) -> None:
    try:
        copier.destination.folder(path)
    except OSError as error:
        copier.account.note(path, STORAGE, f"can't be made: {reason(error)}")


def _complete(copier: Copier, job: MirrorJob, row: FolderRow) -> None:
    source = os.open(b".", _OPEN, dir_fd=copier.sources.fd(row.path))
    try:
        status = os.fstat(source)
        xattrs = read_attributes(source) if job.keeps_looks else None
    finally:
        os.close(source)
    above, _, name = row.path.rpartition(b"/")
    folder = copier.destination.folders.fd(above)
    if row.path and not os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & stat.S_IRUSR:
        open_up(copier.destination.folders.fd(row.path))
    target = os.open(b".", _OPEN, dir_fd=copier.destination.folders.fd(row.path))
    try:
        if xattrs is None:
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
            return
        for message in dress(target, looks_of(job, status), xattrs, removes_others=True):
            copier.account.note(row.path, STORAGE, message)
    finally:
        os.close(target)
