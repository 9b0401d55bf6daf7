"""The first and the last step of a restore: make the folders; links, then folders' metadata.

`finish` is the last step of a restore that got there, `close_up` of one that ended early.

Links come after all files, so that no file can go through one. Modes and times of folders come
last and deepest first, because writing into a folder moves its time and may need its mode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from pybak.display import printable
from pybak.errors import PlanError, StorageError
from pybak.problems import EXISTS, STORAGE, UNSUPPORTED, Problem, read_problems, write_problems
from pybak.restore.attempt import is_any_unfinished, remove_temporaries
from pybak.restore.extract import SET_ID, Progress, ShouldStop, extract_batch, without_set_id
from pybak.restore.folders import Folders
from pybak.restore.items import NO_OWNER, Folder, Job, read_batch
from pybak.restore.outcome import Outcome, reason
from pybak.restore.overwrite import IF_NEWER, NEVER
from pybak.restore.plan import RestorePlan

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_ACCESS = 0o700


class FoldersMade(msgspec.Struct, frozen=True):
    """How many folders were made, how many were there, and what stood in the way."""

    made: int
    existed: int
    problems: tuple[Problem, ...]


def make_folders(plan: RestorePlan) -> FoldersMade:
    """Make the target and all folders that the plan needs.

    A folder that can't be made is a problem of its own, and later of every member in it. Notes
    in the work folder which ones keep what they have, so it is to be called once a plan. Raises
    PlanError or StorageError if the target can't be made.
    """
    job, rows = read_batch(plan.folders_file, Folder)
    try:
        os.makedirs(job.target, exist_ok=True)
        folders = Folders(job.target)
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{printable(job.target)}: is no folder; name a folder to restore to"
        raise PlanError(message) from error
    except OSError as error:
        message = f"{printable(job.target)}: can't be made ({reason(error)})"
        raise StorageError(message) from error
    made = existed = 0
    kept: list[bytes] = []
    opened: list[tuple[bytes, int]] = []
    problems: list[Problem] = []
    try:
        with folders:
            for folder in rows:
                try:
                    is_new, is_kept = _make(folders, folder, job, opened)
                except OSError as error:
                    code = EXISTS if isinstance(error, _KeptFile) else STORAGE
                    problems.append(Problem(os.fsdecode(folder.path), code, _explain(error)))
                    kept.append(folder.path)
                    continue
                made += is_new
                existed += not is_new
                if is_kept:
                    kept.append(folder.path)
    finally:
        plan.opened_file.write_bytes(msgspec.msgpack.encode(opened))
    plan.kept_file.write_bytes(msgspec.msgpack.encode(kept))
    return FoldersMade(made, existed, tuple(problems))


class _KeptFile(OSError):  # noqa: N818 - says what was found
    """A file stands where a folder should, and the overwrite mode says it stays."""


def _make(
    folders: Folders, folder: Folder, job: Job, opened: list[tuple[bytes, int]]
) -> tuple[bool, bool]:
    """Make one folder; give whether it is new and whether its metadata is to be left alone.

    Adds it to `opened`, with the mode it had, if it was there and could not be written into.
    """
    above, _, name = folder.path.rpartition(b"/")
    above_fd = folders.fd(above)
    # Until it is finished, others have no business in a folder that may be private.
    mode = _OWN_ACCESS if folder.is_member and folder.mode >= 0 else 0o777
    try:
        os.mkdir(name, mode, dir_fd=above_fd)
        return True, False
    except FileExistsError:
        status = os.stat(name, dir_fd=above_fd, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        if not may_replace(folder, status, job.overwrite):
            raise (
                NotADirectoryError(errno.ENOTDIR, "")
                if stat.S_ISLNK(status.st_mode)
                else _KeptFile(errno.ENOTDIR, "")
            )
        os.unlink(name, dir_fd=above_fd)
        os.mkdir(name, mode, dir_fd=above_fd)
        return True, False
    is_kept = keeps_metadata(folder, status, job.overwrite)
    if folder.is_member and not is_kept and status.st_mode & _OWN_ACCESS != _OWN_ACCESS:
        opened.append((folder.path, stat.S_IMODE(status.st_mode)))
        _open_up(above_fd, name, status.st_mode)
    return False, is_kept


def may_replace(folder: Folder, status: os.stat_result, overwrite: str) -> bool:
    """Whether what stands in a folder's place, and is none, may go. A link never may."""
    if stat.S_ISLNK(status.st_mode) or overwrite == NEVER:
        return False
    if overwrite == IF_NEWER:
        return folder.is_member and folder.mtime_ns > status.st_mtime_ns
    return True


def keeps_metadata(folder: Folder, status: os.stat_result, overwrite: str) -> bool:
    """Whether a folder that is there keeps its mode and time."""
    return (
        not folder.is_member
        or overwrite == NEVER
        or (overwrite == IF_NEWER and folder.mtime_ns <= status.st_mtime_ns)
    )


def _open_up(above_fd: int, name: bytes, mode: int) -> None:
    """Let the owner write into a folder of an earlier restore; its mode comes back at the end."""
    try:
        fd = os.open(name, _OPEN, dir_fd=above_fd)
    except OSError:
        return
    try:
        os.fchmod(fd, stat.S_IMODE(mode) | _OWN_ACCESS)
    except OSError:
        pass
    finally:
        os.close(fd)


def finish(
    plan: RestorePlan,
    *,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Make the links and give the folders their owner, mode and time.

    The outcome counts the links; its problems file also tells which folders could not be
    completed. If it is asked to stop while it makes links, the folders stay as they are, for
    `close_up`. Raises as `extract_batch` does.
    """
    outcome = extract_batch(plan.links_file, should_stop=should_stop, progress=progress)
    if outcome.stopped:
        return outcome
    assert outcome.problems_file is not None
    problems = list(read_problems(outcome.problems_file))
    job = plan.job
    kept = frozenset(_kept(plan.kept_file))
    rows = read_batch(plan.folders_file, Folder)[1]
    members = [row for row in rows if row.is_member and row.path not in kept]
    # A folder sorts before what lies in it, so the reverse is deepest first.
    members.sort(key=lambda row: row.path, reverse=True)
    with Folders(job.target) as folders:
        _remove_temporaries(plan, folders)
        for folder in members:
            try:
                _complete(folders, folder, job, problems)
            except OSError as error:
                code = STORAGE
                message = f"can't get its mode and time: {_explain(error)}"
                problems.append(Problem(os.fsdecode(folder.path), code, message))
    write_problems(outcome.problems_file, problems)
    plan.opened_file.unlink(missing_ok=True)
    return outcome


def close_up(plan: RestorePlan) -> None:
    """Tidy the target after a restore that ended early; does nothing after `finish`.

    Temporary files of killed workers go, and folders that were there before and were opened to
    be written into get back the mode they had. What can't be done is left.
    """
    try:
        opened = msgspec.msgpack.decode(plan.opened_file.read_bytes(), type=list[tuple[bytes, int]])
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError), Folders(plan.job.target) as folders:
        _remove_temporaries(plan, folders)
        for path, mode in sorted(opened, reverse=True):
            with contextlib.suppress(OSError):
                _set_mode(folders, path, mode)
    plan.opened_file.unlink(missing_ok=True)


def _set_mode(folders: Folders, path: bytes, mode: int) -> None:
    above, _, name = path.rpartition(b"/")
    fd = os.open(name, _OPEN, dir_fd=folders.fd(above))
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _remove_temporaries(plan: RestorePlan, folders: Folders) -> None:
    """Delete what killed workers left; without such, no folder is looked through."""
    if is_any_unfinished(plan.folders_file.parent):
        paths = [b"", *(row.path for row in read_batch(plan.folders_file, Folder)[1])]
        remove_temporaries(folders, paths, plan.job.token)


def _kept(path: Path) -> list[bytes]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])


def _complete(folders: Folders, folder: Folder, job: Job, problems: list[Problem]) -> None:
    above, _, name = folder.path.rpartition(b"/")
    fd = os.open(name, _OPEN, dir_fd=folders.fd(above))
    try:
        is_owned = False
        if folder.uid != NO_OWNER and os.geteuid() == 0:
            try:
                os.fchown(fd, folder.uid, folder.gid)
                is_owned = True
            except (OSError, OverflowError) as error:
                message = f"restored, but its owner can't be set: {reason(error)}"
                problems.append(Problem(os.fsdecode(folder.path), UNSUPPORTED, message))
        mode = folder.mode if folder.mode >= 0 else 0o777 & ~job.umask
        if mode & SET_ID and not is_owned:
            mode = without_set_id(mode, fd, folder.uid, folder.gid)
        os.fchmod(fd, mode)
        try:
            os.utime(fd, ns=(folder.mtime_ns, folder.mtime_ns))
        except OverflowError as error:
            message = f"restored, but its time can't be set: {reason(error)}"
            problems.append(Problem(os.fsdecode(folder.path), UNSUPPORTED, message))
    finally:
        os.close(fd)


def _explain(error: OSError) -> str:
    if isinstance(error, _KeptFile):
        return "a file stands in its place and stays"
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where a folder must be"
    return reason(error)
