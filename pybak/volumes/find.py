"""Which files make up an archive, when someone names it, one of its volumes, or their folder.

On disk or in a storage: what is named is a path or an address.

Volumes are called like the archive with a number behind it, `backup.zip.001`, `backup.zip.002` …,
and with `.zip` behind that where they are encrypted. All but the last are of one size, so a volume
that was cut short, and a gap in the numbers, are seen without reading anything.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, StorageError
from pybak.formats.suffixes import format_of_name
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote, split
from pybak.volumes.places import Folder, LocalFolder, StoredFolder

WRAPPED: Final = b".zip"

_VOLUME = re.compile(rb"(.+)\.(\d{3}|[1-9]\d{3,})(\.zip)?", re.DOTALL)
_WRAPPER_SLACK = 64  # a longer number makes a longer name, which a wrapper holds twice
_MOST_NAMED = 5
_HEAD = 512
_ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class VolumeSet:
    """An archive's files in order, and its path without a volume's number and a wrapper's ending.

    An archive that is one file is a set of one.
    """

    paths: tuple[bytes, ...]
    base: bytes


class _Key(NamedTuple):
    """What the volumes of one set have in common: the archive's name, and whether wrapped."""

    base: bytes
    is_wrapped: bool

    def name(self, number: int) -> bytes:
        return b"%b.%03d%b" % (self.base, number, WRAPPED if self.is_wrapped else b"")


_Volumes = dict[int, bytes]


def find_volumes(path: bytes, *, folders: Folders | None = None) -> VolumeSet:
    """Find all files of the archive that `path` means, a path or an address.

    That is a file that exists, any volume of a set, the name of a set without numbers, or a folder
    with the volumes of exactly one set. Storages are asked through `folders`, for whoever looks for
    many archives. Raises NotFoundError for what does not exist and for a missing volume, PlanError
    where several sets may be meant, ArchiveError for a volume of a wrong size, StorageError if the
    folder can't be read.
    """
    if is_remote(path):
        return _find_stored(path, folders or Folders())
    if os.path.isdir(path):
        return _only_set(LocalFolder(path))
    folder, name = os.path.split(path)
    return _find_in(LocalFolder(folder), name, path)


def _find_stored(path: bytes, folders: Folders) -> VolumeSet:
    """Find an archive in a storage, where a folder is what has files in it."""
    address = os.fsdecode(path)
    try:
        folder, name = split(address)
    except PlanError:
        return _only_set(StoredFolder(path, folders))
    try:
        return _find_in(StoredFolder(os.fsencode(folder), folders), os.fsencode(name), path)
    except PlanError as error:
        # A block may be called like that, or a folder.
        if not isinstance(error, NotFoundError) and not address.startswith("block:"):
            raise
        inside = StoredFolder(path, folders)
        try:
            is_folder = bool(inside.sizes())
        except (PlanError, StorageError):
            is_folder = False
        if not is_folder:
            raise
        return _only_set(inside)


def _find_in(folder: Folder, name: bytes, path: bytes) -> VolumeSet:
    """Find the archive `name` in a folder; `path` is how it was named."""
    if not folder.has(name):
        return _by_base(folder, name)
    if not folder.is_file(name):
        raise PlanError(f"{printable(path)}: is no file; name an archive")
    key = _key(name)
    volumes = _sets(folder).get(key, {}) if key else {}
    if key is None or _is_alone(folder, name, key, volumes):
        return VolumeSet((path,), path)
    return _checked(folder, key, volumes)


def _key(name: bytes) -> _Key | None:
    found = _VOLUME.fullmatch(name)
    return _Key(found[1], found[3] is not None) if found and int(found[2]) else None


def _sets(folder: Folder) -> dict[_Key, _Volumes]:
    """Find the volumes of all sets in a folder."""
    sets: dict[_Key, _Volumes] = {}
    for name in folder.names():
        key = _key(name)
        if key is not None:
            number = name[len(key.base) + 1 :].removesuffix(WRAPPED)
            sets.setdefault(key, {})[int(number)] = os.path.join(folder.path, name)
    return sets


def _is_alone(folder: Folder, name: bytes, key: _Key, volumes: _Volumes) -> bool:
    """Whether a file begins like an archive, so that a number in its name is only a name."""
    if key.is_wrapped:
        return _is_plain_zip(folder, name)
    if 1 in volumes:
        return False
    from pybak.formats.decoders import find_compression

    head = folder.head(name, _HEAD)
    return head.startswith(_ZIP_START) or (any(head) and find_compression(head) is not None)


def _is_plain_zip(folder: Folder, name: bytes) -> bool:
    """Whether a file begins as ZIP archives do, and not as an encrypted volume does."""
    from pybak.formats.wrapper import WRAPPER_HEAD, starts_like_wrapper

    head = folder.head(name, WRAPPER_HEAD)
    return head.startswith(_ZIP_START) and not starts_like_wrapper(head)


def _only_set(folder: Folder) -> VolumeSet:
    sets = _sets(folder)
    # A log that is kept as `app.log.001` is no archive.
    likely = {key: found for key, found in sets.items() if format_of_name(os.fsdecode(key.base))}
    sets = _without_plain(folder, likely or sets)
    label = printable(folder.path)
    if not sets:
        raise NotFoundError(f"{label}: is a folder without volumes; name the archive itself")
    if len(sets) > 1:
        names = ", ".join(printable(key.name(min(volumes))) for key, volumes in _some(sets))
        more = " and others" if len(sets) > _MOST_NAMED else ""
        raise PlanError(f"{label}: holds volumes of several archives; name one: {names}{more}")
    ((key, volumes),) = sets.items()
    return _checked(folder, key, volumes)


def _without_plain(folder: Folder, sets: dict[_Key, _Volumes]) -> dict[_Key, _Volumes]:
    """Leave out archives that are numbered, `photos.2024.zip`, where few sets may be meant."""
    if len(sets) > _MOST_NAMED:
        return sets
    return {
        key: volumes
        for key, volumes in sets.items()
        if not (key.is_wrapped and _is_plain_zip(folder, key.name(min(volumes))))
    }


def _some(sets: dict[_Key, _Volumes]) -> list[tuple[_Key, _Volumes]]:
    return sorted(sets.items())[:_MOST_NAMED]


def _by_base(folder: Folder, name: bytes) -> VolumeSet:
    """Find the set, or the wrapped file, of an archive that is named without numbers."""
    path = os.path.join(folder.path, name)
    sets = {key: found for key, found in _sets(folder).items() if name and key.base == name}
    sets = _without_plain(folder, sets)
    choices = [key.name(min(found)) for key, found in _some(sets)]
    has_wrapper = bool(name) and folder.is_file(name + WRAPPED)
    if has_wrapper:
        choices.append(name + WRAPPED)
    if not choices:
        raise NotFoundError(f"{printable(path)}: no such archive; check the path")
    if len(choices) > 1:
        names = " or ".join(map(printable, choices))
        raise PlanError(f"{printable(path)}: which one is meant, {names}? name it")
    if has_wrapper:
        return VolumeSet((path + WRAPPED,), path)
    ((key, volumes),) = sets.items()
    return _checked(folder, key, volumes)


def _checked(folder: Folder, key: _Key, volumes: _Volumes) -> VolumeSet:
    """Give the set if its numbers have no gap and its sizes can be true."""
    base = os.path.join(folder.path, key.base)
    last = max(volumes)
    lacking = last - len(volumes)
    if lacking:
        numbers = (number for number in range(1, last) if number not in volumes)
        named = [printable(key.name(number)) for number in islice(numbers, _MOST_NAMED)]
        more = f" and {lacking - len(named)} others" if lacking > len(named) else ""
        raise NotFoundError(
            f"{printable(base)}: {', '.join(named)}{more} can't be found; "
            "put all volumes into one folder"
        )
    paths = tuple(volumes[number] for number in range(1, last + 1))
    _check_sizes(base, key, paths, [folder.size(os.path.basename(path)) for path in paths])
    return VolumeSet(paths, base)


def _check_sizes(base: bytes, key: _Key, paths: tuple[bytes, ...], sizes: Sequence[int]) -> None:
    """Raise ArchiveError for a volume that is not as large as those beside it."""
    slack = _WRAPPER_SLACK if key.is_wrapped else 0
    usual = Counter(sizes[:-1]).most_common(1)[0][0] if len(sizes) > 1 else sizes[0]
    for path, size in zip(paths, sizes, strict=True):
        if size and (abs(size - usual) <= slack or (path is paths[-1] and size < usual)):
            continue
        if not size:
            what = "is empty: it was cut short"
        elif len(paths) == 2:
            first = printable(os.path.basename(paths[0]))
            what = (
                f"has {size} bytes, more than the {usual} of {first}: that one was cut short, "
                "or they do not belong together"
            )
        elif size < usual:
            what = f"has {size} bytes where others have {usual}: it was cut short"
        else:
            what = f"has {size} bytes where others have {usual}: it does not belong to them"
        name = printable(os.path.basename(path))
        raise ArchiveError(f"{printable(base)}: volume {name} {what}; copy it again")
