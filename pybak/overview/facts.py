r"""What the overview tells: plain values, the same for REST API, dashboard and terminal.

Times are aware, in UTC; sizes are in bytes. Names are text in which bytes that are no UTF-8 are
surrogates, \udc80 to \udcff (PEP 383), as in all of PyBak's JSON. `msgspec.to_builtins` gives
what `json.dumps` takes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from pybak.stages import Stage

# A job's state.
GOOD: Final = "good"
RUNNING: Final = "running"
LATE: Final = "late"
PROBLEM: Final = "problem"
NEVER: Final = "never"
STATES: Final = (PROBLEM, LATE, NEVER, RUNNING, GOOD)
"""The worst first."""

DIED: Final = "died"
"""The status of a run that the catalog holds for running, and that is not (`overview.alive`)."""

JOB_KINDS: Final = ("backup", "inbox", "mirror")
"""Kinds of runs that make jobs; the others look after what these made."""


class TrendPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job, for a chart; what is not known, or not yet, is None.

    `bytes_read` is the size of what its archive holds, `bytes_stored` that of the archive.
    """

    run_id: str
    started_at: datetime
    status: str
    duration_seconds: float | None
    bytes_read: int | None
    bytes_stored: int | None


class GoodBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The newest run after which every file of a job was saved."""

    run_id: str
    finished_at: datetime
    age_seconds: float


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `status` is that of its report, `running` before it ends, or `died`.

    `files` are its counts as the report of its kind has them, `flow_run` the id of Prefect's run.
    """

    run_id: str
    seq: int
    kind: str
    job: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None
    mode: str | None
    archive: str | None
    message: str | None
    files: dict[str, Any]
    bytes_read: int | None
    bytes_stored: int | None
    flow_run: str | None


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """A job at one moment. `words` say `state` in a sentence (`overview.states`).

    `failures` counts the runs that went wrong since the last good one, the first of them at
    `failing_since`. `size_bytes` is what its archives take, copies not counted; None for a kind
    that makes no archives. `trend` are the last runs, the oldest first.
    """

    name: str
    kind: str
    state: str
    words: str
    newest_good: GoodBackup | None = None
    last_run: RunSummary | None = None
    running: RunSummary | None = None
    next_run: datetime | None = None
    usual_interval_seconds: float | None = None
    size_bytes: int | None = None
    archives: int = 0
    failures: int = 0
    failing_since: datetime | None = None
    trend: tuple[TrendPoint, ...] = ()


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else knows about when a job runs: the next time, and how far runs are apart.

    If the last run failed, `failed_at` is when, and `failed_flow_run` its id there. Jobs of several
    kinds may have one name: `kinds` has the schedule of each kind, where kinds are known, and what
    stands beside it is that of all.
    """

    next_run: datetime | None = None
    interval_seconds: float | None = None
    failed_at: datetime | None = None
    failed_flow_run: str | None = None
    kinds: dict[str, Schedule] = {}

    def of(self, kind: str) -> Schedule | None:
        """Give the schedule of the job of one kind; None if it has none."""
        return self.kinds.get(kind) if self.kinds else self


class VolumeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an archive; large ones have no `sha256` of their own."""

    uri: str
    size: int
    sha256: str | None


class CopyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A further place of an archive."""

    name: str
    size: int
    is_leaving: bool
    volumes: tuple[VolumeFacts, ...]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A check of an archive; `percent` of it was asked for."""

    run_id: str
    checked_at: datetime
    status: str
    percent: float
    members: int
    damaged: int


class ArchiveSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An archive. `size` is that of its files in one place, `content_size` that of its members.

    `is_leaving` once its removal is decided.
    """

    archive_id: int
    run_id: str
    job: str
    archive: str
    format: str
    encrypted: bool
    size: int
    content_size: int | None
    members: int
    created_at: datetime
    is_leaving: bool
    copies: int
    last_check: Check | None


class ArchiveDetails(msgspec.Struct, frozen=True, kw_only=True):
    """An archive with all that is known of it; `checks` are the newest ones, the last first."""

    summary: ArchiveSummary
    volumes: tuple[VolumeFacts, ...]
    copies: tuple[CopyFacts, ...]
    checks: tuple[Check, ...]


class RunDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A run with all that is known of it; `errors` counts the files that it could not save.

    `stages` are how long each took, the first in front: none before the run is over, and of runs
    that were not measured.
    """

    summary: RunSummary
    base_run: str | None
    full_run: str | None
    is_snapshot: bool
    tags: tuple[str, ...]
    options: dict[str, Any]
    archive: ArchiveDetails | None
    errors: int
    stages: tuple[Stage, ...] = ()


class ErrorFact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a run could not save, or not as it was (`pybak.problems`)."""

    path: str
    code: str
    message: str


class SnapshotFact(msgspec.Struct, frozen=True, kw_only=True):
    """A state of a job's files that can be restored."""

    run_id: str
    job: str
    seq: int
    mode: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    archive: str | None
    size: int | None
    tags: tuple[str, ...]
    files: dict[str, Any]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder as some snapshot or archive has it.

    `type` is one of file, folder, symlink, hardlink, fifo, char_device, block_device. A folder
    that has no record of its own, for only what lies in it was named, has no `mtime` and no `mode`.
    """

    path: str
    name: str
    type: str
    size: int
    mtime: str | None
    mode: str | None
    sha256: str | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A member that a search found, as it was last; `run_id` is the newest that restores it.

    `is_current` tells that the job's newest snapshot has it.
    """

    job: str
    member: Member
    run_id: str
    seen_at: datetime
    is_current: bool


class VersionFact(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a member, from the snapshot `first_run` to `last_run`, which restores it."""

    member: Member
    archive_id: int
    first_run: str
    first_at: datetime
    last_run: str
    last_at: datetime
    is_current: bool


class PlaceUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the archives of a job take in one place: a folder, or a storage's address."""

    job: str
    place: str
    archives: int
    size: int
    is_copy: bool


class StorageUse(msgspec.Struct, frozen=True, kw_only=True):
    """What all archives take, by job and place, the largest first."""

    size: int
    archives: int
    places: tuple[PlaceUse, ...]
