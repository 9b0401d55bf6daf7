"""What the headers of a tar archive say of a file as it is on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from pybak import problems
from pybak.attributes import read_attributes
from pybak.backup.owners import group_name, user_name
from pybak.backup.segments import Meta
from pybak.entries import FILE
from pybak.errors import SourceError
from pybak.formats.sparse import Run
from pybak.formats.tar_records import attributes_that_fit, member_header
from pybak.problems import Problem

LARGE_ATTRIBUTES: Final = "large_attributes"
"""Attributes that are too large for a tar header; a key of `SegmentIndex.lost`."""


class Attributes(NamedTuple):
    """A file's extended attributes, and what can't be kept of them."""

    kept: dict[bytes, bytes]
    is_cut: bool = False
    failure: SourceError | None = None

    def note(self, path: bytes) -> Problem | None:
        """Give what the file `path` is flagged with."""
        if self.is_cut:
            message = "stored without those of its extended attributes that are too large for tar"
            return Problem(os.fsdecode(path), problems.ATTRIBUTES, message)
        if self.failure is None:
            return None
        message = f"stored without its extended attributes: {self.failure}"
        return Problem(os.fsdecode(path), self.failure.code, message)


NO_ATTRIBUTES: Final = Attributes({})


def attributes_of(target: bytes | int) -> Attributes:
    """Read the extended attributes of an open file, or of what is not to be opened."""
    try:
        found = read_attributes(target)
    except SourceError as error:
        # A folder, say, that is kept as it was listed.
        return NO_ATTRIBUTES if error.code == problems.VANISHED else Attributes({}, failure=error)
    if not found:
        return NO_ATTRIBUTES
    kept, too_large = attributes_that_fit(found)
    return Attributes(kept, bool(too_large))


def file_header(
    name: bytes,
    meta: Meta,
    size: int,
    attributes: dict[bytes, bytes],
    data_map: Sequence[Run] | None,
) -> bytes:
    """Give the header of a regular file of `size` bytes, sparse if there is a map."""
    return member_header(
        name, FILE, mode=meta.mode, uid=meta.uid, gid=meta.gid, mtime_ns=meta.mtime_ns, size=size,
        user=user_name(meta.uid), group=group_name(meta.gid), attributes=attributes,
        data_map=data_map,
    )  # fmt: skip
