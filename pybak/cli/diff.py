"""`pybak diff`: what changed from one snapshot to another."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pybak.cli import rows
from pybak.cli.building import Parsed
from pybak.cli.history import (
    find_snapshot,
    history_command,
    local_time,
    opened_catalog,
    run_json,
    short_ids,
)
from pybak.cli.lines import Lines, json_close, json_open
from pybak.cli.settings import Setting, text, texts
from pybak.display import printable
from pybak.entries import FILE, FOLDER
from pybak.errors import ExitCode, PlanError
from pybak.report.phrases import grouped
from pybak.units import format_count, format_size

if TYPE_CHECKING:
    import click

    from pybak.catalog.differences import Difference, Side
    from pybak.catalog.facts import Snapshot

_SIGNS: Final = {"added": "+", "removed": "-", "changed": "M", "metadata": "m"}
_SIZE_COLUMNS: Final = 19


def diff_command() -> click.Command:
    """Make `pybak diff`."""
    return history_command(
        "diff",
        _diff,
        about="Show what was added, removed and changed from one backup to another.",
        usage="[OPTIONS] RUN|TIME [RUN|TIME|latest]",
        argument=Setting(
            "words", "Ids of two runs, or times such as '2026-11-20 14:00'; second: latest.",
            metavar="RUN [RUN]", many=True, in_environment=False,
        ),
    )  # fmt: skip


def _diff(parsed: Parsed) -> int:
    words = texts(parsed.given.get("words"))
    if not 1 <= len(words) <= 2:
        what = "no RUN" if not words else f"{len(words)} runs named"
        raise PlanError(f"{what}; name two runs to compare, `pybak snapshots` lists them")
    job = text(parsed.given.get("job"))
    out = Lines(parsed.view)
    with opened_catalog() as looked:
        from pybak.catalog.differences import differences

        before = find_snapshot(looked, words[0], job)
        latest_of = job or (before.job if len(words) == 1 or words[1] == "latest" else None)
        after = find_snapshot(looked, words[1] if len(words) == 2 else "latest", latest_of)
        found = differences(looked.database, before, after)
        total = _Total()
        if parsed.view.json:
            out.add(json_open({"from": run_json(before), "to": run_json(after)}, "changes"))
            for number, one in enumerate(total.counting(found)):
                out.add(("," if number else "") + json.dumps(_json(one)))
            rest = {"total": total.to_json(), "status": "success", "errors": []}
            out.add(json_close(rest))
        else:
            for line in _heading(before, after):
                out.add(line)
            for one in total.counting(found):
                out.add(_line(one))
            out.add(("\n" if total.counts else "") + total.sentence())
    out.flush()
    return ExitCode.DONE


class _Total:
    """Counts differences while they go by; sizes are of files, in bytes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()

    def counting(self, found: Iterator[Difference]) -> Iterator[Difference]:
        for one in found:
            self.counts[one.kind] += 1
            side = one.before if one.kind == "removed" else one.after
            if side is not None and side.kind == FILE and one.kind != "metadata":
                self.sizes[one.kind] += side.size
            yield one

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {kind: self.counts[kind] for kind in _SIGNS}
        sizes = {f"{kind}_size": self.sizes[kind] for kind in ("added", "removed", "changed")}
        return {**found, **sizes}

    def sentence(self) -> str:
        if not self.counts:
            return "nothing differs"
        parts = [
            f"{grouped(self.counts[kind])} {kind} ({format_size(self.sizes[kind])})"
            for kind in ("added", "removed", "changed")
            if self.counts[kind]
        ]
        if count := self.counts["metadata"]:
            parts.append(f"{format_count(count, 'member')} with other metadata only")
        return ", ".join(parts)


def _heading(before: Snapshot, after: Snapshot) -> Iterator[str]:
    ids = short_ids([before, after])
    for sign, one in (("-", before), ("+", after)):
        job = f", job {printable(one.job)}"
        yield f"{sign * 3} run {ids[one.run_id]}, {local_time(one.started_at)}{job}"


def _line(one: Difference) -> str:
    side = one.after or one.before
    assert side is not None
    name = printable(one.path) + ("/" if side.kind == FOLDER else "")
    note = _note(one)
    return f"{_SIGNS[one.kind]} {_sizes(one):>{_SIZE_COLUMNS}}  {name}{note}"


def _sizes(one: Difference) -> str:
    shown = [
        format_size(side.size) if side.kind == FILE else "-"
        for side in (one.before, one.after)
        if side is not None
    ]
    return shown[0] if len(set(shown)) == 1 else " > ".join(shown)


def _note(one: Difference) -> str:
    """Say in brackets what differs beside the content."""
    before, after = one.before, one.after
    if before is None or after is None:
        return ""
    notes = []
    if before.kind != after.kind:
        notes.append(f"{rows.type_name(before.kind)} > {rows.type_name(after.kind)}")
    elif one.kind == "metadata" and before.mtime_ns != after.mtime_ns and after.kind != FOLDER:
        notes.append("time")
    if before.mode != after.mode:
        notes.append(f"mode {before.mode:04o} > {after.mode:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        notes.append(f"owner {before.uid}:{before.gid} > {after.uid}:{after.gid}")
    return f"  ({', '.join(notes)})" if notes else ""


def _json(one: Difference) -> dict[str, Any]:
    return {
        "path": os.fsdecode(one.path),
        "change": one.kind,
        "before": _side_json(one.before),
        "after": _side_json(one.after),
    }


def _side_json(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "type": rows.type_name(side.kind),
        "size": side.size,
        "mtime": rows.utc(side.mtime_ns),
        "mode": f"{side.mode:04o}",
        "uid": side.uid,
        "gid": side.gid,
        "sha256": side.sha256,
    }
