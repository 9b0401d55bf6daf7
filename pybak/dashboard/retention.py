"""What rules would keep of a job's snapshots, with reasons: the rules of prune itself.

It is judged by the catalog alone. Prune also looks at the archives: it keeps what later snapshots
are made of, and what its storage does not let go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Any, Final

from pydantic import ValidationError

from pybak.api.problems import Problem, invalid
from pybak.api.schemas import PruneRules
from pybak.catalog.facts import Snapshot
from pybak.options.prune import PruneOptions
from pybak.overview import Overview
from pybak.overview.facts import SnapshotFact
from pybak.retention.policy import Verdict, apply_policy

RULES: Final = (
    ("keep_last", "Newest"), ("keep_daily", "Days"), ("keep_weekly", "Weeks"),
    ("keep_monthly", "Months"), ("keep_yearly", "Years"), ("keep_within", "All within"),
)  # fmt: skip
MOST: Final = 5000
_PAGE: Final = 500


def rules_of(query: Mapping[str, str]) -> dict[str, Any]:
    """Give the rules that an address has, none if it has none. Raises Problem for bad ones."""
    given = {name: query[name] for name, _ in RULES if query.get(name)}
    try:
        PruneRules.model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors()) from error
    return {name: value if name == "keep_within" else int(value) for name, value in given.items()}


def judge(
    overview: Overview, job: str, rules: Mapping[str, Any], *, now: datetime, timezone: tzinfo
) -> dict[str, Verdict]:
    """Judge a job's snapshots by rules that are not empty, each by its run's id.

    Raises PlanError for rules that keep nothing, Problem for more snapshots than can be judged.
    """
    from pybak.retention.run import policy_of

    verdicts = apply_policy(
        map(snapshot_of, _all(overview, job)), policy_of(PruneOptions(**rules)), now=now,
        timezone=timezone,
    )  # fmt: skip
    return {verdict.snapshot.run_id: verdict for verdict in verdicts}


def snapshot_of(fact: SnapshotFact) -> Snapshot:
    """Give a snapshot as the rules take it."""
    return Snapshot(
        run_id=fact.run_id, job=fact.job, seq=fact.seq, status=fact.status, mode=fact.mode,
        started_at=fact.started_at, finished_at=fact.finished_at, archive=fact.archive,
        tags=fact.tags,
    )  # fmt: skip


def _all(overview: Overview, job: str) -> Iterable[SnapshotFact]:
    found: list[SnapshotFact] = []
    cursor: str | None = None
    while True:
        page = overview.snapshots(job=job, cursor=cursor, limit=_PAGE)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found
        if len(found) >= MOST:
            raise Problem(
                422, "too-many", "this job has too many snapshots to judge here; start a dry run"
            )
