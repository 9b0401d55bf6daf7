"""What an inbox can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pybak.options import shared
from pybak.options.fields import DurationText, FilterOptions, cli
from pybak.options.notices import HookOptions, NoticeOptions
from pybak.units import parse_duration

_NO_TIME = ("0", "0s")


def settle_seconds(text: str) -> float:
    """Give the seconds that a `--settle` means; `0s` is none. Raises ValueError for others."""
    return 0.0 if text.strip() in _NO_TIME else float(parse_duration(text).total_seconds)


def _settle_text(value: object) -> object:
    """Check it and keep it as it was written."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        settle_seconds(str(value))
        return str(value)
    return value


SettleText = Annotated[str, BeforeValidator(_settle_text)]
"""A length of time as text, or `0s`."""


class InboxOptions(FilterOptions, NoticeOptions, HookOptions):
    """How the files of an inbox are taken, packed and stored."""

    format: Literal["gz", "zip", "tar.gz", "tar.bz2", "tar.zst"] = Field(
        default="gz",
        title="Format",
        description="What each file becomes: one file of this format.",
        json_schema_extra=cli("-f", "--format"),
    )
    level: int = Field(
        default=2,
        ge=1,
        le=9,
        title="Level",
        description="Compression level, from 1 (fast) to 9 (small).",
        json_schema_extra=cli("-l", "--level", metavar="1..9"),
    )
    password_block: str | None = shared.password_block("Prefect block that holds the password.")
    also_to: list[str] = Field(
        default_factory=list,
        title="Also to",
        description="A further place that gets every file: a folder, s3://…, gs://… or block:….",
        json_schema_extra=cli("--also-to", metavar="DESTINATION"),
    )
    keep: bool = Field(
        default=False,
        title="Keep",
        description="Leave the files where they are; what was done is known and not read again.",
        json_schema_extra=cli("--keep"),
    )
    settle: SettleText = Field(
        default="5s",
        title="Settle",
        description="Leave files that changed within this time for the next round; 0s is none.",
        json_schema_extra=cli("--settle", metavar="DURATION"),
    )
    all_names: bool = Field(
        default=False,
        title="All names",
        description=(
            "Also take files whose names say that they are unfinished, such as *.part and *.tmp."
        ),
        json_schema_extra=cli("--all-names"),
    )
    keep_duplicates: bool = Field(
        default=False,
        title="Keep duplicates",
        description="Store files like others, even if their content was stored before.",
        json_schema_extra=cli("--keep-duplicates"),
    )
    duplicates_to: str | None = Field(
        default=None,
        min_length=1,
        title="Duplicates to",
        description="Move duplicates into this folder instead of deleting them.",
        json_schema_extra=cli("--duplicates-to", metavar="DIR"),
    )
    read_back: bool = Field(
        default=False,
        title="Read back",
        description=(
            "Read each file again where it was stored. What is packed is always read back before; "
            "storages check what arrives by its digest."
        ),
        json_schema_extra=cli("--read-back"),
    )
    workers: int | None = shared.workers("How many cores work. Empty: as many as the machine has.")
    staging: str | None = Field(
        default=None,
        min_length=1,
        title="Staging folder",
        description=(
            "Where files are packed that go to a storage. Empty: the folder of temporary files. "
            "Those for a local folder are packed inside it."
        ),
        json_schema_extra=cli("--staging", metavar="DIR"),
    )
    wait: bool = shared.wait("Wait for another run of this inbox to end, instead of giving up.")
    wait_limit: DurationText | None = shared.wait_limit(
        "Longest wait", "Wait for another run, but not longer than this, such as 15m."
    )
    dry_run: bool = shared.dry_run("Show what would be taken and change nothing.")
