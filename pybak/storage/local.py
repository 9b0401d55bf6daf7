"""Archives in a local folder: what they are called, and how they appear all at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from pybak.errors import PlanError, StorageError
from pybak.paths import user_path
from pybak.staging import NO_HARD_LINKS, note_names, reason, sync_folder
from pybak.storage import naming
from pybak.storage.naming import default_name
from pybak.storage.opening import is_remote
from pybak.volumes.model import Volume
from pybak.volumes.write import WHOLE_DIGEST, FinishedVolume, digests_of

_WHOLE_DIGEST_BYTES: Final = 64 << 20
"""Archives up to this size get one digest, which `sha256sum` prints too; larger ones a list."""
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Destination:
    """Where an archive goes. With `fixed`, under exactly this name or not at all."""

    folder: Path
    name: str
    fixed: bool
    suffix: str
    """What the name ends with, behind a dot, if it is not fixed."""
    number: int = 1
    """From 2 on, what stands before that, because the name without it was taken."""
    made_folders: tuple[Path, ...] = ()
    """Folders that were made for it, the outermost first."""

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def path(self) -> Path:
        """The archive's path, unless the name is taken."""
        return self.folder / self.name

    def is_taken(self, endings: Iterable[str]) -> bool:
        """Whether there is a file of this name, or with one of `endings` behind it."""
        return _first_taken(self.path, endings) is not None

    def next(self) -> Destination:
        """Give the next name that is not fixed: `_2` behind it, then `_3` and so on."""
        number = self.number + 1
        return replace(self, name=naming.numbered(self.name, self.suffix, number), number=number)

    def undo(self) -> None:
        """Remove the folders that were made, as far as they are empty."""
        for folder in reversed(self.made_folders):
            try:
                folder.rmdir()
            except OSError:
                return


def own_archives(folder: Path, job: str | None) -> list[Path]:
    """List what earlier runs of this job named by default: archives, volumes, checksum files."""
    pattern = naming.own_names(job)
    try:
        return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return []


def choose(
    output: str | None,
    to: str | None,
    *,
    job: str | None,
    now: datetime,
    suffix: str,
    create: bool,
    taken: Sequence[str] = (),
    is_split: bool = False,
) -> Destination:
    """Decide where the archive goes; make the folder if it is missing and `create` is set.

    Neither given means the current folder. `taken` are endings of files that will be made as
    well, behind the archive's name; with `is_split` volumes of any number will be.
    Raises PlanError for what is no local place, StorageError when the place can't be used.
    """
    if output is not None:
        path = user_path(output)
        if path.is_dir():
            raise PlanError(f"{output}: is a folder; name a file, or use --to for a folder")
        naming.check_length(path.name, output, taken)
        there = _first_taken(path, taken) or (_first_volume(path) if is_split else None)
        if there is not None:
            raise StorageError(f"{there}: exists already; choose another name or remove it first")
        folder, name, fixed = path.parent, path.name, True
    else:
        where = to or "."
        if is_remote(where):
            raise PlanError(f"{where}: only local folders can be written here; name one")
        folder, name, fixed = user_path(where), default_name(job, now, suffix), False
        naming.check_length(name, None, taken)
        if folder.is_file():
            what = "is a file; name a folder, or the archive itself with --output"
            raise StorageError(f"{folder}: {what}")
    made = make_folder(folder) if create else ()
    place = Destination(folder, name, fixed, suffix, made_folders=made)
    while not fixed and place.is_taken(taken):
        place = place.next()
    return place


def _first_taken(path: Path, endings: Iterable[str]) -> Path | None:
    """Give the first of the names `path` and `path` with one of `endings` that exists."""
    for ending in ("", *endings):
        name = path.with_name(path.name + ending)
        if name.is_symlink() or name.exists():
            return name
    return None


def _first_volume(path: Path) -> Path | None:
    """Give a volume of an archive with this name that exists: it would be taken for one of ours."""
    pattern = naming.volumes_of(path.name)
    try:
        names = [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    except OSError:  # told by who uses the folder
        return None
    return path.with_name(min(names)) if names else None


def make_folder(folder: Path) -> tuple[Path, ...]:
    """Make a folder if it is missing; give those that were made. Raises StorageError."""
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


class Published(NamedTuple):
    """A stored archive: its name without number, its volumes, and the checksum files beside it."""

    path: Path
    volumes: tuple[Volume, ...]
    checksum_files: tuple[Path, ...]


def publish(
    finished: Sequence[FinishedVolume], destination: Destination, *, kinds: Sequence[str] = ()
) -> Published:
    """Give the volumes of a finished archive their names, without ever replacing a file.

    The first volume gets its name last: a set without it is no archive. A taken default name gets
    `_2`, `_3` and so on. For each digest of `kinds` a file is written beside, which `sha256sum -c`
    reads. All is brought to the disk.
    Raises StorageError if a fixed name is taken by now, or a file is not what was written: all
    are compared by size, archives up to 64 MiB by content.
    """
    total = sum(volume.size for volume in finished)
    for volume in finished:
        size = volume.path.stat().st_size
        if size != volume.size:
            raise StorageError(
                f"{volume.path}: holds {size} bytes, {volume.size} were written; check the disk"
            )
    try:
        sums = [_sums(volume, kinds, compare=total <= _WHOLE_DIGEST_BYTES) for volume in finished]
        path, given = _name_all(finished, destination, kinds)
        sum_files: list[Path] = []
        try:
            for kind in kinds:
                sum_files.append(_write_sums(path, kind, finished, sums))  # noqa: PERF401
            sync_folder(destination.folder)
            for folder in destination.made_folders:
                sync_folder(folder.parent)
        except BaseException:
            for file in sum_files:
                file.unlink(missing_ok=True)
            _take_back(given)
            raise
    except OSError as error:
        raise StorageError(f"{destination.path}: {reason(error)}; check the disk") from error
    volumes = tuple(
        Volume(
            uri=_volume_path(path, volume).as_uri(),
            size=volume.size,
            sha256=found.get(WHOLE_DIGEST),
            parts=() if WHOLE_DIGEST in found else volume.parts,
        )
        for volume, found in zip(finished, sums, strict=True)
    )
    return Published(path, volumes, tuple(sum_files))


def _volume_path(path: Path, volume: FinishedVolume) -> Path:
    return path.with_name(path.name + volume.suffix)


def _sums(volume: FinishedVolume, kinds: Sequence[str], *, compare: bool) -> dict[str, str]:
    """Give a volume's digests, read from the disk if they are to be compared or are not known."""
    found = dict(volume.sums)
    if compare and volume.parts:
        found[WHOLE_DIGEST] = _compared(volume)
    elif compare and digests_of(volume.path, [WHOLE_DIGEST]) != {WHOLE_DIGEST: found[WHOLE_DIGEST]}:
        raise _different(volume)
    missing = [kind for kind in kinds if kind not in found]
    return found | (digests_of(volume.path, missing) if missing else {})


def _write_sums(
    path: Path, kind: str, finished: Sequence[FinishedVolume], sums: Sequence[dict[str, str]]
) -> Path:
    """Write the lines that `sha256sum` would print for the volumes (GNU coreutils' format)."""
    target = path.with_name(f"{path.name}.{kind}")
    named = [
        (_volume_path(path, volume).name, found)
        for volume, found in zip(finished, sums, strict=True)
    ]
    lines = naming.sum_lines(kind, named)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as out:
            out.write(lines)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


class _Given(NamedTuple):
    """A name that a volume got; `moved_from` is its old one, if it could not have two."""

    path: Path
    moved_from: Path | None


def _name_all(
    finished: Sequence[FinishedVolume], destination: Destination, kinds: Sequence[str]
) -> tuple[Path, list[_Given]]:
    """Give all volumes their names, or none; give the archive's name and what was given."""
    endings = [*(volume.suffix for volume in finished), *(f".{kind}" for kind in kinds)]
    path = destination.path
    while True:
        given: list[_Given] = []
        try:
            if _first_taken(path, endings) is not None:
                raise FileExistsError  # noqa: TRY301
            if len(finished) > 1:  # one alone appears complete
                note_names(
                    finished[0].path.parent,
                    [(volume.path, _volume_path(path, volume).name) for volume in finished],
                )
            for volume in reversed(finished):
                given.append(_give(volume.path, _volume_path(path, volume)))  # noqa: PERF401
        except FileExistsError as error:
            _take_back(given)
            if destination.fixed:
                raise StorageError(
                    f"{path}: was made by someone else meanwhile; choose another name"
                ) from error
        except BaseException:
            _take_back(given)
            raise
        else:
            return path, given
        destination = destination.next()
        path = destination.path


def _take_back(given: Sequence[_Given]) -> None:
    """Undo what `_give` did, the name first that came last."""
    for path, moved_from in reversed(given):
        if moved_from is None:
            path.unlink(missing_ok=True)
        else:
            path.rename(moved_from)


def _give(unfinished: Path, path: Path) -> _Given:
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
        return _Given(path, unfinished)
    return _Given(path, None)


def _different(volume: FinishedVolume) -> StorageError:
    return StorageError(f"{volume.path}: holds other bytes than were written; check the disk")


def _compared(volume: FinishedVolume) -> str:
    """Give the digest of the whole file, compared with what was written part by part."""
    whole = hashlib.sha256()
    with volume.path.open("rb") as file:
        for part in volume.parts:
            digest, left = hashlib.sha256(), part.size
            while left and (data := file.read(min(left, _READ_BYTES))):
                digest.update(data)
                whole.update(data)
                left -= len(data)
            if left or digest.hexdigest() != part.sha256:
                raise _different(volume)
        if file.read(1):
            raise _different(volume)
    return whole.hexdigest()
