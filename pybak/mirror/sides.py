"""Source and destination as a mirror may have them: local, apart from each other, of fit kinds."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from pybak.display import printable
from pybak.errors import NotFoundError, PlanError, StorageError, reason
from pybak.mounts import Place, mounts_below, place_of, read_mounts
from pybak.paths import user_path
from pybak.storage.opening import check_address, is_remote


class Sides(NamedTuple):
    """Absolute paths. `only` is set where one file is copied: its name, `source` is its folder."""

    source: bytes
    target: bytes
    only: bytes | None = None

    @property
    def name(self) -> str:
        """What people call the destination."""
        return os.fsdecode(self.target)


def resolve_sides(source: str, destination: str) -> Sides:
    """Find source and destination; links that lead to them are followed.

    Raises PlanError for what can be no mirror (a storage's address, one inside the other, a
    destination that is a file), NotFoundError for a missing source, StorageError for one that can't
    be looked at.
    """
    for what in (source, destination):
        if is_remote(check_address(what)):
            raise PlanError(
                f"{what}: is in a storage; a mirror is made of local folders. flows/backup.py puts "
                "archives there, flows/transfer.py copies archives from and to there"
            )
    here = os.fsencode(os.path.realpath(user_path(source)))
    there = os.fsencode(os.path.realpath(user_path(destination)))
    try:
        status = os.stat(here)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{printable(source)}: is not there; check the SOURCE") from None
    except OSError as error:
        raise StorageError(f"{printable(source)}: {reason(error).lower()}") from error
    above = _existing(there)
    if not stat.S_ISDIR(os.stat(above).st_mode):
        what = "it" if above == there else printable(above)
        raise PlanError(f"{printable(destination)}: {what} is a file; name a folder to copy into")
    if stat.S_ISDIR(status.st_mode):
        _check_apart(here, there)
        return Sides(here, there)
    if not stat.S_ISREG(status.st_mode):
        raise PlanError(f"{printable(source)}: is neither folder nor file; name one of these")
    if os.path.islink(user_path(source)):
        raise PlanError(
            f"{printable(source)}: is a link to a file; name the file itself, {printable(here)}"
        )
    folder, only = os.path.split(here)
    if _is_same(folder, there):
        raise PlanError(f"{printable(source)}: lies in the destination; name another folder")
    return Sides(folder, there, only)


def _existing(path: bytes) -> bytes:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _check_apart(source: bytes, target: bytes) -> None:
    """Refuse one inside the other, also where a mount makes them the same."""
    if any(_is_same(source, path) for path in _upwards(target)):
        raise PlanError(
            f"{printable(target)}: lies in the source {printable(source)}, or is it; choose a "
            "destination outside of it"
        )
    if any(_is_same(target, path) for path in _upwards(source)):
        raise PlanError(
            f"{printable(source)}: lies in the destination {printable(target)}; choose a "
            "destination outside of it"
        )
    mounts = read_mounts()
    place, other = place_of(source, mounts), place_of(target, mounts)
    if place is None or other is None:
        return
    for point, there in [(target, other), *mounts_below(target, mounts)]:
        if _is_shared((source, place), (point, there)):
            raise PlanError(
                f"{printable(point)}: is mounted from the source {printable(source)}, or from what "
                "that lies in; unmount it, or choose another destination"
            )


def _is_shared(one: tuple[bytes, Place], other: tuple[bytes, Place]) -> bool:
    """Whether one of two folders is the other, or lies in it, by way of a mount."""
    for (inner, place), (outer, above) in ((one, other), (other, one)):
        below = place.below(above)
        if below is not None and _is_same(inner, os.path.join(outer, below)):
            return True
    return False


def _upwards(path: bytes) -> list[bytes]:
    found = [path]
    while (above := os.path.dirname(found[-1])) != found[-1]:
        found.append(above)
    return found


def _is_same(path: bytes, other: bytes) -> bool:
    if path == other:
        return True
    try:
        return os.path.samestat(os.stat(path), os.stat(other))
    except OSError:
        return False
