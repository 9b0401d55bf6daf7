"""What a mirror can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pybak.mirror.limit import max_delete
from pybak.options import shared
from pybak.options.fields import DurationText, FilterOptions, cli
from pybak.options.notices import HookOptions, NoticeOptions


def _max_delete_text(value: object) -> object:
    """Check a limit and keep it as it was written."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        max_delete(str(value))
        return str(value)
    return value


MaxDeleteText = Annotated[str, BeforeValidator(_max_delete_text)]
"""A number of entries, or a share with its sign."""


class MirrorOptions(FilterOptions, HookOptions, NoticeOptions):
    """How a tree is copied and kept like its source."""

    all: bool = Field(
        default=False,
        title="Everything",
        description="Copy all files again, not only those whose size, time or type differ.",
        json_schema_extra=cli("--all"),
    )
    compare_content: bool = Field(
        default=False,
        title="Compare content",
        description="Read files of the same size on both sides instead of trusting their times.",
        json_schema_extra=cli("--compare-content"),
    )
    delete: bool = Field(
        default=False,
        title="Delete",
        description=(
            "Remove from the destination what the source does not hold (any more), after all is "
            "copied; nothing that patterns leave out."
        ),
        json_schema_extra=cli("--delete"),
    )
    max_delete: MaxDeleteText | None = Field(
        default=None,
        title="Delete at most",
        description=(
            "Delete nothing if it would be more than so many entries, or than this share of the "
            "destination (a share lets 20 go in any case). Empty: 50%."
        ),
        json_schema_extra=cli("--max-delete", metavar="N|PERCENT%"),
    )
    allow_empty: bool = Field(
        default=False,
        title="Allow empty",
        description="With --delete, take a source that is empty as really emptied.",
        json_schema_extra=cli("--allow-empty"),
    )
    verify: bool = Field(
        default=False,
        title="Verify",
        description="Read each file that was copied again, and its copy, and compare SHA-256.",
        json_schema_extra=cli("--verify"),
    )
    owner: Literal["auto", "number", "none"] = Field(
        default="auto",
        title="Owner",
        description=(
            "Whose the copies become. number: the same owner and group; none: yours; auto: the "
            "same if root copies, else yours."
        ),
        json_schema_extra=cli("--owner"),
    )
    workers: int | None = shared.workers(
        "How many files are copied side by side. Empty: the program picks."
    )
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|helpers|processes)$",
        title="Cluster",
        description="auto, threads, helpers (plain processes) or processes (of Dask).",
        json_schema_extra=cli("--cluster", metavar="auto|threads|helpers|processes"),
    )
    wait: bool = shared.wait("Wait while another run mirrors to this place. Without it, give up.")
    wait_limit: DurationText | None = shared.wait_limit(
        "Wait at most", "Stop waiting after this time, such as 15m."
    )
    dry_run: bool = shared.dry_run("Show what would be done and write nothing.")
