"""Where symbolic links of an archive point."""

from __future__ import annotations

from typing import Final

from pybak.display import printable
from pybak.errors import ArchiveError
from pybak.formats.archive import Archive
from pybak.restore.items import Item

_MAX_LINK: Final = 0xFFFF


def link_target(archive: Archive, item: Item) -> bytes:
    """Give where a link member points.

    Raises ArchiveError if that can be no link's target, or is not what the manifest says.
    """
    subject = f"{archive.label}: member {printable(item.member.name)}"
    target = item.link
    if target is None or item.member.size:
        # In ZIP files it is the content, which the manifest repeats.
        if not 0 < item.member.size <= _MAX_LINK:
            raise ArchiveError(f"{subject} is a link with an impossible target")
        target = archive.read(item.member, item.limit)
        if item.link is not None and target != item.link:
            raise ArchiveError(f"{subject} is a link that points elsewhere than the manifest says")
    if not 0 < len(target) <= _MAX_LINK:
        raise ArchiveError(f"{subject} is a link with an impossible target")
    if b"\0" in target:
        raise ArchiveError(f"{subject} is a link to a name with a NUL byte")
    return target
