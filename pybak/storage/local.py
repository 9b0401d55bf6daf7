"""Archives in a local folder: what they are called, and how they appear all at once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from pybak.errors import PlanError, StorageError
from pybak.paths import user_path
from pybak.staging import NO_HARD_LINKS, note_names, reason
from pybak.volumes.model import Volume
from pybak.volumes.write import WHOLE_DIGEST, FinishedVolume, digests_of

_WHOLE_DIGEST_BYTES: Final = 64 << 20
"""Archives up to this size get one digest, which `sha256sum` prints too; larger ones a list."""
_READ_BYTES: Final = 1 << 20
_NAME_BYTES: Final = 255
"""What file systems take."""
_NO_FOLDER_SYNC: Final = frozenset(
    {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""What `os.fsync` fails with where folders can't be synced."""
_ROOM: Final = 5
"""For a number, should a default name be taken."""
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
    number: int = 1
    """From 2 on, what stands before that, because the name without it was taken."""
    made_folders: tuple[Path, ...] = ()
    """Folders that were made for it, the outermost first."""

    @property
    def path(self) -> Path:
        """The archive's path, unless the name is taken."""
        return self.folder / self.name

    def next(self) -> Destination:
        """Give the next name that is not fixed: `_2` behind it, then `_3` and so on."""
        stem = self.name.removesuffix(f".{self.suffix}")
        if self.number > 1:
            stem = stem.removesuffix(f"_{self.number}")
        number = self.number + 1
        return replace(self, name=f"{stem}_{number}.{self.suffix}", number=number)

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


def own_archives(folder: Path, job: str | None) -> list[Path]:
    """List what earlier runs of this job named by default: archives, volumes, checksum files."""
    stem = re.escape(_stem(job))
    pattern = re.compile(
        rf"{stem}_\d{{8}}_\d{{6}}(_\d+)?\.(zip|tar|tar\.gz|tar\.bz2|tar\.zst)"
        r"(\.\d+)?(\.zip)?(\.sha256|\.md5)?"
    )
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
        if len(os.fsencode(path.name)) + _longest(taken) > _NAME_BYTES:
            raise PlanError(f"{output}: leaves no room for the endings of its files; shorten it")
        there = _first_taken(path, taken) or (_first_volume(path) if is_split else None)
        if there is not None:
            raise StorageError(f"{there}: exists already; choose another name or remove it first")
        folder, name, fixed = path.parent, path.name, True
    else:
        where = to or "."
        if _REMOTE.match(where):
            raise PlanError(f"{where}: only local folders can be written so far; name a folder")
        folder, name, fixed = user_path(where), default_name(job, now, suffix), False
        too_long = len(os.fsencode(name)) + max(_ROOM, _longest(taken)) - _NAME_BYTES
        if too_long > 0:
            raise PlanError(
                f"--job: makes the archive's name {too_long} bytes too long; shorten it, or name "
                "the archive with --output"
            )
    made = _make(folder) if create else ()
    place = Destination(folder, name, fixed, suffix, made_folders=made)
    while not fixed and _first_taken(place.path, taken) is not None:
        place = place.next()
    return place


def _longest(endings: Iterable[str]) -> int:
    return max((len(ending) for ending in endings), default=0)


def _first_taken(path: Path, endings: Iterable[str]) -> Path | None:
    """Give the first of the names `path` and `path` with one of `endings` that exists."""
    for ending in ("", *endings):
        name = path.with_name(path.name + ending)
        if name.is_symlink() or name.exists():
            return name
    return None


def _first_volume(path: Path) -> Path | None:
    """Give a volume of an archive with this name that exists: it would be taken for one of ours."""
    pattern = re.compile(re.escape(path.name) + r"\.\d{3,}(\.zip)?")
    try:
        names = [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    except OSError:  # told by who uses the folder
        return None
    return path.with_name(min(names)) if names else None


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
            _sync_folder(destination.folder)
            for folder in destination.made_folders:
                _sync_folder(folder.parent)
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
    lines = []
    for volume, found in zip(finished, sums, strict=True):
        name = os.fsencode(_volume_path(path, volume).name)
        escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != name else b""
        lines.append(mark + found[kind].encode() + b"  " + escaped + b"\n")
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as out:
            out.write(b"".join(lines))
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


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


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
