"""What a prune can be told."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pybak.options import shared
from pybak.options.fields import DurationText, cli
from pybak.options.notices import NoticeOptions


def _count(rule: str, description: str) -> Any:
    return Field(
        default=0,
        ge=0,
        title=f"Keep {rule}",
        description=description,
        json_schema_extra=cli(f"--keep-{rule}", metavar="N"),
    )


class PruneOptions(NoticeOptions):
    """Which snapshots of a job are kept, and how the others are removed."""

    keep_last: int = _count("last", "Keep the newest N snapshots.")
    keep_hourly: int = _count("hourly", "Keep the newest of each of N hours that have any.")
    keep_daily: int = _count("daily", "Keep the newest of each of N days that have any.")
    keep_weekly: int = _count("weekly", "Keep the newest of each of N weeks (from Monday).")
    keep_monthly: int = _count("monthly", "Keep the newest of each of N months that have any.")
    keep_yearly: int = _count("yearly", "Keep the newest of each of N years that have any.")
    keep_within: DurationText | None = Field(
        default=None,
        title="Keep within",
        description="Keep all that are not older than this, counted from the newest; such as 30d.",
        json_schema_extra=cli("--keep-within", metavar="DURATION"),
    )
    keep_tag: list[str] = Field(
        default_factory=list,
        title="Keep tags",
        description="Keep all with this tag; with several, joined by commas, if they have each.",
        json_schema_extra=cli("--keep-tag", metavar="TAG"),
    )
    consolidate: bool = Field(
        default=False,
        title="Consolidate",
        description=(
            "Where a chain stands in the way, make a full archive of its members, so that the old "
            "ones can go. What is compressed is copied as far as it can be."
        ),
        json_schema_extra=cli("--consolidate"),
    )
    password_block: str | None = shared.password_block(
        "The Prefect block with the password that encrypted archives are made with."
    )
    wait: bool = shared.wait("Wait for other runs of the job to end, instead of giving up.")
    wait_limit: DurationText | None = shared.wait_limit(
        "Longest wait", "Wait for other runs of the job, but not longer than this, such as 15m."
    )
    dry_run: bool = shared.dry_run(
        "Show what would be kept and removed, with reasons, and change nothing."
    )
