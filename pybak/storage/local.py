"""Archives in a local folder: what they are called, and how they appear all at once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pybak.backup.assemble import Assembly
from pybak.errors import PlanError, StorageError
from pybak.paths import user_path
from pybak.staging import NO_HARD_LINKS, reason
from pybak.volumes.model import Volume

_WHOLE_DIGEST_BYTES: Final = 64 << 20
"""Archives up to this size get one digest, which `sha256sum` prints too; larger ones a list."""
_READ_BYTES: Final = 1 << 20
_LONGEST_NAME: Final = 250
"""In bytes; leaves room for a number within the 255 that file systems take."""
_REMOTE = re.compile(r"(s3|gs|block):")
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Destination:
    """Where an archive goes. With `fixed`, under exactly this name or not at all."""

    folder: Path
    name: str
    fixed: bool
    suffix: str
    """What the name ends with, behind a dot, if it is not fixed."""
    made_folders: tuple[Path, ...] = ()
    """Folders that were made for it, the outermost first."""

    @property
    def path(self) -> Path:
        """The archive's path, unless the name is taken."""
        return self.folder / self.name

    def undo(self) -> None:
        """Remove the folders that were made, as far as they are empty."""
        for folder in reversed(self.made_folders):
            try:
                folder.rmdir()
            except OSError:
                return


def default_name(job: str | None, now: datetime, suffix: str) -> str:
    """Give `backup_20261121_101500.zip`, or the job's name in front; `now` in local time."""
    return f"{_stem(job)}_{now:%Y%m%d_%H%M%S}.{suffix}"


def _stem(job: str | None) -> str:
    return (_UNSAFE_IN_NAME.sub("-", job).strip("-.") if job else "") or "backup"


def own_archives(folder: Path, job: str | None, suffix: str) -> list[Path]:
    """List the archives in `folder` that earlier runs of this job named by default."""
    stem = re.escape(_stem(job))
    pattern = re.compile(rf"{stem}_\d{{8}}_\d{{6}}(_\d+)?\.{re.escape(suffix)}(\.\d+)?")
    try:
        return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []


def choose(
    output: str | None, to: str | None, *, job: str | None, now: datetime, suffix: str, create: bool
) -> Destination:
    """Decide where the archive goes; make the folder if it is missing and `create` is set.

    Neither given means the current folder.
    Raises PlanError for what is no local place, StorageError when the place can't be used.
    """
    if output is not None:
        path = user_path(output)
        if path.is_dir():
            raise PlanError(f"{output}: is a folder; name a file, or use --to for a folder")
        if path.is_symlink() or path.exists():
            raise StorageError(f"{output}: exists already; choose another name or remove it first")
        folder, name, fixed = path.parent, path.name, True
    else:
        where = to or "."
        if _REMOTE.match(where):
            raise PlanError(f"{where}: only local folders can be written so far; name a folder")
        folder, name, fixed = user_path(where), default_name(job, now, suffix), False
        too_long = len(os.fsencode(name)) - _LONGEST_NAME
        if too_long > 0:
            raise PlanError(
                f"--job: makes the archive's name {too_long} bytes too long; shorten it, or name "
                "the archive with --output"
            )
    made = _make(folder) if create else ()
    return Destination(folder, name, fixed, suffix, made)


def _make(folder: Path) -> tuple[Path, ...]:
    missing: list[Path] = []
    at = folder
    while not at.exists() and at != at.parent:
        missing.insert(0, at)
        at = at.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {reason(error)}; choose a folder you can write") from error
    return tuple(missing)


def publish(assembly: Assembly, destination: Destination) -> tuple[Path, Volume]:
    """Give a finished archive its name, without ever replacing a file; bring that to the disk.

    A taken default name gets `_2`, `_3` and so on.
    Raises StorageError if a fixed name is taken by now, or the file is not what was written:
    all are compared by size, those up to 64 MiB by content.
    """
    size = assembly.path.stat().st_size
    if size != assembly.size:
        raise StorageError(
            f"{assembly.path}: holds {size} bytes, {assembly.size} were written; check the disk"
        )
    try:
        digest = _compared(assembly) if size <= _WHOLE_DIGEST_BYTES else None
        path = _name(assembly.path, destination)
        try:
            _sync_folder(destination.folder)
            for folder in destination.made_folders:
                _sync_folder(folder.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"{destination.path}: {reason(error)}; check the disk") from error
    parts = () if digest else assembly.parts
    return path, Volume(uri=path.as_uri(), size=size, sha256=digest, parts=parts)


def _name(unfinished: Path, destination: Destination) -> Path:
    path, number = destination.path, 1
    suffix = f".{destination.suffix}"
    stem = destination.name.removesuffix(suffix)
    while True:
        try:
            _link(unfinished, path)
            return path
        except FileExistsError as error:
            if destination.fixed:
                raise StorageError(
                    f"{path}: was made by someone else meanwhile; choose another name"
                ) from error
        number += 1
        path = destination.folder / f"{stem}_{number}{suffix}"


def _link(unfinished: Path, path: Path) -> None:
    """Give the file a second name; on file systems without hard links, move it there."""
    try:
        os.link(unfinished, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        try:
            unfinished.replace(path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems can't sync folders
            raise
    finally:
        os.close(fd)


def _compared(assembly: Assembly) -> str:
    """Give the digest of the whole file, compared with what was written part by part."""
    whole = hashlib.sha256()
    different = StorageError(
        f"{assembly.path}: holds other bytes than were written; check the disk"
    )
    with assembly.path.open("rb") as file:
        for part in assembly.parts:
            digest, left = hashlib.sha256(), part.size
            while left and (data := file.read(min(left, _READ_BYTES))):
                digest.update(data)
                whole.update(data)
                left -= len(data)
            if left or digest.hexdigest() != part.sha256:
                raise different
        if file.read(1):
            raise different
    return whole.hexdigest()
