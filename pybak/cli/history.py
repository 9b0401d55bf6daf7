"""What the commands that show history share: the catalog opened, and which snapshot is meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybak.cli.building import build_command
from pybak.cli.settings import Setting, shown
from pybak.display import printable, shell_names
from pybak.errors import NotFoundError, PlanError
from pybak.report.status import UNCHANGED

if TYPE_CHECKING:
    import click

    from pybak.catalog.engine import Database
    from pybak.catalog.facts import Snapshot
    from pybak.catalog.history import History

LATEST: Final = "latest"
SHORT_ID: Final = 8
"""Characters of a run's id that are shown, and that are enough to name it."""

JOB: Final = Setting(
    "job", "The job whose backups are meant.", ("--job",), metavar="NAME", in_environment=False
)
_NAMED: Final = 5
_NONE: Final = (
    "the catalog knows the files of no backup; make one, or take earlier ones in with "
    "`python flows/rebuild.py DESTINATION`"
)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_COMMON: Final = ("json", "quiet", "debug", "version", "help")
_EPILOG: Final = """\
Exit codes: 0 done, 1 failed, 2 wrong usage, 10 not found, 130 interrupted."""


def history_command(
    name: str, run: Any, *, about: str, usage: str, argument: Setting | None = None
) -> click.Command:
    """Make a command that looks into the catalog."""
    extras = (JOB,) if argument is None else (argument, JOB)
    return build_command(
        name,
        None,
        about=about,
        usage=usage,
        program=f"pybak {name}",
        epilog=_EPILOG,
        extras=extras,
        groups={"Which": [setting.name for setting in extras], "This command": _COMMON},
        run=run,
    )


class Looked(NamedTuple):
    """A catalog that is open to be looked into."""

    database: Database
    history: History


@contextmanager
def opened_catalog() -> Iterator[Looked]:
    """Open the catalog to look into it. Raises NotFoundError where there is none: none is made."""
    from pybak.catalog.engine import Database
    from pybak.catalog.history import History
    from pybak.catalog.presence import has_catalog
    from pybak.home import catalog_url

    url = catalog_url()
    if not has_catalog(url):
        database = Database(url)
        raise NotFoundError(
            f"{printable(database.where)}: there is no catalog yet; make a backup, or get it back "
            "from the archives with `python flows/rebuild.py DESTINATION`"
        )
    database = Database(url)
    try:
        yield Looked(database, History(database))
    finally:
        database.close()


def known_snapshots(history: History, job: str | None) -> list[Snapshot]:
    """List the snapshots of a job, or of all, the oldest first. Raises NotFoundError for none."""
    found = history.snapshots(job)
    if found:
        return sorted(found, key=lambda one: (one.started_at, one.job, one.seq))
    if job is None:
        raise NotFoundError(_NONE)
    raise NotFoundError(f"{printable(job)}: no backup of this job{_known(history)}")


def find_snapshot(looked: Looked, which: str, job: str | None) -> Snapshot:
    """Give the snapshot that is meant by a run's id or its beginning, a time, or `latest`.

    A time, local if it names no zone, means the newest snapshot that was begun by then; a run that
    found nothing new means the snapshot before it. Raises NotFoundError, and PlanError where more
    than one may be meant.
    """
    history = looked.history
    if which == LATEST:
        newest = history.newest(_only_job(history, job))
        if newest is None:
            raise NotFoundError(f"{printable(job or LATEST)}: no backup of this job")
        return newest
    if _TIME.fullmatch(which):
        return _at(history, which, job)
    known = history.find(which) if len(which) >= SHORT_ID else []
    found = [one for one in known if job in (None, one.job)] or _unchanged(looked, which)
    if not found:
        raise NotFoundError(
            f"{shown(which)}: no run of a backup that is still there; `pybak snapshots` lists them"
        )
    if len(found) > 1 and found[0].run_id != which:
        ids = ", ".join(one.run_id[: len(which) + 4] for one in found[:_NAMED])
        more = " and others" if len(found) > _NAMED else ""
        raise PlanError(f"{shown(which)}: which run? {ids}{more} begin like that; write more of it")
    return found[0]


def _unchanged(looked: Looked, run_id: str) -> list[Snapshot]:
    """Give the snapshot that a run found unchanged; nothing for any other run."""
    from pybak.catalog.models import Run

    with looked.database.session() as session:
        run = session.get(Run, run_id)
    if run is None or run.status != UNCHANGED:
        return []
    found = looked.history.found_by(run.job, run.seq)
    return [] if found is None else [found]


def _at(history: History, when: str, job: str | None) -> Snapshot:
    from pybak.moment import parse_moment

    try:
        moment = parse_moment(when)
    except ValueError as error:
        raise PlanError(str(error)) from error
    name = _only_job(history, job)
    found = history.at(name, moment)
    if found is None:
        raise NotFoundError(f"{printable(name)}: no backup is as old as {shown(when)}")
    return found


def _only_job(history: History, job: str | None) -> str:
    jobs = history.jobs()
    if job is None:
        if len(jobs) > 1:
            raise PlanError(f"latest of which job? name one with --job: {shell_names(jobs)}")
        if not jobs:
            raise NotFoundError(_NONE)
        return jobs[0]
    if job not in jobs:
        raise NotFoundError(f"{printable(job)}: no backup of this job{_known(history)}")
    return job


def _known(history: History) -> str:
    jobs = history.jobs()
    return f"; known are {', '.join(map(printable, jobs))}" if jobs else ""


def short_ids(snapshots: Sequence[Snapshot]) -> Mapping[str, str]:
    """Give the shortest beginnings of run ids, of 8 characters or more, that tell them apart."""
    ids = sorted({one.run_id for one in snapshots})
    found = {}
    for before, this, after in zip(["", *ids], ids, [*ids[1:], ""], strict=False):
        length = SHORT_ID
        while length < len(this) and this[:length] in (before[:length], after[:length]):
            length += 1
        found[this] = this[:length]
    return found


def local_time(moment: datetime) -> str:
    """Give a time in the local zone, to the second."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def iso_time(moment: datetime | None) -> str | None:
    """Give a time in ISO 8601, in UTC."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def run_json(snapshot: Snapshot) -> dict[str, Any]:
    """Give the object that names a run in JSON."""
    return {
        "run_id": snapshot.run_id,
        "job": snapshot.job,
        "seq": snapshot.seq,
        "time": iso_time(snapshot.started_at),
    }
