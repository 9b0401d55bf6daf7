"""`pybak list` and `pybak find`: what archives and snapshots hold.

Members are printed as they are listed, so that `| head` ends early. Names of people's files are
shown so that nothing in them moves a cursor; `--json` gives them byte for byte.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from pybak.cli import rows
from pybak.cli.building import Parsed, build_command
from pybak.cli.found import (
    Place,
    add_matches,
    is_there,
    known_places,
    matches_in,
    matches_of,
)
from pybak.cli.history import JOB, opened_catalog
from pybak.cli.lines import Lines, json_close, json_open
from pybak.cli.listed import list_snapshot
from pybak.cli.members import (
    about,
    add_found,
    add_members,
    as_error,
    chosen_members,
    listing_errors,
    no_match,
    opened,
    problem_json,
    selector_of,
    tell,
    total_of,
)
from pybak.cli.output import print_error
from pybak.cli.passwords import BLOCK, PASSWORD, chosen_password, password_of
from pybak.cli.settings import Given, Setting, shown, text, texts
from pybak.display import printable
from pybak.errors import (
    ArchiveError,
    ExitCode,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
)
from pybak.formats.archive import Limits
from pybak.locate import find_first, names_of
from pybak.problems import Problem
from pybak.units import format_count
from pybak.volumes.find import VolumeSet

if TYPE_CHECKING:
    import click

    from pybak.catalog.engine import Database
    from pybak.catalog.facts import Snapshot
    from pybak.catalog.history import History
    from pybak.restore.ask import Asked
    from pybak.restore.select import Selector

_NO_BACKUP: Final = "no backup is known that is still there; name archives to search"
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
        about="Show what an archive or a backup holds: all, or what matches a pattern.",
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
        about="Find members by name in all backups, newest first, or in archives or backups.",
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
        extras=(argument, JOB, PASSWORD, BLOCK, _MAX_RATIO, _MAX_MEMBERS),
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
    selector = selector_of(patterns)
    limits = _limits(parsed)
    found = _locate(which, parsed)
    errors: list[Problem] = []
    out = Lines(parsed.view)
    if isinstance(found, VolumeSet):
        errors = _list_archive(out, found, _password(parsed), limits, selector)
    elif found.snapshot is not None:
        with opened_catalog() as (_, history):
            archives = history.archives(found.snapshot)
            list_snapshot(out, history, found.snapshot, archives, selector)
    out.flush()
    tell(errors)
    for pattern in selector.unmatched() if selector else ():
        print_error(no_match(pattern))
    if errors:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if selector and selector.unmatched() else ExitCode.DONE


def _list_archive(
    out: Lines, found: VolumeSet, password: bytes | None, limits: Limits, selector: Selector | None
) -> list[Problem]:
    """Print an archive's members; give what is wrong with it."""
    with opened(found, password, limits) as (archive, listing):
        chosen = chosen_members(listing, selector)
        errors = listing_errors(listing)
        total = total_of(archive, chosen, is_whole=selector is None)
        if out.view.json:
            out.add(json_open(about(archive, listing), "members"))
            add_members(out, archive, chosen)
            problems = [problem_json(problem) for problem in errors]
            status = "damaged" if errors else "success"
            out.add(json_close({"total": total, "status": status, "errors": problems}))
        else:
            out.add(rows.HEADING)
            add_members(out, archive, chosen)
            out.add(rows.total_line(total, chosen=selector is not None))
        return errors


def _find(parsed: Parsed) -> int:
    pattern, *names = texts(parsed.given.get("words")) or (None,)
    if pattern is None:
        raise PlanError("no PATTERN; say what to find, such as '*.txt'")
    if not pattern.strip() or pattern.startswith(("!", "#")):
        raise PlanError(f"{shown(pattern)} finds nothing by itself; begin it with another sign")
    selector_of([pattern])  # refused before anything is opened
    search = _Search(pattern, parsed)
    if names:
        named = _named(pattern, names, parsed)
        search.prepare()
        for one in named:
            if one.archive is not None:
                search.look_into(Place(volumes=one.archive))
            elif one.snapshot is not None:
                with opened_catalog() as (_, history):
                    search.look_through(history, one.snapshot)
    else:
        with ExitStack() as stack:
            try:
                database, _ = stack.enter_context(opened_catalog())
            except NotFoundError as error:
                raise NotFoundError(_NO_BACKUP) from error
            places = known_places(database, text(parsed.given.get("job")))
            if not places:
                raise NotFoundError(_NO_BACKUP)
            search.prepare()
            for place in places:
                search.look_into(place, database)
    return search.finish()


class _Search:
    """A search of archives, printed as it goes on."""

    def __init__(self, pattern: str, parsed: Parsed) -> None:
        self._pattern = pattern
        self._limits = _limits(parsed)
        self._parsed = parsed
        self._password: bytes | None = None
        self._out = Lines(parsed.view)
        self._errors: list[PyBakError] = []
        self._matches = self._hits = self._opened = self._searched = 0

    def prepare(self) -> None:
        """Ask for the password if need be, and begin to print."""
        self._password = _password(self._parsed)
        if self._parsed.view.json:
            self._out.add(json_open({"pattern": self._pattern}, "archives"))

    def look_into(self, place: Place, database: Database | None = None) -> None:
        """Search one archive; one that can't be read is remembered."""
        count = 0
        is_first = not self._hits
        selector = selector_of([self._pattern])
        assert selector is not None
        if place.facts is not None and database is not None:
            self._opened += 1
            found = matches_in(database, place.facts, selector)
            count = add_matches(self._out, place.facts, found, is_first=is_first)
        elif place.volumes is not None:
            try:
                with opened(place.volumes, self._password, self._limits) as (archive, listing):
                    self._opened += 1
                    chosen = chosen_members(listing, selector)
                    problems = listing_errors(listing)[:1]
                    self._errors += [as_error(archive, problem) for problem in problems]
                    if chosen:
                        add_found(self._out, archive, listing, chosen, is_first=is_first)
                    count = len(chosen)
            except PyBakError as why:
                self._errors.append(why)
        self._add(count)
        self._searched += 1

    def look_through(self, history: History, snapshot: Snapshot) -> None:
        """Search a snapshot, in whichever archives it lies, the newest first.

        An archive that is missing is remembered if anything was found in it.
        """
        selector = selector_of([self._pattern])
        assert selector is not None
        archives = history.archives(snapshot)
        found = matches_of(history, snapshot, selector)
        for facts in reversed(archives):
            matches = found.get(facts.id, [])
            self._add(add_matches(self._out, facts, matches, is_first=not self._hits))
            if matches and not is_there(facts):
                missing = f"{printable(facts.name)}: the archive is no longer there; put it back"
                self._errors.append(NotFoundError(missing))
        self._searched += len(archives)
        self._opened += 1

    def _add(self, count: int) -> None:
        """Count what was found in one archive, and let it be seen."""
        self._matches += count
        self._hits += bool(count)
        self._out.flush()

    def finish(self) -> int:
        """Print the sum of the search; give the exit code."""
        if self._parsed.view.json:
            total = {
                "members": self._matches, "archives": self._hits, "searched": self._searched,
            }  # fmt: skip
            self._out.add(json_close({"total": total, **_json_errors("find", self._errors)}))
        elif self._matches:
            count = format_count(self._matches, "match", "matches")
            self._out.add(f"\n{count} in {self._hits} of {format_count(self._searched, 'archive')}")
        self._out.flush()
        for error in self._errors:
            print_error(str(error))
        if not self._matches and self._opened:
            print_error(no_match(self._pattern))
        if self._errors:
            return self._errors[0].exit_code
        return ExitCode.DONE if self._matches else ExitCode.PARTIAL


def _json_errors(command: str, errors: Sequence[PyBakError]) -> dict[str, Any]:
    from pybak.report import failed_report

    return {
        "status": "failed" if errors else "success",
        "errors": [failed_report(command, error).to_json()["errors"][0] for error in errors],
    }


def _named(pattern: str, names: Sequence[str], parsed: Parsed) -> list[Asked]:
    """Give the archives and snapshots that were named."""
    job = text(parsed.given.get("job"))
    try:
        return [_ask(name, job) for name in names]
    except NotFoundError as error:
        if os.path.isfile(pattern):
            raise NotFoundError(f"{error} (the pattern comes first, then archives)") from error
        raise


def _locate(which: str, parsed: Parsed) -> VolumeSet | Asked:
    """Give the archive that is meant, or the snapshot if that lies in several or nowhere."""
    asked = _ask(which, text(parsed.given.get("job")))
    if asked.snapshot is None:
        assert asked.archive is not None
        return asked.archive
    with opened_catalog() as (_, history):
        archives = history.archives(asked.snapshot)
    if len(archives) != 1 or archives[0].run_id != asked.snapshot.run_id:
        return asked
    try:
        return find_first(names_of(archives[0]))[1]
    except (PlanError, ArchiveError, StorageError):  # the catalog knows what it held
        return asked


def _ask(which: str, job: str | None) -> Asked:
    """Find what is meant; looking makes no catalog."""
    from pybak.catalog.presence import has_catalog
    from pybak.home import catalog_url
    from pybak.paths import user_path
    from pybak.portable import from_portable
    from pybak.restore.ask import Asked, ask
    from pybak.storage.opening import is_remote
    from pybak.volumes.find import find_volumes

    if is_remote(which):
        return Asked(find_volumes(os.fsencode(which)))
    path = user_path(from_portable(which))
    try:
        return Asked(find_volumes(os.fsencode(path)))
    except NotFoundError:
        if not has_catalog(catalog_url()):
            if "/" in which or path.suffix:
                raise
            why = f"{shown(which)}: neither a file nor a known run; there is no catalog yet"
            raise NotFoundError(why) from None
    return ask(which, job=job, at=None, catalog_url=catalog_url())


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
