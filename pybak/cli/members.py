"""The members of an archive, printed as they are listed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pybak.cli import rows
from pybak.cli.lines import Lines, json_close, json_open
from pybak.cli.output import print_error
from pybak.cli.settings import shown
from pybak.display import printable, shell_word
from pybak.entries import FILE, FOLDER, LINK
from pybak.errors import ArchiveError, PyBakError, WrongPasswordError
from pybak.formats.zip_directory import Member
from pybak.problems import DAMAGED, Problem

if TYPE_CHECKING:
    from pybak.formats.archive import Archive, Limits
    from pybak.formats.listing import Listed, Listing
    from pybak.restore.select import Selector
    from pybak.volumes.find import VolumeSet

_NAMED: Final = 20


def add_found(
    out: Lines, archive: Archive, listing: Listing, chosen: Sequence[Listed], *, is_first: bool
) -> None:
    """Print what was found in an archive."""
    if out.view.json:
        out.add(("" if is_first else ",") + json_open(about(archive, listing), "members"))
        add_members(out, archive, chosen)
        out.add(json_close({}))
    else:
        out.add(("" if is_first else "\n") + printable(archive.label) + ":")
        add_members(out, archive, chosen)


def as_error(archive: Archive, problem: Problem) -> PyBakError:
    """Give a problem of an archive as the error that ends a search of it."""
    where = f"{printable(problem.path)}: " if problem.path else ""
    return ArchiveError(f"{archive.label}: {where}{problem.message}; check it with verify")


@contextmanager
def opened(
    found: VolumeSet, password: bytes | None, limits: Limits
) -> Iterator[tuple[Archive, Listing]]:
    """Open an archive and list it. Raises WrongPasswordError where a password is missing."""
    from pybak.formats.opening import open_archive
    from pybak.formats.zip_aes import ADVICE

    with open_archive(found.paths, password=password) as archive:
        listing = archive.listing(limits)
        if listing.encrypted:
            raise WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")
        yield archive, listing


def selector_of(patterns: Sequence[str]) -> Selector | None:
    """Give what decides by patterns; None for none."""
    if not patterns:
        return None
    from pybak.restore.select import Selector

    return Selector(patterns)


def chosen_members(listing: Listing, selector: Selector | None) -> list[Listed]:
    """Give the members that are wanted."""
    if selector is None:
        return listing.members
    return [
        member
        for member in listing.members
        if selector.wants(member.name.strip(b"/"), is_folder=member.kind == FOLDER)
    ]


def add_members(out: Lines, archive: Archive, members: Iterable[Listed]) -> None:
    """Print members as they come."""
    separator = ""
    for member in members:
        link = _link(archive, member)
        if out.view.json:
            out.add(separator + rows.as_json(member, _stored(archive, member), link))
            separator = ","
        else:
            out.add(rows.line(member, _ratio(archive, member), link))


def _stored(archive: Archive, member: Listed) -> int | None:
    """Give the bytes that a member takes in the archive; None where only pieces have a size."""
    return member.stored_size if archive.format in ("zip", "tar") else None


def _ratio(archive: Archive, member: Listed) -> float | None:
    """Give size by stored size: of the member itself, or of the pieces that it lies in."""
    if member.kind != FILE or not member.size or not member.stored_size:
        return None
    ratio = member.size / member.stored_size
    if isinstance(member.locator, Member):
        return ratio
    if archive.index is None:
        return ratio if archive.format == "tar" else None
    at = member.locator.data
    first, last = archive.index.find(at), archive.index.find(at + member.stored_size - 1)
    if not 0 <= first <= last < len(archive.index):
        return None
    start, end = archive.index[first], archive.index[last]
    return ratio * (end.plain_end - start.plain_at) / max(end.stored_end - start.stored_at, 1)


def _link(archive: Archive, member: Listed) -> bytes | None:
    """Give where a link leads; in foreign ZIP files that is the member's content."""
    if member.link is not None or member.kind != LINK:
        return member.link
    try:
        return archive.read(member.locator, member.limit)
    except PyBakError:
        return None


def total_of(archive: Archive, members: Sequence[Listed], *, is_whole: bool) -> dict[str, Any]:
    """Sum up members for JSON; sizes are in bytes."""
    size = sum(member.size for member in members if member.kind == FILE)
    stored = [_file_size(archive)] if is_whole else [_stored(archive, m) for m in members]
    known = [length for length in stored if length is not None]
    stored_size = sum(known) if len(known) == len(stored) else None
    return {
        "members": len(members),
        "size": size,
        "stored_size": stored_size,
        "ratio": round(size / stored_size, 3) if size and stored_size else None,
    }


def about(archive: Archive, listing: Listing) -> dict[str, Any]:
    """Give what JSON says of an archive."""
    return {
        "archive": archive.label,
        "format": archive.format,
        "encrypted": _is_encrypted(archive, listing),
    }


def _file_size(archive: Archive) -> int:
    """Give the bytes that all volumes take, wrappers included."""
    return sum(one.size for one in archive.identity)


def _is_encrypted(archive: Archive, listing: Listing) -> bool:
    """Whether a password was needed: for a wrapper around the volumes, or for members."""
    return archive.source.size < _file_size(archive) or any(
        isinstance(member.locator, Member) and member.locator.is_encrypted
        for member in listing.members
    )


def listing_errors(listing: Listing) -> list[Problem]:
    """Give what is wrong with an archive as far as its lists tell."""
    errors = list(listing.problems)
    errors += [
        Problem(os.fsdecode(member.name), *member.fault)
        for member in listing.members
        if member.fault is not None
    ]
    errors += [
        Problem(os.fsdecode(name), DAMAGED, "is in the manifest and not in the archive")
        for name, _ in listing.missing
    ]
    return errors


def problem_json(problem: Problem) -> dict[str, str]:
    """Give the object of a problem."""
    return {"path": problem.path, "code": problem.code, "message": problem.message}


def tell(errors: Sequence[Problem]) -> None:
    """Name what is wrong with an archive on stderr."""
    for problem in errors[:_NAMED]:
        where = f"{printable(problem.path)}: " if problem.path else ""
        print_error(f"{where}{problem.message}")
    if len(errors) > _NAMED:
        print_error(f"and {len(errors) - _NAMED} more; --json names them all")


def no_match(pattern: str) -> str:
    """Say that a pattern found nothing, and how a part of a name is found."""
    hint = ""
    if not set(pattern) & set("*?[]!/"):
        hint = f"; to find a part of a name, write {shell_word(f'*{pattern}*')}"
    return f"{shown(pattern)}: matches no member{hint}"
