"""The first and the last step of a restore: make the folders; links, then folders' metadata.

`finish` is the last step of a restore that got there, `close_up` of one that ended early.

Links come after the files of all archives, so that no file can go through one. Modes and times of
folders come last and deepest first, because writing into a folder moves its time and may need its
mode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from pybak.display import printable
from pybak.errors import PlanError, StorageError, reason
from pybak.folders import Folders
from pybak.looks import Looks, dress
from pybak.problems import EXISTS, STORAGE, UNSUPPORTED, Problem, read_problems, write_problems
from pybak.restore.account import Progress, ShouldStop
from pybak.restore.attempt import is_any_unfinished, remove_temporaries
from pybak.restore.delete import DeletePlan, delete_surplus
from pybak.restore.extract import extract_batch
from pybak.restore.items import Folder, Job, read_batch
from pybak.restore.outcome import Outcome
from pybak.restore.overwrite import IF_NEWER, NEVER
from pybak.restore.plan import RestorePlan
from pybak.restore.taken_attributes import read_taken

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLD: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HAS_PATH_FDS: Final = hasattr(os, "O_PATH")
_OWN_ACCESS = 0o700


class _Begun(msgspec.Struct):
    """Folders that are not finished: those that this run made, and those that it opened.

    The latter were there and could not be written into; each has the mode it had.
    """

    made: set[bytes] = msgspec.field(default_factory=set)
    opened: dict[bytes, int] = msgspec.field(default_factory=dict)

    def add_new(self, folder: Folder) -> None:
        """Note a folder that was made."""
        if folder.is_member:
            self.made.add(folder.path)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read back what `make_folders` noted; None if there is nothing left to finish."""
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None


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
    begun = _Begun()
    problems: list[Problem] = []
    try:
        with folders:
            for folder in rows:
                try:
                    is_new, is_kept = _make(folders, folder, job, begun)
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
        plan.opened_file.write_bytes(msgspec.msgpack.encode(begun))
    plan.kept_file.write_bytes(msgspec.msgpack.encode(kept))
    return FoldersMade(made, existed, tuple(problems))


class _KeptFile(OSError):  # noqa: N818 - says what was found
    """A file stands where a folder should, and the overwrite mode says it stays."""


def _make(folders: Folders, folder: Folder, job: Job, begun: _Begun) -> tuple[bool, bool]:
    """Make one folder; give whether it is new and whether its metadata is to be left alone.

    Notes in `begun` if its mode and time are to be set in the end.
    """
    above, _, name = folder.path.rpartition(b"/")
    above_fd = folders.fd(above)
    # Until it is finished, others have no business in a folder that may be private.
    mode = _OWN_ACCESS if folder.is_member and folder.mode >= 0 else 0o777
    try:
        os.mkdir(name, mode, dir_fd=above_fd)
    except FileExistsError:
        status = os.stat(name, dir_fd=above_fd, follow_symlinks=False)
    else:
        begun.add_new(folder)
        return True, False
    if not stat.S_ISDIR(status.st_mode):
        if not may_replace(folder, status, job):
            raise (
                NotADirectoryError(errno.ENOTDIR, "")
                if stat.S_ISLNK(status.st_mode)
                else _KeptFile(errno.ENOTDIR, "")
            )
        os.unlink(name, dir_fd=above_fd)
        os.mkdir(name, mode, dir_fd=above_fd)
        begun.add_new(folder)
        return True, False
    if status.st_mode & _OWN_ACCESS != _OWN_ACCESS and _open_up(above_fd, name, status.st_mode):
        begun.opened[folder.path] = stat.S_IMODE(status.st_mode)
    return False, keeps_metadata(folder, status, job.overwrite)


def may_replace(folder: Folder, status: os.stat_result, job: Job) -> bool:
    """Whether what stands in a folder's place, and is none, may go.

    A link never may, nor does the archive itself, under whatever name.
    """
    if stat.S_ISLNK(status.st_mode) or job.overwrite == NEVER or job.is_own(status):
        return False
    if job.overwrite == IF_NEWER:
        return folder.is_member and folder.mtime_ns > status.st_mtime_ns
    return True


def keeps_metadata(folder: Folder, status: os.stat_result, overwrite: str) -> bool:
    """Whether a folder that is there keeps its mode and time."""
    return (
        not folder.is_member
        or overwrite == NEVER
        or (overwrite == IF_NEWER and folder.mtime_ns <= status.st_mtime_ns)
    )


def _open_up(above_fd: int, name: bytes, mode: int) -> bool:
    """Let the owner write into a folder of an earlier restore; whether that worked.

    Its mode comes back at the end.
    """
    try:
        _set_mode(above_fd, name, stat.S_IMODE(mode) | _OWN_ACCESS)
    except OSError:
        return False
    return True


def _set_mode(above_fd: int, name: bytes, mode: int) -> None:
    """Set a folder's mode, whether or not its owner may read it."""
    fd = os.open(name, _HOLD, dir_fd=above_fd)
    try:
        # A descriptor that only stands for a path takes no `fchmod`.
        os.chmod(f"/proc/self/fd/{fd}" if _HAS_PATH_FDS else fd, mode)
    finally:
        os.close(fd)


def _open(above_fd: int, name: bytes) -> int:
    """Open a folder for its metadata; one that its owner may not read gets another mode first."""
    try:
        return os.open(name, _OPEN, dir_fd=above_fd)
    except PermissionError:
        _set_mode(above_fd, name, _OWN_ACCESS)
        return os.open(name, _OPEN, dir_fd=above_fd)


def finish(
    plan: RestorePlan,
    *,
    password: bytes | None = None,
    should_stop: ShouldStop | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Make the links, remove what is not in the archive, give the folders owner, mode and time.

    The outcome counts the links and what was removed; its problems file also tells which folders
    could not be completed. If it is asked to stop meanwhile, the folders stay as they are, for
    `close_up`. Raises as `extract_batch` does.
    """
    outcome = extract_batch(
        plan.links_file, password=password, should_stop=should_stop, progress=progress
    )
    if outcome.stopped:
        return outcome
    problems_file = outcome.problems_file or plan.links_file.with_name("restore-end.problems")
    problems = list(read_problems(problems_file))
    job = plan.job
    deleted = 0
    kept = frozenset(_kept(plan.kept_file))
    attributes = read_taken(plan.folders_file.parent)
    begun = _Begun.load(plan.opened_file) or _Begun()
    rows = _deepest_first(
        row
        for row in read_batch(plan.folders_file, Folder)[1]
        if (row.is_member and row.path not in kept) or row.path in begun.opened
    )
    with Folders(job.target) as folders:
        _remove_temporaries(plan, folders)
        if plan.delete_file is not None:
            surplus = DeletePlan.load(plan.delete_file)
            deleted, notes = delete_surplus(surplus, folders, should_stop=should_stop)
            problems += notes
        for folder in rows:
            try:
                if folder.is_member and folder.path not in kept:
                    _complete(folders, folder, job, attributes, problems)
                else:
                    _give_back_mode(folders, folder.path, begun.opened[folder.path])
            except OSError as error:
                code = STORAGE
                message = f"can't get its mode and time: {_explain(error)}"
                problems.append(Problem(os.fsdecode(folder.path), code, message))
    write_problems(problems_file, problems)
    plan.opened_file.unlink(missing_ok=True)
    return msgspec.structs.replace(outcome, deleted=deleted, problems_file=problems_file)


def close_up(plan: RestorePlan) -> None:
    """Tidy the target after a restore that ended early; does nothing after `finish`.

    Temporary files of killed workers go, folders that were made get their mode and time, and those
    that were there before and were opened to be written into get back the mode they had. What
    can't be done is left.
    """
    begun = _Begun.load(plan.opened_file)
    if begun is None:
        return
    rows = _deepest_first(
        row
        for row in read_batch(plan.folders_file, Folder)[1]
        if row.path in begun.made or row.path in begun.opened
    )
    with contextlib.suppress(OSError), Folders(plan.job.target) as folders:
        _remove_temporaries(plan, folders)
        for folder in rows:
            with contextlib.suppress(OSError):
                if folder.path in begun.made:
                    _complete(folders, folder, plan.job, {}, [])
                else:
                    _give_back_mode(folders, folder.path, begun.opened[folder.path])
    plan.opened_file.unlink(missing_ok=True)


def _deepest_first(rows: Iterable[Folder]) -> list[Folder]:
    # A folder sorts before what lies in it.
    return sorted(rows, key=lambda row: row.path, reverse=True)


def _give_back_mode(folders: Folders, path: bytes, mode: int) -> None:
    above, _, name = path.rpartition(b"/")
    _set_mode(folders.fd(above), name, mode)


def _remove_temporaries(plan: RestorePlan, folders: Folders) -> None:
    """Delete what killed workers left; without such, no folder is looked through."""
    if is_any_unfinished(plan.folders_file.parent):
        paths = [b"", *(row.path for row in read_batch(plan.folders_file, Folder)[1])]
        remove_temporaries(folders, paths, plan.job.token)


def _kept(path: Path) -> list[bytes]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])


def _complete(
    folders: Folders,
    folder: Folder,
    job: Job,
    attributes: Mapping[bytes, Mapping[bytes, bytes]],
    problems: list[Problem],
) -> None:
    above, _, name = folder.path.rpartition(b"/")
    fd = _open(folders.fd(above), name)
    try:
        mode = folder.mode if folder.mode >= 0 else 0o777 & ~job.umask
        looks = Looks(folder.uid, folder.gid, mode, folder.mtime_ns, job.sets_owner)
        xattrs = attributes.get(folder.path, {} if folder.knows_attributes else None)
        notes = dress(fd, looks, xattrs, removes_others=folder.knows_attributes)
        problems += (Problem(os.fsdecode(folder.path), UNSUPPORTED, note) for note in notes)
    finally:
        os.close(fd)


def _explain(error: OSError) -> str:
    if isinstance(error, _KeptFile):
        return "a file stands in its place and stays"
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where a folder must be"
    return reason(error)
