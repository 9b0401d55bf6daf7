"""The end records of a ZIP archive: how many members it has, and where their directory lies.

Layout after PKWARE's APPNOTE 6.3.10 (4.3.14 to 4.3.16). What they claim is compared with the file;
whatever is wrong with the bytes ends in ArchiveError.
"""

from __future__ import annotations

from typing import NamedTuple

from pybak.errors import ArchiveError
from pybak.formats import zip_records as zr
from pybak.formats.source import Source, damaged, pread_all

_MAX_DIRECTORY = 2 << 30
_MAX_COMMENT = 0xFFFF


class End(NamedTuple):
    """What the end record says: how many members, and where their directory lies in the file.

    `offset` is where it begins there; `base` is what was put before the archive and is to be added
    to the offsets that the directory holds.
    """

    members: int
    size: int
    offset: int
    base: int
    is_zip64: bool
    comment: bytes


def find_end(source: Source) -> End:
    """Find the end record, with its ZIP64 part, and check it against the file.

    Raises ArchiveError if there is none, more than one, one of a split archive, or one that can't
    be true.
    """
    tail_size = min(source.size, zr.END.size + _MAX_COMMENT)
    tail_at = source.size - tail_size
    tail = pread_all(source, tail_size, tail_at) if tail_size else b""
    failure: ArchiveError | None = None
    exact: list[End] = []
    loose: list[End] = []
    at = tail.rfind(zr.END_SIGNATURE)
    while at >= 0:
        try:
            end = _read_end(source, tail, at, tail_at)
        except ArchiveError as error:
            # These four bytes may stand in a comment or in trailing bytes; look further up,
            # and blame the record nearest to the end if there is no good one.
            failure = failure or error
        else:
            is_exact = at + zr.END.size + len(end.comment) == len(tail)
            (exact if is_exact else loose).append(end)
        at = tail.rfind(zr.END_SIGNATURE, 0, at + len(zr.END_SIGNATURE) - 1)
    if len(exact) > 1:
        raise damaged(source, "has two ends, so that two programs may see two archives in it")
    for end in exact or loose:
        return end
    if failure:
        raise failure
    if source.pread(4, 0) in (zr.LOCAL_SIGNATURE, zr.CENTRAL_SIGNATURE):
        raise damaged(source, "has no end record, so it is cut short")
    raise ArchiveError(f"{source.label}: is no ZIP archive")


def _read_end(source: Source, tail: bytes, at: int, tail_at: int) -> End:
    if at + zr.END.size > len(tail):
        raise damaged(source, "is cut short in its end record")
    _, disk, first_disk, disk_count, count, size, offset, comment_size = zr.END.unpack_from(
        tail, at
    )
    comment = tail[at + zr.END.size : at + zr.END.size + comment_size]
    if len(comment) != comment_size:
        raise damaged(source, "is cut short in its comment")
    end_at = tail_at + at
    classic = (disk, first_disk, disk_count, count, size, offset)
    wide = _read_end64(source, end_at)
    if wide is not None:
        narrow_limits = (zr.MAX16,) * 4 + (zr.MAX32,) * 2
        for narrow, limit, number in zip(classic, narrow_limits, wide[:-1], strict=True):
            if narrow not in (limit, number):
                raise damaged(source, "has two end records that contradict each other")
        end_at = wide[-1]
        disk, first_disk, disk_count, count, size, offset = wide[:-1]
    if disk or first_disk or disk_count != count:
        raise damaged(source, "is one volume of a split archive, which this version can't open")
    base = end_at - size - offset
    if base < 0 or size > _MAX_DIRECTORY or count * zr.CENTRAL.size > size:
        raise damaged(source, "has an end record that does not fit the file: cut short or damaged")
    # Bytes before the archive (a self-extractor) move everything, unless a tool counted
    # them in. Bytes between directory and end record (a signature) move nothing.
    for start in (base, 0):
        if not count or source.pread(4, offset + start) == zr.CENTRAL_SIGNATURE:
            return End(count, size, offset + start, start, wide is not None, comment)
    raise damaged(source, "has no directory where its end record says")


def _read_end64(source: Source, end_at: int) -> tuple[int, int, int, int, int, int, int] | None:
    """Give the numbers of the ZIP64 end record and its position, or None without one."""
    locator_at = end_at - zr.END64_LOCATOR.size
    if locator_at < 0:
        return None
    locator = source.pread(zr.END64_LOCATOR.size, locator_at)
    if locator[:4] != zr.END64_LOCATOR_SIGNATURE or len(locator) < zr.END64_LOCATOR.size:
        return None
    _, disk, said_at, disks = zr.END64_LOCATOR.unpack(locator)
    if disk or disks > 1:
        raise damaged(source, "is one volume of a split archive, which this version can't open")
    for at in (said_at, locator_at - zr.END64.size):
        if not 0 <= at <= locator_at - zr.END64.size:
            continue
        record = pread_all(source, zr.END64.size, at)
        if record[:4] == zr.END64_SIGNATURE:
            fields = zr.END64.unpack(record)
            if at + 12 + fields[1] != locator_at:
                continue
            return (*fields[4:10], at)
    raise damaged(source, "has no ZIP64 end record where its locator says")
