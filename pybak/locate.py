"""Names by which archives are found again: a path that stays true, `latest`, places in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pybak.errors import ArchiveError, PlanError, PyBakError, StorageError
from pybak.portable import to_portable
from pybak.storage.folders import Folders
from pybak.volumes.find import VolumeSet, find_volumes

if TYPE_CHECKING:
    from pybak.catalog.facts import ArchiveFacts

LATEST: Final = "latest"


def portable_name(archive: VolumeSet) -> str:
    """Give a path by which `pybak.restore.ask` finds the same files again.

    That is the archive's name without a volume's number, unless something else is called so.
    """
    try:
        is_same = find_volumes(archive.base).paths == archive.paths
    except PyBakError:
        is_same = False
    return to_portable(os.fsdecode(archive.base if is_same else archive.paths[0]))


def names_of(archive: ArchiveFacts) -> tuple[str, ...]:
    """Give what the places of an archive are called where it can be read, the first place first."""
    return (archive.name, *(copy.name for copy in archive.copies if not copy.is_leaving))


def find_first(names: Sequence[str], *, folders: Folders | None = None) -> tuple[str, VolumeSet]:
    """Give the first of an archive's places where all its files are, and these.

    Raises what keeps the first place from being read, if none can be; as `find_volumes`.
    """
    folders = folders or Folders()
    trouble: PyBakError | None = None
    for name in names:
        try:
            return name, find_volumes(os.fsencode(name), folders=folders)
        except (PlanError, ArchiveError, StorageError) as error:  # a missing one is a PlanError
            trouble = trouble or error
    assert trouble is not None
    raise trouble
