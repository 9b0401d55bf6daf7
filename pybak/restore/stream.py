"""One file of an archive written to a stream, such as a command's standard output.

Nothing can be taken back once it is written, so whatever can be authenticated is, before the
first byte.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import BinaryIO

from pybak.display import printable
from pybak.entries import FILE, HARD_LINK
from pybak.errors import ArchiveError, PlanError, StorageError
from pybak.formats.archive import Archive, Limits, check_ratio
from pybak.formats.opening import open_archive
from pybak.formats.zip_directory import Member
from pybak.problems import DAMAGED, NO_MATCH, Problem
from pybak.report import FAILED, SUCCESS, RestoreCounts, RestoreReport
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.restore.choose import choose
from pybak.restore.digest import ContentCheck
from pybak.restore.items import Item
from pybak.restore.outcome import reason
from pybak.restore.owners import NUMBER, finder
from pybak.restore.plan import locked
from pybak.restore.select import Selector

_ZEROS = bytes(1 << 20)


def restore_to_stream(
    archive_paths: Sequence[bytes],
    selector: Selector,
    out: BinaryIO,
    password: bytes | None = None,
    *,
    limits: Limits | None = None,
) -> RestoreReport:
    """Write the content of the one file that `selector` wants to `out`.

    `archive_paths` are the archive's files in order. Damage found while it is written, by CRC or
    SHA-256, makes a failed report: what was written is not to be used then. Raises PlanError if
    not exactly one file is wanted; ArchiveError, WrongPasswordError, NotFoundError or
    StorageError before the first byte.
    """
    limits = limits or Limits()
    with open_archive(archive_paths, password=password) as archive:
        item = _only_file(archive, selector, limits)
        authenticate(wrapped_volumes(archive.source), workers=os.cpu_count() or 1)
        if isinstance(item.member, Member) and item.member.is_encrypted:
            # The code of an encrypted member stands behind its data.
            deque(archive.chunks(item.member, item.limit), maxlen=0)
        try:
            written = _write(archive, item, out)
        except ArchiveError as error:
            problem = Problem(os.fsdecode(item.path), DAMAGED, str(error))
            return RestoreReport(
                status=FAILED, archive=archive.label, files=RestoreCounts(failed=1),
                errors=(problem,), message=f"{error}; what was written is not to be used",
            )  # fmt: skip
        return RestoreReport(
            status=SUCCESS, archive=archive.label, files=RestoreCounts(restored=1),
            bytes_written=written,
        )  # fmt: skip


def _only_file(archive: Archive, selector: Selector, limits: Limits) -> Item:
    listing = archive.listing(limits)
    chosen = choose(listing, selector, finder(NUMBER), is_root=False)
    items = [item for item in (*chosen.files, *chosen.links) if item.kind in (FILE, HARD_LINK)]
    # Empty files are never encrypted: they say nothing about whether anything can be read.
    if listing.encrypted and not any(item.member.size for item in items):
        raise locked(archive)
    if len(items) != 1:
        raise PlanError(_why_not(archive, items, chosen.problems))
    archive.check_limits(chosen.listed, limits)
    check_ratio(archive.source, items[0].member.size, limits)  # a stream takes holes as zeros
    return items[0]


def _why_not(archive: Archive, items: Sequence[Item], problems: Sequence[Problem]) -> str:
    if items:
        names = ", ".join(printable(item.path) for item in items[:3])
        more = ", …" if len(items) > 3 else ""
        return (
            f"{archive.label}: {len(items)} files are meant ({names}{more}); one file can go to "
            "stdout, name it with --include"
        )
    refused = [one for one in problems if one.path and one.code != NO_MATCH]
    if refused:
        return f"{archive.label}: {printable(refused[0].path)} {refused[0].message}"
    return f"{archive.label}: no file is meant; name one with --include"


def _write(archive: Archive, item: Item, out: BinaryIO) -> int:
    """Write the content, holes as zeros, and check it; give the count of bytes."""
    content = ContentCheck(item)
    runs = iter(item.data_map or ())
    at, left, written = 0, 0, 0
    try:
        for chunk in archive.chunks(item.member, item.limit):
            content.update(chunk)
            view = memoryview(chunk)
            while len(view):
                if item.data_map is not None and not left:
                    at, left = next(runs, (written, len(view)))
                    written += _zeros(out, at - written)
                piece = view[:left] if item.data_map is not None else view
                out.write(piece)
                written += len(piece)
                left -= len(piece)
                view = view[len(piece) :]
        written += _zeros(out, item.member.size - written)
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"the output can't be written ({reason(error)})") from error
    if not content.matches():
        raise ArchiveError(
            f"{archive.label}: member {printable(item.member.name)} is damaged: its SHA-256 is "
            "not the manifest's"
        )
    return written


def _zeros(out: BinaryIO, count: int) -> int:
    """Write what a hole reads as."""
    left = max(count, 0)
    while left:
        left -= out.write(_ZEROS[: min(left, len(_ZEROS))])
    return max(count, 0)
