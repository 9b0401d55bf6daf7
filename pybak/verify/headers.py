"""What a tar member's own headers say, compared with what the manifest says."""

from __future__ import annotations

from pybak.entries import FILE, KIND_NAMES
from pybak.formats.archive import MAX_ID, Archive
from pybak.formats.listing import NO_OWNER, Spot
from pybak.formats.tar_reader import TarFile
from pybak.restore.items import Item

_BEYOND_SECONDS = 1 << 40  # headers may hold such times less exactly


def header_fault(archive: Archive, item: Item) -> str:
    """Say in what a member's headers differ from `item`; empty if in nothing.

    Only archives of PyBak have both. Raises ArchiveError if the headers can't be read.
    """
    if not isinstance(archive, TarFile) or not isinstance(item.member, Spot):
        return ""
    if archive.index is None or not archive.index.is_own:
        return ""
    entry = archive.entry(item.member)
    if entry is None:
        return ""
    if entry.kind != item.kind:
        said = KIND_NAMES.get(item.kind, "something unknown")
        return f"is a {KIND_NAMES.get(entry.kind, 'thing')} where the manifest says {said}"
    if entry.mode != item.mode:
        return f"has mode {entry.mode:o} where the manifest says {item.mode:o}"
    if abs(item.seconds) < _BEYOND_SECONDS and entry.mtime_ns != item.mtime_ns:
        return "has another time than the manifest says"
    owner = item.uid, item.gid
    if NO_OWNER not in owner and max(owner) <= MAX_ID and (entry.uid, entry.gid) != owner:
        return "has another owner than the manifest says"
    if item.link is not None and entry.link != item.link:
        return "points elsewhere than the manifest says"
    if item.device is not None and entry.device != item.device:
        return "is another device than the manifest says"
    if item.kind == FILE and entry.data_map != item.data_map:
        return "has its data elsewhere than the manifest says"
    return ""
