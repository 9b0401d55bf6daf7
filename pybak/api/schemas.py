"""What requests may say: a choice of the commands' options, each with a reason if it is left out.

The fields are those of the commands' own models, with their checks and words. What would let a
token run commands, read or write outside the roots, reach other hosts, or switch off guards of the
host is no field here; deployments may still set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from pybak.options import BackupOptions, RestoreOptions, VerifyOptions
from pybak.options.inbox import InboxOptions
from pybak.options.prune import PruneOptions

_RUNS_COMMANDS: Final = "would run commands on the host"
_READS_FILES: Final = "would read any file of the host"
_WRITES_FILES: Final = "would write any file of the host"
_REACHES_OUT: Final = "would reach hosts of the caller's choice"
_TELLS: Final = "is the operator's: it names whom runs tell"
_GUARDS: Final = "guards the host"

REFUSED: Final[Mapping[str, str]] = {
    "before": _RUNS_COMMANDS,
    "after": _RUNS_COMMANDS,
    "hook_timeout": _RUNS_COMMANDS,
    "exclude_from": _READS_FILES,
    "files_from": _READS_FILES,
    "staging": _WRITES_FILES,
    "log_file": _WRITES_FILES,
    "cluster": _REACHES_OUT,
    "duplicates_to": _WRITES_FILES,
    "mail": _TELLS,
    "mail_when": _TELLS,
    "webhook": _TELLS,
    "ping": _TELLS,
    "allow_empty": _GUARDS,
    "max_ratio": _GUARDS,
    "max_members": _GUARDS,
    "memory_limit": _GUARDS,
    "staging_limit": _GUARDS,
    "workers": _GUARDS,
    "upload_parts": _GUARDS,
    "at": "is a field of the request itself",
}
"""Options that requests can't give, each with the reason."""

_BACKUP: Final = (
    "include", "exclude", "mode", "full_every", "checksum_compare", "ignore_ctime",
    "ignore_inode", "dedupe", "tag", "wait", "wait_limit", "also_to", "format",
    "level", "chunk_size", "password_block", "hide_names", "split", "checksum", "max_file_size",
    "one_file_system", "ignore_markers", "bandwidth_limit", "dry_run",
)  # fmt: skip
SELECTION: Final = frozenset(
    {"include", "exclude", "max_file_size", "one_file_system", "ignore_markers", "hide_names"}
)
"""Options that tell what of its sources a backup saves, and shows."""
_INBOX: Final = (
    "include", "exclude", "format", "level", "password_block", "also_to", "keep", "settle",
    "all_names", "keep_duplicates", "read_back", "wait", "wait_limit", "dry_run",
)  # fmt: skip
_RESTORE: Final = (
    "include", "exclude", "overwrite", "delete", "owner", "password_block", "dry_run",
)  # fmt: skip
_VERIFY: Final = ("sample", "password_block")
_PRUNE: Final = (
    "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly",
    "keep_within", "keep_tag", "consolidate", "password_block", "wait", "wait_limit",
)  # fmt: skip


def chosen(name: str, model: type[BaseModel], fields: tuple[str, ...]) -> type[BaseModel]:
    """Give a model with these fields of another one, and nothing else."""
    taken: dict[str, Any] = {}
    for field in fields:
        info = copy(model.model_fields[field])
        info.json_schema_extra = None  # how it looks on the command line
        taken[field] = (info.annotation, info)
    return create_model(
        name, __config__=ConfigDict(extra="forbid"), __doc__=model.__doc__, **taken
    )  # fmt: skip


CompressOptions: Any = chosen("CompressOptions", BackupOptions, _BACKUP)
InboxChoices: Any = chosen("InboxChoices", InboxOptions, _INBOX)
RestoreChoices: Any = chosen("RestoreChoices", RestoreOptions, _RESTORE)
VerifyChoices: Any = chosen("VerifyChoices", VerifyOptions, _VERIFY)
PruneRules: Any = chosen("PruneRules", PruneOptions, _PRUNE)

JobName = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["documents"])
]
RunId = Annotated[
    str,
    Field(
        min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._:-]+$",
        examples=["5b0ff7ac-91a3-4d29-9a11-5ad8a63f6a9e"],
    ),
]  # fmt: skip
Place = Annotated[str, Field(min_length=1, max_length=4096)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CompressRequest(_Request):
    """A backup to make. A job that has a deployment needs nothing but its name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"job": "documents"},
                {
                    "sources": ["/srv/documents"], "to": "/srv/backups", "job": "documents",
                    "options": {"format": "tar.zst", "exclude": ["*.tmp"]},
                },
            ]
        }
    )  # fmt: skip

    kind: Literal["backup"] = "backup"
    sources: list[Place] = Field(
        default_factory=list, max_length=100,
        description="Absolute paths of folders and files, below the roots of sources.",
    )  # fmt: skip
    to: Place | None = Field(
        default=None, description="Where the archive goes, below a root of destinations."
    )
    job: JobName | None = Field(default=None, description="The backup's name.")
    options: CompressOptions = Field(default_factory=CompressOptions)

    @model_validator(mode="after")
    def _named(self) -> CompressRequest:
        if not self.sources and self.job is None:
            raise ValueError("name sources, or a job that has a deployment")
        return self


class InboxRequest(_Request):
    """An inbox to empty: each file becomes a packed one in the destination."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "inbox", "source": "/srv/inbox", "destination": "/srv/backups/inbox"}
            ]
        }
    )

    kind: Literal["inbox"]
    source: Place = Field(description="An absolute path below a root of inboxes.")
    destination: Place | None = Field(
        default=None, description="Where files go, below a root of destinations."
    )
    options: InboxChoices = Field(default_factory=InboxChoices)


def _kind(body: Any) -> str:
    """Tell which request this is; one that names no kind is a backup."""
    kind = body.get("kind", "backup") if isinstance(body, dict) else getattr(body, "kind", "")
    return kind if kind in ("backup", "inbox") else "backup"


StartRequest = Annotated[
    Annotated[CompressRequest, Tag("backup")] | Annotated[InboxRequest, Tag("inbox")],
    Discriminator(_kind),
]


class RestoreRequest(_Request):
    """Files to get back: of a run, of an archive, or of a job's newest backup."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": "documents", "to": "/srv/restored",
                    "options": {"include": ["/letters/"]},
                }
            ]
        }
    )  # fmt: skip

    run: RunId | None = Field(default=None, description="The run that made the snapshot.")
    archive: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="The number of an archive."
    )
    job: JobName | None = Field(default=None, description="The job whose newest backup is meant.")
    at: str | None = Field(
        default=None, max_length=64, description="Of the job's backups, the newest by this time."
    )
    to: Place = Field(description="The folder to restore into, below a root of restores.")
    options: RestoreChoices = Field(default_factory=RestoreChoices)

    @model_validator(mode="after")
    def _one(self) -> RestoreRequest:
        if sum(one is not None for one in (self.run, self.archive, self.job)) != 1:
            raise ValueError("name just one: a run, an archive or a job")
        if self.at is not None:
            if self.job is None:
                raise ValueError("at goes with a job")
            RestoreOptions(at=self.at)
        return self


class VerifyRequest(_Request):
    """Archives to check: those that runs need, single ones, or those of a job's newest backup."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"job": "documents", "options": {"sample": "5%"}}]}
    )

    runs: list[RunId] = Field(default_factory=list, max_length=100)
    archives: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field(
        default_factory=list, max_length=100
    )
    job: JobName | None = None
    options: VerifyChoices = Field(default_factory=VerifyChoices)

    @model_validator(mode="after")
    def _some(self) -> VerifyRequest:
        if not self.runs and not self.archives and self.job is None:
            raise ValueError("name runs, archives or a job")
        return self


class PruneRequest(_Request):
    """Snapshots to remove that no rule keeps. Nothing is removed unless `dry_run` is false."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"job": "documents", "options": {"keep_daily": 7, "keep_monthly": 12}}]
        }
    )

    job: JobName | None = None
    all_jobs: bool = False
    dry_run: bool = Field(default=True, description="Only show what would be removed.")
    options: PruneRules = Field(default_factory=PruneRules)

    @model_validator(mode="after")
    def _one(self) -> PruneRequest:
        if (self.job is None) is not self.all_jobs:
            raise ValueError("name a job, or set all_jobs; not both")
        return self


def given(options: BaseModel) -> dict[str, Any]:
    """Give what a request says of options, so that the rest is the deployment's."""
    return options.model_dump(mode="json", exclude_unset=True)
