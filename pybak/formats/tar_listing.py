"""What a tar archive holds: by its manifest (`tar_manifest`), else by reading it (`tar_scan`).

A damaged manifest is a problem of the listing.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet

from pybak.errors import ArchiveError
from pybak.formats.archive import Limits
from pybak.formats.listing import Listing
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.source import Source
from pybak.formats.tar_index import PieceIndex
from pybak.formats.tar_manifest import list_ours
from pybak.formats.tar_scan import scan_tar
from pybak.formats.tar_tail import find_tail
from pybak.problems import DAMAGED, Problem


def list_tar(
    source: Source,
    compression: str,
    single_name: bytes,
    limits: Limits,
    names: AbstractSet[bytes] | None = None,
) -> tuple[Listing, PieceIndex]:
    """List a stream's members, or those of `names`; give with it where reading can start.

    What is compressed and no tar is a single file, `single_name`. Raises ArchiveError if nothing
    can be told, and for what looks like a bomb.
    """
    problems: list[Problem]
    for is_last in (False, True):
        problems = []
        tail = find_tail(source, compression)
        if tail is not None:
            try:
                listing, index = list_ours(source, compression, tail, limits, names)
            except ArchiveError as error:
                message = f"{error}; the archive is read through instead"
                problems.append(Problem(os.fsdecode(MEMBER_NAME), DAMAGED, message))
            else:
                if is_last or not listing.problems or not source.forget():
                    return listing, index
                continue
        # To read through it would take long, if only its end was damaged on the way.
        if is_last or not source.forget():
            break
    return scan_tar(source, compression, single_name, limits, problems)
