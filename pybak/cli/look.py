"""`pybak list` and `pybak find`: what archives hold.

Members are printed as they are listed, so that `| head` ends early. Names of people's files are
shown so that nothing in them moves a cursor; `--json` gives them byte for byte.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from pybak.cli import rows
from pybak.cli.building import Parsed, build_command
from pybak.cli.commands import job_name
from pybak.cli.output import View, print_error, print_text
from pybak.cli.passwords import BLOCK, PASSWORD, chosen_password, password_of
from pybak.cli.settings import Given, Setting, shown, texts
from pybak.display import printable, shell_word
from pybak.entries import FILE, FOLDER, LINK
from pybak.errors import (
    ArchiveError,
    ExitCode,
    NotFoundError,
    PlanError,
    PyBakError,
    WrongPasswordError,
)
from pybak.formats.archive import Limits
from pybak.formats.zip_directory import Member
from pybak.problems import DAMAGED, Problem
from pybak.units import format_count

if TYPE_CHECKING:
    import click

    from pybak.formats.archive import Archive
    from pybak.formats.listing import Listed, Listing
    from pybak.volumes.find import VolumeSet

_BLOCK_LINES: Final = 500
_NAMED: Final = 20
_JOB: Final = Setting(
    "job", "The job whose backups are meant.", ("--job",), metavar="NAME", in_environment=False
)
_MAX_RATIO: Final = Setting(
    "max_ratio", "Refuse what unpacks to more than this many times its size (250).",
    ("--max-ratio",), metavar="TIMES",
)  # fmt: skip
_MAX_MEMBERS: Final = Setting(
    "max_members", "Refuse archives that hold more members than this (20 million).",
    ("--max-members",), metavar="N",
)  # fmt: skip
_COMMON: Final = ("json", "quiet", "debug", "version", "help")
_EPILOG = """\
Patterns are gitignore patterns of member names: name matches a file or folder of that name and
all below it, '*.txt' by suffix, '/docs/' from the top. Put them in quotes.

Exit codes: 0 done, 1 failed or damaged, 2 wrong usage, 3 a pattern matched nothing,
10 not found, 12 wrong password or none, 130 interrupted."""


def list_command() -> click.Command:
    """Make `pybak list`."""
    return _command(
        "list",
        _list,
        about="Show what an archive holds: all members, or those that match a pattern.",
        usage="[OPTIONS] ARCHIVE|RUN|latest [PATTERN]...",
        argument=Setting(
            "words", "An archive, a run's id or `latest`; and which members.",
            metavar="ARCHIVE [PATTERN]", many=True, in_environment=False,
        ),
    )  # fmt: skip


def find_command() -> click.Command:
    """Make `pybak find`."""
    return _command(
        "find",
        _find,
        about="Find members by name in archives, or in all backups in the catalog, newest first.",
        usage="[OPTIONS] PATTERN [ARCHIVE|RUN|latest]...",
        argument=Setting(
            "words", "What to find; and where, if not in all backups.",
            metavar="PATTERN [ARCHIVE]", many=True, in_environment=False,
        ),
    )  # fmt: skip


def _command(name: str, run: Any, *, about: str, usage: str, argument: Setting) -> click.Command:
    return build_command(
        name,
        None,
        about=about,
        usage=usage,
        program=f"pybak {name}",
        epilog=_EPILOG,
        extras=(argument, _JOB, PASSWORD, BLOCK, _MAX_RATIO, _MAX_MEMBERS),
        groups={
            "Which": ("words", "job", "password", "password_block"),
            "Limits": ("max_ratio", "max_members"),
            "This command": _COMMON,
        },
        settle=chosen_password,
        run=run,
    )


def _list(parsed: Parsed) -> int:
    which, *patterns = texts(parsed.given.get("words")) or (None,)
    if which is None:
        raise PlanError("no ARCHIVE; name an archive, a run id or latest")
    selector = _selector(patterns)
    limits = _limits(parsed)
    found = _locate(which, parsed)
    with _opened(found, _password(parsed), limits) as (archive, listing):
        chosen = _chosen(listing, selector)
        errors = _listing_errors(listing)
        total = _total(archive, chosen, is_whole=not patterns)
        out = _Lines(parsed.view)
        if parsed.view.json:
            out.add(_json_open(_about(archive, listing), "members"))
            _add_members(out, archive, chosen)
            problems = [_problem_json(problem) for problem in errors]
            status = "damaged" if errors else "success"
            out.add(_json_close({"total": total, "status": status, "errors": problems}))
        else:
            out.add(rows.HEADING)
            _add_members(out, archive, chosen)
            out.add(rows.total_line(total, chosen=bool(patterns)))
        out.flush()
    _tell(errors)
    for pattern in selector.unmatched() if selector else ():
        print_error(_no_match(pattern))
    if errors:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if selector and selector.unmatched() else ExitCode.DONE


def _find(parsed: Parsed) -> int:
    pattern, *names = texts(parsed.given.get("words")) or (None,)
    if pattern is None:
        raise PlanError("no PATTERN; say what to find, such as '*.txt'")
    if not pattern.strip() or pattern.startswith(("!", "#")):
        raise PlanError(f"{shown(pattern)} finds nothing by itself; begin it with another sign")
    _selector([pattern])  # refused before anything is opened
    limits = _limits(parsed)
    places = _places(pattern, names, parsed)
    password = _password(parsed)
    out = _Lines(parsed.view)
    if parsed.view.json:
        out.add(_json_open({"pattern": pattern}, "archives"))
    errors: list[PyBakError] = []
    matches = hits = opened = 0
    for found in places:
        with ExitStack() as stack:
            try:
                archive, listing = stack.enter_context(_opened(found, password, limits))
            except PyBakError as why:
                errors.append(why)
                continue
            opened += 1
            chosen = _chosen(listing, _selector([pattern]))
            errors += [_as_error(archive, problem) for problem in _listing_errors(listing)[:1]]
            if chosen:
                _add_found(out, archive, listing, chosen, is_first=not hits)
                hits += 1
                matches += len(chosen)
            out.flush()
    if parsed.view.json:
        total = {"members": matches, "archives": hits, "searched": len(places)}
        out.add(_json_close({"total": total, **_json_errors("find", errors)}))
    elif matches:
        count = format_count(matches, "match", "matches")
        out.add(f"\n{count} in {hits} of {format_count(len(places), 'archive')}")
    out.flush()
    for error in errors:
        print_error(str(error))
    if not matches and opened:
        print_error(_no_match(pattern))
    if errors:
        return errors[0].exit_code
    return ExitCode.DONE if matches else ExitCode.PARTIAL


def _add_found(
    out: _Lines, archive: Archive, listing: Listing, chosen: Sequence[Listed], *, is_first: bool
) -> None:
    if out.view.json:
        out.add(("" if is_first else ",") + _json_open(_about(archive, listing), "members"))
        _add_members(out, archive, chosen)
        out.add(_json_close({}))
    else:
        out.add(("" if is_first else "\n") + printable(archive.label) + ":")
        _add_members(out, archive, chosen)


def _as_error(archive: Archive, problem: Problem) -> PyBakError:
    where = f"{printable(problem.path)}: " if problem.path else ""
    return ArchiveError(f"{archive.label}: {where}{problem.message}; check it with verify")


def _json_errors(command: str, errors: Sequence[PyBakError]) -> dict[str, Any]:
    from pybak.report import failed_report

    return {
        "status": "failed" if errors else "success",
        "errors": [failed_report(command, error).to_json()["errors"][0] for error in errors],
    }


def _places(pattern: str, names: Sequence[str], parsed: Parsed) -> list[VolumeSet]:
    """Give the archives to search."""
    try:
        if names:
            return [_locate(name, parsed) for name in names]
    except NotFoundError as error:
        if os.path.isfile(pattern):
            raise NotFoundError(f"{error} (the pattern comes first, then archives)") from error
        raise
    from pybak.home import catalog_url
    from pybak.locate import known_archives

    places = known_archives(job_name(parsed.given.get("job")), catalog_url=catalog_url())
    if not places:
        raise NotFoundError("no backup is known that is still there; name archives to search")
    return places


def _locate(which: str, parsed: Parsed) -> VolumeSet:
    from pybak.home import catalog_url
    from pybak.locate import locate_archive

    job = job_name(parsed.given.get("job"))
    return locate_archive(which, job=job, catalog_url=catalog_url())


def _password(parsed: Parsed) -> bytes | None:
    return password_of(parsed.given).settled(confirm=False).secret()


def _limits(parsed: Parsed) -> Limits:
    own = Limits()
    return Limits(
        members=int(_number(parsed.given.get("max_members"), int, own.members)),
        ratio=_number(parsed.given.get("max_ratio"), float, own.ratio),
        free_size=own.free_size,
    )


def _number(given: Given | None, kind: type[int] | type[float], default: float) -> float:
    """Give a number of 1 or more. Raises PlanError for anything else."""
    if given is None:
        return default
    try:
        value = kind(given.value)
    except ValueError:
        value = 0
    if not 1 <= value < math.inf:
        noun = "whole number" if kind is int else "number"
        raise PlanError(f"{given.origin}: {shown(given.value)} is no {noun} of 1 or more")
    return value


@contextmanager
def _opened(
    found: VolumeSet, password: bytes | None, limits: Limits
) -> Iterator[tuple[Archive, Listing]]:
    from pybak.formats.opening import open_archive
    from pybak.formats.zip_aes import ADVICE

    with open_archive(found.paths, password=password) as archive:
        listing = archive.listing(limits)
        if listing.encrypted:
            raise WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")
        yield archive, listing


def _selector(patterns: Sequence[str]) -> Any:
    if not patterns:
        return None
    from pybak.restore.select import Selector

    return Selector(patterns)


def _chosen(listing: Listing, selector: Any) -> list[Listed]:
    if selector is None:
        return listing.members
    return [
        member
        for member in listing.members
        if selector.wants(member.name.strip(b"/"), is_folder=member.kind == FOLDER)
    ]


def _add_members(out: _Lines, archive: Archive, members: Iterable[Listed]) -> None:
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


def _total(archive: Archive, members: Sequence[Listed], *, is_whole: bool) -> dict[str, Any]:
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


def _about(archive: Archive, listing: Listing) -> dict[str, Any]:
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


def _listing_errors(listing: Listing) -> list[Problem]:
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


def _problem_json(problem: Problem) -> dict[str, str]:
    return {"path": problem.path, "code": problem.code, "message": problem.message}


def _tell(errors: Sequence[Problem]) -> None:
    for problem in errors[:_NAMED]:
        where = f"{printable(problem.path)}: " if problem.path else ""
        print_error(f"{where}{problem.message}")
    if len(errors) > _NAMED:
        print_error(f"and {len(errors) - _NAMED} more; --json names them all")


def _no_match(pattern: str) -> str:
    hint = ""
    if not set(pattern) & set("*?[]!/"):
        hint = f"; to find a part of a name, write {shell_word(f'*{pattern}*')}"
    return f"{shown(pattern)}: matches no member{hint}"


def _json_open(about: dict[str, Any], key: str) -> str:
    """Begin an object that ends with a list, whose items follow."""
    return f'{json.dumps(about)[:-1]}, "{key}": ['


def _json_close(rest: dict[str, Any]) -> str:
    return f"], {json.dumps(rest)[1:]}" if rest else "]}"


class _Lines:
    """Lines for stdout, some hundred at a time; none with `--quiet`."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Append one line."""
        self._lines.append(line)
        if len(self._lines) >= _BLOCK_LINES:
            self.flush()

    def flush(self) -> None:
        """Print what has come together."""
        if self._lines and (self.view.json or not self.view.quiet):
            print_text("\n".join(self._lines) + "\n", sys.stdout)
        self._lines.clear()
