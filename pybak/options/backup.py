"""What a run can be told: one model a command.

Each model gives the command-line options, the keys of the configuration file, the `PYBAK_…`
environment variables and the parameter form in the Prefect UI. They are plain models on purpose:
a settings class would let the environment of a worker override what the UI says. No secrets here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pybak.options import shared
from pybak.options.fields import DurationText, FilterOptions, Size, cli
from pybak.options.notices import HookOptions, NoticeOptions
from pybak.options.read import RestoreOptions, VerifyOptions
from pybak.units import Duration, parse_duration

__all__ = ["BackupOptions", "FilterOptions", "RestoreOptions", "Size", "VerifyOptions", "cli"]


_MOST_RUNS = 1_000_000


def parse_full_every(text: str) -> int | Duration:
    """Turn `30` into a number of runs, `7d` into a duration. Raises ValueError for others."""
    compact = text.strip()
    if compact.isascii() and compact.isdigit():
        if len(compact) > len(str(_MOST_RUNS)) or not 0 < int(compact) <= _MOST_RUNS:
            raise ValueError(f"{text!r} is no number of runs from 1 to {_MOST_RUNS}")
        return int(compact)
    try:
        return parse_duration(compact)
    except ValueError as error:
        message = f"{text!r} is neither a number of runs such as 30 nor a time such as 24h, 7d, 6mo"
        raise ValueError(message) from error


def _full_every_text(value: object) -> object:
    """Check it and keep it as it was written."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        parse_full_every(str(value))
        return str(value)
    return value


FullEvery = Annotated[str, BeforeValidator(_full_every_text)]


def _tag_text(value: object) -> str:
    text = str(value).strip()
    if not text or "," in text:
        raise ValueError(f"{value!r} is no tag; give --tag once for each, without commas")
    return text


Tag = Annotated[str, BeforeValidator(_tag_text)]
"""A number of runs or a length of time, as text: `30`, `7d`."""


class BackupOptions(FilterOptions, NoticeOptions, HookOptions):
    """How a backup is made."""

    mode: Literal["full", "incremental", "differential"] = Field(
        default="full",
        title="Mode",
        description=(
            "What is saved: everything, what changed since the newest snapshot, or since the "
            "newest full one. The first run of a job is always full."
        ),
        json_schema_extra=cli("--mode"),
    )
    full_every: FullEvery | None = Field(
        default=None,
        title="Full every",
        description="Make every so many runs a full one (30), or one when the last is so old (7d).",
        json_schema_extra=cli("--full-every", metavar="N|DURATION"),
    )
    checksum_compare: bool = Field(
        default=False,
        title="Compare by content",
        description="Read files that look unchanged and compare their checksums too.",
        json_schema_extra=cli("--checksum-compare"),
    )
    ignore_ctime: bool = Field(
        default=False,
        title="Ignore ctime",
        description="Changes of the inode's time alone do not count, as on network file systems.",
        json_schema_extra=cli("--ignore-ctime"),
    )
    ignore_inode: bool = Field(
        default=False,
        title="Ignore inode numbers",
        description="Other inode numbers alone are no change, as on network file systems.",
        json_schema_extra=cli("--ignore-inode"),
    )
    allow_empty: bool = Field(
        default=False,
        title="Allow empty",
        description="Take folders that are empty now, and were on another disk, as really emptied.",
        json_schema_extra=cli("--allow-empty"),
    )
    dedupe: bool = Field(
        default=False,
        title="Store once",
        description=(
            "Store no moved or copied file again whose content an archive of the base holds. New "
            "files of a known size are read for that."
        ),
        json_schema_extra=cli("--dedupe"),
    )
    tag: list[Tag] = Field(
        default_factory=list,
        title="Tags",
        description="Words to know this snapshot by, one an option; prune --keep-tag keeps it.",
        json_schema_extra=cli("--tag", metavar="TAG"),
    )
    wait: bool = shared.wait(
        "Wait while another run of this job is at work. Without it the run stops."
    )
    wait_limit: DurationText | None = shared.wait_limit(
        "Wait at most",
        "Stop waiting after this time, such as 15m. Empty: wait as long as it takes.",
    )

    also_to: list[str] = Field(
        default_factory=list,
        title="Copies",
        description=(
            "Put the finished archive in this place, too: a folder, s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX or block:NAME."
        ),
        examples=[["/mnt/nas/backups", "block:offsite"]],
        json_schema_extra=cli("--also-to", metavar="DESTINATION"),
    )
    format: Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.zst"] = Field(
        default="zip",
        title="Format",
        description=(
            "The kind of archive to write. zip opens everywhere; tar.zst is smaller and keeps "
            "all metadata. Without it the suffix of --output decides."
        ),
        json_schema_extra=cli("-f", "--format"),
    )
    level: int = Field(
        default=2,
        ge=1,
        le=9,
        title="Compression level",
        description="1 is fastest, 9 is smallest. 2 runs at disk speed on most machines.",
        json_schema_extra=cli("-l", "--level", metavar="1..9"),
    )
    workers: int | None = shared.workers(
        "How many files are compressed side by side. Empty: the program picks."
    )
    chunk_size: int | None = Field(
        default=None,
        ge=1,
        title="Files per batch",
        description="At most this many files in a batch. Empty: the program picks.",
        json_schema_extra=cli("-c", "--chunk-size", metavar="FILES"),
    )
    password_block: str | None = shared.password_block(
        "The Prefect block that holds the password; the archive is encrypted by it."
    )
    hide_names: bool = Field(
        default=False,
        title="Hide names",
        description="Encrypt a zip as a whole, its list of names too. Other formats always are.",
        json_schema_extra=cli("--hide-names"),
    )
    split: Size | None = Field(
        default=None,
        title="Volume size",
        description="Cut the archive into volumes of this size (.001, .002 ...), such as 4GB.",
        json_schema_extra=cli("--split", metavar="SIZE"),
    )
    checksum: list[Literal["sha256", "md5"]] = Field(
        default_factory=list,
        title="Checksum files",
        description="Also write a file of checksums that sha256sum -c or md5sum -c reads.",
        json_schema_extra=cli("--checksum", metavar="sha256|md5"),
    )
    exclude_from: list[str] = Field(
        default_factory=list,
        title="Exclude from files",
        description="Files that hold exclude patterns, one a line.",
        json_schema_extra=cli("--exclude-from", metavar="FILE"),
    )
    files_from: list[str] = Field(
        default_factory=list,
        title="Sources from files",
        description="Files that list further sources, one a line, or separated by NUL bytes.",
        json_schema_extra=cli("--files-from", metavar="FILE"),
    )
    max_file_size: Size | None = Field(
        default=None,
        title="Largest file",
        description="Leave out files larger than this, such as 500MB.",
        json_schema_extra=cli("--max-file-size", metavar="SIZE"),
    )
    one_file_system: bool = Field(
        default=False,
        title="One file system",
        description="Stay on the file system of each source; mount points are kept empty.",
        json_schema_extra=cli("--one-file-system"),
    )
    ignore_markers: bool = Field(
        default=False,
        title="Ignore marker files",
        description="Also take folders marked by CACHEDIR.TAG, .nobackup or .pybakignore.",
        json_schema_extra=cli("--ignore-markers"),
    )
    memory_limit: Size | None = Field(
        default=None,
        title="Memory limit",
        description="What the flow and its workers may take together, such as 1GB.",
        json_schema_extra=cli("--memory-limit", metavar="SIZE"),
    )
    staging: str | None = Field(
        default=None,
        title="Staging folder",
        description="Where unfinished pieces lie. Empty: a hidden folder beside the archive.",
        json_schema_extra=cli("--staging", metavar="DIR"),
    )
    staging_limit: Size | None = Field(
        default=None,
        title="Staging limit",
        description=(
            "For archives that go to a storage: at most this much waits here to be sent, and "
            "compressing waits for sending. Empty: 1GiB."
        ),
        json_schema_extra=cli("--staging-limit", metavar="SIZE"),
    )
    upload_parts: int = shared.upload_parts(
        "For archives and copies that go to a storage: how many parts are sent side by side, "
        "for each of them."
    )
    bandwidth_limit: Size | None = shared.bandwidth_limit(
        "For archives and copies that go to a storage: send at most this much a second."
    )
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|helpers|processes|(tcp|tls)://[^\s/]+:\d{1,5})$",
        title="Cluster",
        description="auto, threads, helpers (plain processes), processes (of Dask), or the "
        "address of a Dask scheduler (tcp://…).",
        json_schema_extra=cli("--cluster", metavar="auto|threads|helpers|processes|ADDRESS"),
    )
    dry_run: bool = shared.dry_run("Show what would be done and write nothing.")
