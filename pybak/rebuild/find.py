"""Which archives lie in a folder, on disk or in a storage: every file and every set of volumes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pybak.display import printable
from pybak.errors import ArchiveError, NotFoundError, PlanError, PyBakError, StorageError
from pybak.formats.source import Identity
from pybak.problems import DAMAGED, NOT_FOUND, Problem
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote, split
from pybak.storage.protocol import Stored
from pybak.volumes.find import VolumeSet, find_volumes

# What lies beside archives and is none: checksum files, our own work folders, what is hidden.
_BESIDE = re.compile(rb"\..*|.*\.(sha256|md5)", re.DOTALL)


class Places(NamedTuple):
    """Files that may be archives, and sets of volumes that are not whole."""

    found: list[VolumeSet]
    problems: list[Problem]


def find_places(destinations: Iterable[bytes]) -> Places:
    """Find what may be archives: in folders, which are not entered further, and files as named.

    Raises NotFoundError for what does not exist, StorageError if a folder can't be read.
    """
    sets: dict[bytes, VolumeSet] = {}
    problems: dict[str, Problem] = {}
    seen: set[bytes] = set()
    folders = Folders()
    for destination in destinations:
        path = _folder(destination)
        names = _names(path, folders)
        if names is None:
            _add(find_volumes(path, folders=folders), sets, seen)
            continue
        for name in names:
            file = os.path.join(path, name)
            if file in seen:
                continue
            try:
                _add(find_volumes(file, folders=folders), sets, seen)
            except (NotFoundError, ArchiveError, PlanError) as error:
                problem = _problem(file, error)
                problems.setdefault(problem.message, problem)
    return Places(list(sets.values()), list(problems.values()))


def list_files(destinations: Iterable[bytes]) -> dict[bytes, Identity]:
    """Give size, time and version of every file that `find_places` takes into account.

    Nothing is read for that, and what does not exist has no files. Raises StorageError if a folder
    can't be read.
    """
    files: dict[bytes, Identity] = {}
    folders = Folders()
    for destination in destinations:
        path = _folder(destination)
        with contextlib.suppress(NotFoundError, ArchiveError, PlanError):
            names = _names(path, folders)
            stored: Mapping[str, Stored] = {}
            paths: Iterable[bytes]
            if names is None:
                paths = find_volumes(path, folders=folders).paths
            else:
                paths = [os.path.join(path, name) for name in names]
                stored = folders.files(os.fsdecode(path)) if is_remote(path) else {}
            for file in paths:
                known = stored.get(os.fsdecode(os.path.basename(file)))
                found = _identity(file, known, folders)
                if found is not None:
                    files[file] = found
    return files


def _identity(file: bytes, known: Stored | None, folders: Folders) -> Identity | None:
    """Tell a file from what may replace it. Not by its inode, which some shares give anew."""
    if known is not None:
        return Identity(known.size, known.modified_ns, 0, known.version)
    if is_remote(file):
        return folders.identity(file)
    try:
        status = os.stat(file)
    except OSError:
        return None
    return Identity(status.st_size, status.st_mtime_ns, 0)


def _add(found: VolumeSet, sets: dict[bytes, VolumeSet], seen: set[bytes]) -> None:
    sets.setdefault(found.paths[0], found)
    seen.update(found.paths)


def _folder(destination: bytes) -> bytes:
    return destination.rstrip(b"/") if is_remote(destination) else os.path.abspath(destination)


def _names(folder: bytes, folders: Folders) -> list[bytes] | None:
    """Give the names of the files in a folder, sorted; None for what is no folder."""
    if is_remote(folder):
        return _stored_names(folder, folders)
    if not os.path.isdir(folder):
        return None
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_file() and not _BESIDE.fullmatch(entry.name)
            )
    except FileNotFoundError as error:
        message = f"{printable(folder)}: no such folder; check the path"
        raise NotFoundError(message) from error
    except OSError as error:
        message = f"{printable(folder)}: can't be read ({error.strerror}); check the path"
        raise StorageError(message) from error


def _stored_names(folder: bytes, folders: Folders) -> list[bytes] | None:
    """Do the same in a storage, where a folder is what has files in it."""
    address = os.fsdecode(folder)
    # Not asked for as a file first: whoever may read a folder may not look beside it.
    found = sorted(map(os.fsencode, folders.files(address)))
    if not found:
        with contextlib.suppress(PlanError):  # the storage itself, which is empty
            split(address)
            return None
    return [name for name in found if not _BESIDE.fullmatch(name)]


def _problem(file: bytes, error: PyBakError) -> Problem:
    code = NOT_FOUND if isinstance(error, NotFoundError) else DAMAGED
    return Problem(os.fsdecode(file), code, str(error))
