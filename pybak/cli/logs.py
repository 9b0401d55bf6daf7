"""`pybak logs`: what a run logged."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from pybak.cli.building import Parsed, build_command
from pybak.cli.history import JOB, iso_time, local_time
from pybak.cli.lines import Lines, json_close, json_open
from pybak.cli.output import print_error
from pybak.cli.settings import Setting, did_you_mean, shown, text, texts
from pybak.display import escape
from pybak.errors import ExitCode, NotFoundError, PlanError

if TYPE_CHECKING:
    import click

    from pybak.catalog.engine import Database
    from pybak.logs.lines import LogLine, LogSource
    from pybak.logs.which import Wanted

_LEVEL: Final = Setting(
    "level", "Only lines of this level and above: debug, info, warning, error.",
    ("--level",), metavar="LEVEL", in_environment=False,
)  # fmt: skip
_FOLLOW: Final = Setting(
    "follow", "Go on until the run ends.", ("--follow",), flag=True, in_environment=False
)
_RUN: Final = Setting(
    "words", "A run's id or its beginning, or `latest`; without it the newest run.",
    metavar="RUN", many=True, in_environment=False,
)  # fmt: skip
_COMMON: Final = ("json", "quiet", "debug", "version", "help")
_EPILOG: Final = """\
Lines come from the Prefect server that runs use, or without one from Prefect's database. An id of
Prefect's own for a flow run works too.

Exit codes: 0 done, 1 failed, 2 wrong usage, 10 not found or no longer kept, 130 interrupted."""
_PAUSE_SECONDS: Final = 1.0
# Processes of one run send their lines apart, so some come later than newer ones.
_OVERLAP: Final = timedelta(seconds=15)
_QUIET_ROUNDS: Final = 3
_COLOURS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_LEVEL_COLUMNS: Final = len("WARNING")


def logs_command() -> click.Command:
    """Make `pybak logs`."""
    return build_command(
        "logs",
        None,
        about="Show what a run logged.",
        usage="[OPTIONS] [RUN|latest]",
        program="pybak logs",
        epilog=_EPILOG,
        extras=(_RUN, JOB, _LEVEL, _FOLLOW),
        groups={
            "Which": ("words", "job", "level", "follow"),
            "This command": _COMMON,
        },
        run=_logs,
    )


def _logs(parsed: Parsed) -> int:
    words = texts(parsed.given.get("words"))
    if len(words) > 1:
        raise PlanError(f"{len(words)} runs named; name one")
    least = _least(text(parsed.given.get("level")))
    follows = "follow" in parsed.given and bool(parsed.given["follow"].value)
    with ExitStack() as stack:
        wanted = _find(words[0] if words else None, text(parsed.given.get("job")))
        source = _source_of(stack, wanted, follows=follows)
        out = Lines(parsed.view)
        if parsed.view.json:
            out.add(json_open({"run": _json_of(wanted), "source": source.where}, "lines"))
        lines = _following(source, wanted, least) if follows else source.lines(
            wanted.flow_run, least=least
        )  # fmt: skip
        is_first = True
        is_coloured = _is_coloured()
        tasks = _Tasks(source, wanted.flow_run)
        for line in lines:
            if line is None:
                out.flush()
                continue
            if parsed.view.json:
                out.add(("" if is_first else ",") + json.dumps(_json(line, tasks.name_of(line))))
            else:
                for row in _rows(line, tasks.name_of(line), is_coloured=is_coloured):
                    out.add(row)
            is_first = False
        if parsed.view.json:
            out.add(json_close({"status": "success", "errors": []}))
        out.flush()
        if is_first and least and not (parsed.view.json or parsed.view.quiet):
            print_error("no line of this level")
    return ExitCode.DONE


def _least(word: str | None) -> int:
    from pybak.logs.lines import LEVELS

    if word is None:
        return 0
    level = LEVELS.get(word.lower())
    if level is None:
        hint = did_you_mean(word.lower(), LEVELS)
        raise PlanError(f"--level: {shown(word)} is none of {', '.join(LEVELS)}{hint}")
    return level


def _find(which: str | None, job: str | None) -> Wanted:
    """Give the run that is meant, by the catalog if there is one."""
    from pybak.catalog.engine import Database
    from pybak.catalog.failures import CatalogError
    from pybak.catalog.presence import has_catalog
    from pybak.home import catalog_url
    from pybak.logs.which import find_run

    url = catalog_url()
    database: Database | None = None
    try:
        if has_catalog(url):
            database = Database(url)
        return find_run(database, which, job)
    except CatalogError:
        if which is None:
            raise
        return find_run(None, which, job)  # what Prefect calls it is found all the same
    finally:
        if database is not None:
            database.close()


def _source_of(stack: ExitStack, wanted: Wanted, *, follows: bool) -> LogSource:
    """Give the first source that knows lines of the run. Raises NotFoundError if none does."""
    asked = []
    failed: list[Exception] = []
    for source in _sources(failed):
        stack.callback(source.close)
        asked.append(source.where)
        try:
            if next(source.lines(wanted.flow_run), None) is not None:
                return source
            if follows and source.state(wanted.flow_run) is not None:
                return source
        except _expected() as error:
            failed.append(error)
    if failed:
        raise failed[0]
    name = wanted.run_id or wanted.flow_run
    begun = f", begun {local_time(wanted.started_at)}," if wanted.started_at else ""
    raise NotFoundError(
        f"{name}: Prefect keeps no log of this run{begun} any more, or another server has it "
        f"(looked at {' and '.join(asked) or 'no place: there is neither server nor database'}); "
        "PREFECT_API_URL names another"
    )


def _sources(failed: list[Exception]) -> Iterator[LogSource]:
    """Yield the server that is meant, then the database that is used without one."""
    from pybak.logs.database import DatabaseError, database_logs
    from pybak.logs.server import ServerLogs
    from pybak.prefect_api import PrefectApi
    from pybak.prefect_server import ServerError

    try:
        if api := PrefectApi.from_environment(os.environ):
            yield ServerLogs(api)
    except ServerError as error:
        failed.append(error)
    try:
        if database := database_logs(os.environ):
            yield database
    except DatabaseError as error:
        failed.append(error)


def _expected() -> tuple[type[Exception], ...]:
    from pybak.logs.database import DatabaseError
    from pybak.prefect_server import ServerError

    return (ServerError, DatabaseError)


def _following(source: LogSource, wanted: Wanted, least: int) -> Iterator[LogLine | None]:
    """Yield lines as they come, None after each round, until the run has ended and told all."""
    from pybak.logs.lines import FINAL

    seen: dict[str, LogLine] = {}
    quiet = 0
    since = None
    while True:
        has_ended = source.state(wanted.flow_run) in FINAL | {None}
        count = 0
        for line in source.lines(wanted.flow_run, least=least, since=since):
            if line.id not in seen:
                seen[line.id] = line
                count += 1
                yield line
        yield None
        quiet = 0 if count else quiet + 1
        if has_ended and quiet >= _QUIET_ROUNDS:
            return
        if seen:
            since = max(line.time for line in seen.values()) - _OVERLAP
            seen = {name: line for name, line in seen.items() if line.time >= since}
        time.sleep(_PAUSE_SECONDS)


class _Tasks:
    """The names of a flow run's tasks, asked for when a line of one comes."""

    def __init__(self, source: LogSource, flow_run: str) -> None:
        self._source = source
        self._flow_run = flow_run
        self._names: dict[str, str] = {}
        self._unknown: set[str] = set()

    def name_of(self, line: LogLine) -> str | None:
        """Give the name of the task that logged a line; None for the flow itself."""
        if line.task_run is None:
            return None
        if line.task_run not in self._names and line.task_run not in self._unknown:
            self._names = self._source.task_names(self._flow_run)
            if line.task_run not in self._names:
                self._unknown.add(line.task_run)
        return self._names.get(line.task_run)


def _rows(line: LogLine, task: str | None, *, is_coloured: bool) -> Iterator[str]:
    """Yield the rows of a line: time, level, task and text; more lines of it are indented."""
    level = logging.getLevelName(line.level)
    colour = _COLOURS.get(line.level)
    word = f"{level:<{_LEVEL_COLUMNS}}"
    if is_coloured and colour:
        word = f"\x1b[{colour}m{word}\x1b[0m"
    first, *others = line.text.splitlines() or [""]
    origin = f"{escape(task)}: " if task else ""
    yield f"{local_time(line.time)}  {word}  {origin}{escape(first)}".rstrip()
    for other in others:
        yield f"    {escape(other)}".rstrip()


def _is_coloured() -> bool:
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout is not None and sys.stdout.isatty() and not is_plain


def _json(line: LogLine, task: str | None) -> dict[str, Any]:
    return {
        "time": iso_time(line.time),
        "level": logging.getLevelName(line.level),
        "text": line.text,
        "logger": line.logger,
        "task": task,
    }


def _json_of(wanted: Wanted) -> dict[str, Any]:
    return {
        "run_id": wanted.run_id,
        "flow_run": wanted.flow_run,
        "kind": wanted.kind,
        "job": wanted.job,
        "status": wanted.status,
        "started": iso_time(wanted.started_at),
    }
