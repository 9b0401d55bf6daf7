"""What a run can be told: one model a command.

Each model gives the command-line options, the keys of the configuration file, the `PYBAK_…`
environment variables and the parameter form in the Prefect UI. They are plain models on purpose:
a settings class would let the environment of a worker override what the UI says. No secrets here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pybak.units import parse_size


def _size_text(value: object) -> object:
    """Check a size and keep it as it was written, so that forms and files show it that way."""
    if isinstance(value, str | int):
        parse_size(value)
        return str(value)
    return value


Size = Annotated[str, BeforeValidator(_size_text)]
"""A number of bytes as text with a unit: `500kB`, `100MB`, `4.7GB`, `64MiB`."""


def cli(*names: str, metavar: str | None = None) -> dict[str, Any]:
    """Give the schema extra that says how a field looks on the command line."""
    return {"cli": {"names": list(names), "metavar": metavar}}


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=False)


class FilterOptions(_Options):
    """Which files to take; shared by every command that chooses among files."""

    include: list[str] = Field(
        default_factory=list,
        title="Include",
        description="Only files that match one of these patterns (gitignore syntax).",
        examples=[["*.py", "/docs/"]],
        json_schema_extra=cli("--include", metavar="PATTERN"),
    )
    exclude: list[str] = Field(
        default_factory=list,
        title="Exclude",
        description="Leave out what matches (gitignore syntax; `!name` takes it back).",
        examples=[["*.tmp", "**/cache/", "!keep.log"]],
        json_schema_extra=cli("--exclude", metavar="PATTERN"),
    )


class BackupOptions(FilterOptions):
    """How a backup is made."""

    format: Literal["zip"] = Field(
        default="zip",
        title="Format",
        description="The kind of archive to write.",
        # Pydantic gives a single choice as a constant, which makes no dropdown in a form.
        json_schema_extra={**cli("-f", "--format"), "enum": ["zip"]},
    )
    level: int = Field(
        default=2,
        ge=1,
        le=9,
        title="Compression level",
        description="1 is fastest, 9 is smallest. 2 runs at disk speed on most machines.",
        json_schema_extra=cli("-l", "--level", metavar="1..9"),
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Workers",
        description="How many files are compressed side by side. Empty: the program picks.",
        json_schema_extra=cli("-w", "--workers", metavar="N"),
    )
    chunk_size: int | None = Field(
        default=None,
        ge=1,
        title="Files per batch",
        description="At most this many files in a batch. Empty: the program picks.",
        json_schema_extra=cli("-c", "--chunk-size", metavar="FILES"),
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
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|processes|(tcp|tls)://[^\s/]+:\d{1,5})$",
        title="Cluster",
        description="auto, threads, processes, or the address of a Dask scheduler (tcp://…).",
        json_schema_extra=cli("--cluster", metavar="auto|threads|processes|ADDRESS"),
    )
    dry_run: bool = Field(
        default=False,
        title="Dry run",
        description="Show what would be done and write nothing.",
        json_schema_extra=cli("--dry-run"),
    )


class RestoreOptions(FilterOptions):
    """How an archive is unpacked."""

    overwrite: Literal["never", "if-newer", "if-changed", "always"] = Field(
        default="if-changed",
        title="Overwrite",
        description=(
            "What to do with files that are there already: never touch them, replace them if "
            "the archive's is newer, or if size or time differ, or always."
        ),
        json_schema_extra=cli("--overwrite"),
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Workers",
        description="How many files are written side by side. Empty: the program picks.",
        json_schema_extra=cli("-w", "--workers", metavar="N"),
    )
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|processes)$",
        title="Cluster",
        description="auto, threads or processes.",
        json_schema_extra=cli("--cluster", metavar="auto|threads|processes"),
    )
    max_ratio: float | None = Field(
        default=None,
        ge=1,
        title="Highest ratio",
        description="Refuse what unpacks to more than this many times its size (250).",
        json_schema_extra=cli("--max-ratio", metavar="TIMES"),
    )
    dry_run: bool = Field(
        default=False,
        title="Dry run",
        description="Show what would be done and write nothing.",
        json_schema_extra=cli("--dry-run"),
    )


class VerifyOptions(_Options):
    """How an archive is checked."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Workers",
        description="How many members are read side by side. Empty: the program picks.",
        json_schema_extra=cli("-w", "--workers", metavar="N"),
    )
    cluster: str = Field(
        default="auto",
        pattern=r"^(auto|threads|processes)$",
        title="Cluster",
        description="auto, threads or processes.",
        json_schema_extra=cli("--cluster", metavar="auto|threads|processes"),
    )
    max_ratio: float | None = Field(
        default=None,
        ge=1,
        title="Highest ratio",
        description="Refuse what unpacks to more than this many times its size (250).",
        json_schema_extra=cli("--max-ratio", metavar="TIMES"),
    )
