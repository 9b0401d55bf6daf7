"""`pybak snapshots`: the states of jobs that can be restored, the newest last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pybak.cli.building import Parsed
from pybak.cli.history import (
    history_command,
    iso_time,
    known_snapshots,
    local_time,
    opened_catalog,
    run_json,
    short_ids,
)
from pybak.cli.lines import Lines, json_close, json_open, table
from pybak.cli.settings import text
from pybak.display import printable
from pybak.errors import ExitCode
from pybak.report.phrases import grouped
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    import click

    from pybak.catalog.facts import ArchiveFacts, Snapshot
    from pybak.catalog.history import History

_HEADING: Final = (
    "Run", "Seq", "Time", "Mode", "Status", "New", "Changed", "Gone", "Size", "Job", "Tags",
    "Archive",
)  # fmt: skip
_RIGHT: Final = frozenset({"Seq", "New", "Changed", "Gone", "Size"})
_UNKNOWN: Final = "-"


def snapshots_command() -> click.Command:
    """Make `pybak snapshots`."""
    return history_command(
        "snapshots",
        _snapshots,
        about="List the backups that can be restored, the newest last.",
        usage="[OPTIONS]",
    )


def _snapshots(parsed: Parsed) -> int:
    out = Lines(parsed.view)
    with opened_catalog() as (_, history):
        found = known_snapshots(history, text(parsed.given.get("job")))
        archives = _own_archives(history, found)
        if parsed.view.json:
            out.add(json_open({}, "snapshots"))
            for number, one in enumerate(found):
                out.add(_json(one, archives.get(one.run_id), is_last=number == len(found) - 1))
            out.add(json_close({"status": "success", "errors": []}))
        else:
            ids = short_ids(found)
            rows = [_row(one, archives.get(one.run_id), ids[one.run_id]) for one in found]
            for line in table(_HEADING, rows, _RIGHT):
                out.add(line)
            jobs = len({one.job for one in found})
            total = format_size(sum(facts.size for facts in archives.values()))
            of_jobs = f" of {format_count(jobs, 'job')}" if jobs > 1 else ""
            out.add(f"{format_count(len(found), 'snapshot')}{of_jobs}, {total}")
    out.flush()
    return ExitCode.DONE


def _own_archives(history: History, snapshots: Sequence[Snapshot]) -> dict[str, ArchiveFacts]:
    """Give, by run, the archives that the runs of these snapshots made.

    A run has a second one, which is leaving, while a consolidation makes it.
    """
    found = {}
    for job in {one.job for one in snapshots}:
        for facts in history.archives_of_job(job):
            if not facts.is_leaving:
                found[facts.run_id] = facts
    runs = {one.run_id for one in snapshots}
    return {run: facts for run, facts in found.items() if run in runs}


def _row(one: Snapshot, archive: ArchiveFacts | None, run_id: str) -> Sequence[str]:
    return (
        run_id, str(one.seq), local_time(one.started_at), one.mode, one.status,
        *(_count(one.counts, name) for name in ("new", "changed", "gone")),
        format_size(archive.size) if archive else _UNKNOWN,
        printable(one.job), ",".join(map(printable, one.tags)) or _UNKNOWN,
        printable(one.archive) if one.archive else _UNKNOWN,
    )  # fmt: skip


def _count(counts: Mapping[str, Any], name: str) -> str:
    value = counts.get(name)
    return grouped(value) if isinstance(value, int) else _UNKNOWN


def _json(one: Snapshot, archive: ArchiveFacts | None, *, is_last: bool) -> str:
    about = {
        **run_json(one),
        "finished": iso_time(one.finished_at),
        "mode": one.mode,
        "status": one.status,
        "base_run": one.base_run,
        "full_run": one.full_run,
        "tags": list(one.tags),
        "files": dict(one.counts),
        "archive": one.archive,
        "size": archive.size if archive else None,
        "encrypted": archive.encrypted if archive else None,
    }
    return json.dumps(about) + ("" if is_last else ",")
