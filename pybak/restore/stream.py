"""One file of a snapshot written to a stream, such as a command's standard output.

Nothing can be taken back once it is written, so whatever can be authenticated is, before the
first byte.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, TypeVar

from pybak.display import printable
from pybak.entries import FILE, HARD_LINK
from pybak.errors import ArchiveError, PlanError, StorageError, reason
from pybak.formats.archive import ONE_SHOT, Archive, Limits, check_ratio
from pybak.formats.opening import open_archive
from pybak.formats.zip_directory import Member
from pybak.problems import DAMAGED, Problem
from pybak.report import FAILED, PARTIAL, SUCCESS, RestoreCounts, RestoreReport
from pybak.restore.authentic import authenticate, wrapped_volumes
from pybak.restore.choose import choose
from pybak.restore.digest import ContentCheck
from pybak.restore.gather import check_origin, locked
from pybak.restore.items import Item
from pybak.restore.owners import NUMBER, finder
from pybak.restore.select import Selector
from pybak.restore.snapshot import Share, wanted_of

_ZEROS = bytes(1 << 20)
_Read = TypeVar("_Read")


def restore_to_stream(
    shares: Sequence[Share],
    selector: Selector,
    out: BinaryIO,
    password: bytes | None = None,
    *,
    limits: Limits | None = None,
) -> RestoreReport:
    """Write the content of the one file of a snapshot that `selector` wants to `out`.

    Damage found while it is written, by CRC or SHA-256, makes a failed report: what was written is
    not to be used then. A file without either, in an archive that is damaged somewhere, makes a
    partial one. Raises PlanError if not exactly one file is wanted; ArchiveError,
    WrongPasswordError, NotFoundError or StorageError before the first byte.
    """
    with contextlib.ExitStack() as opened:
        archive, item, doubts = _only_file(opened, shares, selector, limits or Limits(), password)
        authenticate(wrapped_volumes(archive.source), workers=os.cpu_count() or 1)
        if isinstance(item.member, Member) and item.member.is_encrypted:
            # The code of an encrypted member stands behind its data.
            _once_more(archive, lambda: deque(archive.chunks(item.member, item.limit), maxlen=0))
        try:
            written = _write(archive, item, out)
        except ArchiveError as error:
            problem = Problem(os.fsdecode(item.path), DAMAGED, str(error))
            return RestoreReport(
                status=FAILED, archive=archive.label, files=RestoreCounts(failed=1),
                errors=(problem,), message=f"{error}; what was written is not to be used",
            )  # fmt: skip
        message = f"{doubts[0].path}: {doubts[0].message}" if doubts else None
        return RestoreReport(
            status=PARTIAL if doubts else SUCCESS, archive=archive.label,
            files=RestoreCounts(restored=1), bytes_written=written, errors=doubts, message=message,
        )  # fmt: skip


def _only_file(
    opened: contextlib.ExitStack,
    shares: Sequence[Share],
    selector: Selector,
    limits: Limits,
    password: bytes | None,
) -> tuple[Archive, Item, tuple[Problem, ...]]:
    """Give the file and its archive, which `opened` closes, and why it may not be what it was."""
    found: list[tuple[Archive, Item, list[Problem]]] = []
    problems: list[Problem] = []
    for share in shares:
        wanted = wanted_of(share, selector)
        if wanted.held is not None and not wanted.held:
            continue
        if share.trouble is not None:
            raise share.trouble
        archive = opened.enter_context(open_archive(share.volumes, password=password))
        listing = archive.listing(limits, wanted.members)
        check_origin(share, archive, listing)
        chosen = choose(listing, selector, finder(NUMBER), is_root=False, share=wanted)
        items = [item for item in chosen.items if item.kind in (FILE, HARD_LINK)]
        # Empty files are never encrypted: they say nothing about whether anything can be read.
        if listing.encrypted and not any(item.member.size for item in items):
            raise locked(archive)
        archive.check_limits(chosen.listed, limits)
        found += ((archive, item, listing.problems) for item in items)
        problems += chosen.problems
    if len(found) != 1:
        label = printable(shares[-1].archive) if shares else "snapshot"
        raise PlanError(_why_not(label, [item for _, item, _ in found], problems))
    archive, item, damage = found[0]
    check_ratio(archive.source, item.member.size, limits)  # a stream takes holes as zeros
    # Without a digest of its own it is as good as the archive around it.
    is_checked = item.sha256 or item.parts or isinstance(item.member, Member)
    return archive, item, () if is_checked else tuple(damage)


def _why_not(label: str, items: Sequence[Item], problems: Sequence[Problem]) -> str:
    if items:
        names = ", ".join(printable(item.path) for item in items[:3])
        more = ", …" if len(items) > 3 else ""
        return (
            f"{label}: {len(items)} files are meant ({names}{more}); one file can go to "
            "stdout, name it with --include"
        )
    refused = [one for one in problems if one.path]
    if refused:
        return f"{label}: {printable(refused[0].path)} {refused[0].message}"
    return f"{label}: no file is meant; name one with --include"


def _write(archive: Archive, item: Item, out: BinaryIO) -> int:
    """Write the content, holes as zeros, and check it; give the count of bytes."""
    content = ContentCheck(item)
    runs = iter(item.data_map or ())
    at, left, written = 0, 0, 0
    try:
        for chunk in _chunks(archive, item):
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
        raise _mismatch(archive, item)
    return written


def _chunks(archive: Archive, item: Item) -> Iterable[bytes]:
    """Give the content; what is small was checked, and fetched once more if it was damaged."""
    member = item.member
    if member.size > ONE_SHOT or member.stored_size > ONE_SHOT:
        return archive.chunks(member, item.limit)
    return [_once_more(archive, lambda: _checked(archive, item))]


def _checked(archive: Archive, item: Item) -> bytes:
    data = archive.read(item.member, item.limit)
    content = ContentCheck(item)
    content.update(data)
    if not content.matches():
        raise _mismatch(archive, item)
    return data


def _once_more(archive: Archive, read: Callable[[], _Read]) -> _Read:
    try:
        return read()
    except ArchiveError:
        if not archive.again():
            raise
        return read()


def _mismatch(archive: Archive, item: Item) -> ArchiveError:
    return ArchiveError(
        f"{archive.label}: member {printable(item.member.name)} is damaged: its SHA-256 is "
        "not the manifest's"
    )


def _zeros(out: BinaryIO, count: int) -> int:
    """Write what a hole reads as."""
    left = max(count, 0)
    while left:
        left -= out.write(_ZEROS[: min(left, len(_ZEROS))])
    return max(count, 0)
