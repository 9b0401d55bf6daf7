"""`pybak status`: is everything safe? Each job in a line, what is at work, what went wrong."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pybak.cli.building import Parsed, build_command
from pybak.cli.history import JOB, opened_catalog
from pybak.cli.output import print_error, print_text
from pybak.cli.settings import Setting, shown, text
from pybak.display import printable
from pybak.errors import ExitCode, NotFoundError, PlanError
from pybak.units import parse_duration

if TYPE_CHECKING:
    import click

    from pybak.cli.status_view import Shown
    from pybak.overview import Overview
    from pybak.overview.facts import Schedule

_WATCH: Final = Setting(
    "watch", "Show it again every 5 seconds, or as often as said, until Ctrl-C.", ("--watch",),
    metavar="[EVERY]", in_environment=False, bare="5s",
)  # fmt: skip
_COMMON: Final = ("watch", "json", "quiet", "debug", "version", "help")
_EPILOG: Final = """\
A job is late when its newest good backup is older than one and a half times what its schedule
says, or what is usual, with some more minutes where that is short; it has a problem when its last
run failed, died or is partial. Trend: a bar as high as what each run stored, . where nothing was
new, x failed, ! partial.

Exit codes: 0 all jobs are good or running, 1 one is late, has a problem or was never good,
2 wrong usage, 10 no catalog or no such job, 130 interrupted."""
_SERVER_SECONDS: Final = 3.0
_PROBLEMS: Final = 50
_NAMED: Final = 5
_WIDEST: Final = 160
_WIDTH_OF_FILES: Final = 80
_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"
_FINE: Final = ("good", "running")


def status_command() -> click.Command:
    """Make `pybak status`."""
    extras = (JOB, _WATCH)
    return build_command(
        "status",
        None,
        about="Show whether every job is safe: its newest good backup, what runs, what failed.",
        usage="[OPTIONS]",
        program="pybak status",
        epilog=_EPILOG,
        extras=extras,
        groups={"Which": ["job"], "This command": _COMMON},
        run=_status,
    )


def _status(parsed: Parsed) -> int:
    every = _interval(parsed)
    job = text(parsed.given.get("job"))
    with opened_catalog() as (database, _):
        from pybak.overview import Overview
        from pybak.overview.alive import asking_locks
        from pybak.overview.schedules import schedules_within

        is_only_here = not database.is_postgres
        overview = Overview(database, asked=asking_locks(is_only_here=is_only_here))
        while True:
            schedules = schedules_within(_SERVER_SECONDS, os.environ)
            found = _look(overview, schedules, job)
            _show(found, parsed, is_again=every is not None)
            if every is None:
                return _exit_code(found)
            time.sleep(every)


def _interval(parsed: Parsed) -> float | None:
    given = text(parsed.given.get("watch"))
    if given is None:
        return None
    if parsed.view.json:
        raise PlanError("--watch and --json don't go together; ask again as often as you need")
    try:
        return float(parse_duration(given).total_seconds)
    except ValueError as error:
        raise PlanError(f"--watch: {error}") from error


def _look(overview: Overview, schedules: dict[str, Schedule], job: str | None) -> Shown:
    from pybak.cli.status_view import Shown

    now = datetime.now(UTC)
    jobs = overview.jobs(now, schedules)
    active, problems = overview.active(now=now), overview.problems(now=now, limit=_PROBLEMS)
    if job is not None:
        named = [one for one in jobs if one.name == job]
        if not named:
            names = ", ".join(printable(one.name) for one in jobs[:_NAMED])
            known = f"; known are {names}" if names else ""
            raise NotFoundError(f"{shown(job)}: no such job{known}")
        jobs = named
        active = [one for one in active if one.job == job]
        problems = [one for one in problems if one.job == job]
    return Shown(now=now, jobs=jobs, active=active, problems=problems)


def _show(found: Shown, parsed: Parsed, *, is_again: bool) -> None:
    if parsed.view.json:
        print_text(json.dumps(_json(found), indent=2) + "\n", sys.stdout)
        return
    if parsed.view.quiet:
        for one in found.jobs:
            if one.state not in _FINE:
                print_error(f"{printable(one.name)}: {one.words}")
        return
    from pybak.cli.status_view import Look, lines_of

    stream = sys.stdout
    is_terminal = stream is not None and stream.isatty()
    width = _WIDTH_OF_FILES
    if is_terminal:
        width = min(shutil.get_terminal_size((_WIDTH_OF_FILES, 24)).columns, _WIDEST)
    colours = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    look = Look(width=width, colours=colours, plain=not _is_unicode(stream))
    lines = list(lines_of(found, look))
    if is_again:
        if is_terminal:
            lines[0] = _CLEAR + lines[0]
        lines += ["", f"{found.now.astimezone():%Y-%m-%d %H:%M:%S}, Ctrl-C ends"]
    print_text("\n".join(lines) + "\n", stream)


def _is_unicode(stream: Any) -> bool:
    try:
        return codecs.lookup(stream.encoding).name.startswith("utf-")
    except (AttributeError, LookupError, TypeError):
        return False


def _json(found: Shown) -> dict[str, Any]:
    import msgspec

    return {
        "status": "success" if _exit_code(found) == ExitCode.DONE else "failed",
        "time": msgspec.to_builtins(found.now),
        "jobs": msgspec.to_builtins(list(found.jobs)),
        "active": msgspec.to_builtins(list(found.active)),
        "problems": msgspec.to_builtins(list(found.problems)),
        "errors": [],
    }


def _exit_code(found: Shown) -> int:
    return ExitCode.DONE if all(one.state in _FINE for one in found.jobs) else ExitCode.FAILED
