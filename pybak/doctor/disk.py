"""Room on the disks that backups need, and what killed runs left there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pybak.display import printable
from pybak.doctor.deployed import Deployment
from pybak.doctor.finding import Finding, Findings
from pybak.doctor.finding import about as about_time
from pybak.home import home
from pybak.notify.bounded import Job, side_by_side
from pybak.portable import from_portable
from pybak.staging import PREFIX
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    from pybak.catalog.engine import Database

SUBJECT: Final = "disk"
_LEAST_FREE: Final = 500 * 10**6
_LEAST_INODES: Final = 1000
_SECONDS: Final = 10.0
_BLOCK: Final = "block:"
_FOLDER_TYPE: Final = "pybak-local-folder/"
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Room(msgspec.Struct, frozen=True):
    """A folder, what it is for, and how many bytes are likely to be needed there next.

    `files` of `job` should be there; `writer` is the deployment that writes there.
    """

    path: Path
    what: str
    needs: int = _LEAST_FREE
    files: tuple[Path, ...] = ()
    job: str = ""
    writer: str = ""


class Newest(NamedTuple):
    """Where the files of a job's newest archive lie on this machine, and how many bytes it has."""

    files: tuple[Path, ...]
    job: str
    size: int


def local_path(place: object, blocks: Mapping[str, str]) -> Path | None:
    """Give the path on this machine that a destination means, if it means one.

    `blocks` are the paths of blocks that are folders, by name.
    """
    if not isinstance(place, str):
        return None
    if place.startswith(_BLOCK):
        name, _, rest = place.removeprefix(_BLOCK).removeprefix(_FOLDER_TYPE).partition("/")
        if name not in blocks:
            return None
        place = os.path.join(blocks[name], rest)
    path = os.path.expanduser(from_portable(place))
    return Path(path) if path.startswith("/") else None


def local_folders(
    deployments: Sequence[Deployment], blocks: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    """Yield the folders on this machine that deployments write into, with the deployment."""
    for one in deployments:
        options = one.parameters.get("options")
        more = options.get("also_to") if isinstance(options, Mapping) else None
        places: list[Any] = [one.parameters.get("to"), one.parameters.get("destination")]
        for place in (*places, *(more or [])):
            if (path := local_path(place, blocks)) is not None:
                yield path, one.name


def newest_archives(database: Database, blocks: Mapping[str, str]) -> list[Newest]:
    """Give each job's newest archive, if it lies on this machine; `blocks` as for `local_path`.

    Raises CatalogError.
    """
    from sqlmodel import col, func, select

    from pybak.catalog.models import PRESENT, Archive, Volume

    with database.session() as session:
        newest = (
            select(func.max(col(Archive.id)))
            .where(Archive.state == PRESENT)
            .group_by(col(Archive.job))
        )
        query = (
            select(Archive, Volume.uri)
            .join(Volume, col(Volume.archive_id) == col(Archive.id))
            .where(col(Archive.id).in_(newest))
            .order_by(Archive.job, col(Volume.number))
        )
        rows = session.exec(query).all()
    found = []
    for (job, size), some in groupby(rows, key=lambda row: (row[0].job, row[0].size)):
        files = [local_path(uri, blocks) for _, uri in some]
        if here := tuple(file for file in files if file is not None):
            found.append(Newest(here, job, size))
    return found


def check_disk(
    environ: Mapping[str, str],
    deployments: Sequence[Deployment],
    archives: Sequence[Newest],
    blocks: Mapping[str, str] = {},
    seconds: float = _SECONDS,
) -> list[Finding]:
    """Compare what is free with what the next run is likely to need, once for each disk.

    `blocks` as for `local_path`. A place that has not answered after `seconds` is told, as one in
    a network that is away.
    """
    found = Findings(SUBJECT)
    rooms = [
        Room(home(environ), "PYBAK_HOME"), Room(Path(tempfile.gettempdir()), "temporary files")
    ]  # fmt: skip
    for one in archives:
        folder = one.files[0].parent
        needs = max(one.size, _LEAST_FREE)
        rooms.append(Room(folder, f"archives of {one.job}", needs, one.files, one.job))
    needs = max([_LEAST_FREE, *(one.size for one in archives)])
    for folder, name in local_folders(deployments, blocks):
        rooms.append(Room(folder, f"where {name} writes", needs, writer=name))
    seen = _seen(found, rooms, seconds)
    for room, about in zip(rooms, seen, strict=True):
        if about is not None:
            _missing(found, room, about)
    _free(found, [(room, about) for room, about in zip(rooms, seen, strict=True) if about])
    folders = [home(environ) / "staging"]
    folders += [room.path for room, about in zip(rooms, seen, strict=True) if about]
    for folder in dict.fromkeys(folders):
        _leftovers(found, folder, seconds)
    return found.found


class _Seen(NamedTuple):
    """What there is of a room: its nearest folder that exists, the disk, a file that lacks."""

    there: Path
    device: int
    free: int
    total: int
    few_files: int | None
    lacks: Path | None


def _seen(found: Findings, rooms: Sequence[Room], seconds: float) -> list[_Seen | None]:
    """Look at each room; None for those that can't be looked at, which is told."""
    seen: dict[int, _Seen] = {}

    def look(number: int) -> Callable[[], object]:
        return lambda: seen.__setitem__(number, _look(rooms[number]))

    jobs = [Job(look(number), seconds) for number in range(len(rooms))]
    side_by_side(jobs)
    told = {}
    for room, job in zip(rooms, jobs, strict=True):
        if job.is_late:
            told[room.path] = f"does not answer within {about_time(seconds)}"
        elif job.error is not None:
            told[room.path] = f"can't be looked at ({getattr(job.error, 'strerror', job.error)})"
    for path, why in told.items():
        found.problem(
            f"{printable(str(path))} {why}", "see that its disk, or the server of it, is there"
        )
    return [None if job.is_late else seen.get(number) for number, job in enumerate(jobs)]


def _look(room: Room) -> _Seen:
    """Look at a room, for as long as its disk takes. Raises OSError."""
    there = next((one for one in (room.path, *room.path.parents) if one.exists()), Path("/"))
    about = os.statvfs(there)
    few = about.f_favail if about.f_files and about.f_favail < _LEAST_INODES else None
    return _Seen(
        there, os.stat(there).st_dev, about.f_bavail * about.f_frsize,
        about.f_blocks * about.f_frsize, few,
        next((file for file in room.files if not file.exists()), None),
    )  # fmt: skip


def _missing(found: Findings, room: Room, about: _Seen) -> None:
    """Tell of a folder that is not there, and of an archive that lacks in one."""
    if about.lacks is not None:
        what = room.path if about.there != room.path else about.lacks
        found.problem(
            f"{printable(str(what))} is not there, but archives of {room.job} should be",
            "mount its disk, or put them back",
        )
    elif about.there != room.path and room.writer:
        found.note(
            f"{printable(str(room.path))} is not there, but {room.writer} writes to it",
            "mount its disk if it has one of its own; else the next run makes the folder",
        )


def _free(found: Findings, rooms: Sequence[tuple[Room, _Seen]]) -> None:
    by_disk: dict[int, list[tuple[Room, _Seen]]] = {}
    for room, about in rooms:
        by_disk.setdefault(about.device, []).append((room, about))
    for users in by_disk.values():
        about = users[0][1]
        whose = ", ".join(dict.fromkeys(room.what for room, _ in users))
        text = (
            f"{format_size(about.free)} of {format_size(about.total)} free at "
            f"{printable(str(about.there))} ({whose})"
        )
        needs = max(room.needs for room, _ in users)
        if about.free < needs:
            found.problem(
                f"{text}, and the next archive may need {format_size(needs)}"
                if needs > _LEAST_FREE else text,
                "free space there, or keep fewer backups (flows/prune.py)",
            )  # fmt: skip
        elif about.few_files is not None:
            found.problem(f"{text}, but it can hold only {about.few_files} more files",
                          "delete files there")  # fmt: skip
        elif about.free < 3 * needs:
            found.note(text, f"the newest archive has {format_size(needs)}; free space soon")
        else:
            found.ok(text)


def _leftovers(found: Findings, folder: Path, seconds: float) -> None:
    """Tell of work folders in which nobody works any more; in a slow folder of none."""
    sizes: list[int] = []

    def look() -> None:
        with os.scandir(folder) as entries:
            sizes.extend(
                _size_below(entry.path)
                for entry in entries
                if entry.name.startswith(PREFIX) and _is_dead(Path(entry.path))
            )

    side_by_side([Job(look, seconds)])
    count, size = len(sizes), sum(sizes)
    if count:
        found.note(
            f"{format_count(count, 'leftover')} of killed runs, {format_size(size)}, in "
            f"{printable(str(folder))}",
            "the next run there removes them",
        )


def _is_dead(work: Path) -> bool:
    """Whether the run whose folder this is has let go of its lock."""
    try:
        lock = os.open(work / "lock", _OPEN)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _size_below(path: str) -> int:
    size = 0
    for here, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(here, name)).st_blocks * 512
    return size
