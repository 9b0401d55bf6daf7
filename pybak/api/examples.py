"""What answers look like, for the documentation: one job, documents, and one of its runs."""

from __future__ import annotations

from typing import Any, Final

_RUN: Final = "5b0ff7ac-91a3-4d29-9a11-5ad8a63f6a9e"
_FLOW_RUN: Final = "0a4c7a7e-35ad-4d0f-8b68-2f6f0f4a9c11"
_ARCHIVE: Final = "/srv/backups/documents_20261121_101500.zip"
_FILES: Final = {
    "total": 1204, "new": 3, "changed": 2, "unchanged": 1199, "excluded": 0, "skipped": 0,
    "failed": 0,
}  # fmt: skip

SUMMARY: Final[dict[str, Any]] = {
    "run_id": _RUN, "seq": 42, "kind": "backup", "job": "documents", "status": "success",
    "started_at": "2026-11-21T10:15:00Z", "finished_at": "2026-11-21T10:15:09Z",
    "duration_seconds": 9.1, "mode": "incremental", "archive": _ARCHIVE, "message": None,
    "files": _FILES, "bytes_read": 120_000, "bytes_stored": 41_000, "flow_run": _FLOW_RUN,
}  # fmt: skip
_JOB: Final[dict[str, Any]] = {
    "name": "documents", "kind": "backup", "state": "good",
    "words": "The newest good backup is 5 minutes old.",
    "newest_good": {
        "run_id": _RUN, "finished_at": "2026-11-21T10:15:09Z", "age_seconds": 291.0,
    },
    "last_run": SUMMARY, "running": None, "next_run": "2026-11-21T11:15:00Z",
    "usual_interval_seconds": 3600.0, "size_bytes": 73_000_000, "archives": 42, "failures": 0,
    "failing_since": None,
    "trend": [
        {
            "run_id": _RUN, "started_at": "2026-11-21T10:15:00Z", "status": "success",
            "duration_seconds": 9.1, "bytes_read": 120_000, "bytes_stored": 41_000,
        }
    ],
}  # fmt: skip
STARTED: Final[dict[str, Any]] = {
    "flow_run_id": _FLOW_RUN, "kind": "backup", "job": "documents", "state": "scheduled",
    "state_name": "Scheduled", "message": None, "percent": None, "phase": None,
    "deployment": "backup/backup-on-request", "created_at": "2026-11-21T10:14:58Z",
    "started_at": None, "finished_at": None, "report": None, "fingerprint": None,
}  # fmt: skip
CANCELLED: Final = STARTED | {"state": "cancelling", "state_name": "Cancelling"}
_AT_WORK: Final = STARTED | {
    "state": "running", "state_name": "Running", "percent": 42.0, "phase": "compressing",
    "started_at": "2026-11-21T10:15:00Z",
}  # fmt: skip
_FAILED_EARLY: Final = STARTED | {
    "flow_run_id": "c0a8f6de-1f0b-4f6e-9a57-2f1de0f1f8a3", "kind": "verify", "job": "photos",
    "state": "failed", "state_name": "Failed", "deployment": None,
    "message": "photos: no backup of this job; known are documents",
    "started_at": "2026-11-21T10:15:00Z", "finished_at": "2026-11-21T10:15:01Z",
}  # fmt: skip
STATUS: Final[dict[str, Any]] = {
    "now": "2026-11-21T10:20:00Z",
    "health": {"status": "ok", "orchestrator": "ok", "jobs": {"good": 1}},
    "jobs": [_JOB | {"trend": []}],
    "active": [{"run": None, "progress": _AT_WORK}],
    "recent": [SUMMARY],
    "failed_early": [_FAILED_EARLY],
}
JOBS: Final[dict[str, Any]] = {"items": [_JOB]}
RUNS: Final[dict[str, Any]] = {
    "items": [SUMMARY], "next": "WzE3NjM3MjAxMDAsIjViMGZmN2FjIl0", "failed_early": [_FAILED_EARLY],
}  # fmt: skip
ERRORS: Final[dict[str, Any]] = {
    "items": [
        {"path": "docs/locked.db", "code": "unreadable", "message": "Permission denied"}
    ],
    "next": None,
}  # fmt: skip
_ARCHIVE_SUMMARY: Final[dict[str, Any]] = {
    "archive_id": 42, "run_id": _RUN, "job": "documents", "archive": _ARCHIVE, "format": "zip",
    "encrypted": False, "size": 41_000, "content_size": 120_000, "members": 5,
    "created_at": "2026-11-21T10:15:09Z", "is_leaving": False, "copies": 0, "last_check": None,
}  # fmt: skip
ARCHIVES: Final[dict[str, Any]] = {"items": [_ARCHIVE_SUMMARY], "next": None}
ARCHIVE: Final[dict[str, Any]] = {
    "summary": _ARCHIVE_SUMMARY,
    "volumes": [{"uri": _ARCHIVE, "size": 41_000, "sha256": "9f86d081…"}],
    "copies": [],
    "checks": [],
}
RUN: Final[dict[str, Any]] = {
    "run": {
        "summary": SUMMARY, "base_run": "6d1c2a90-7f0e-4f1b-8a53-3a1df1c55e02",
        "full_run": "11f0c1d6-58a4-4bd6-9d7b-0b3e6fd6f6f4", "is_snapshot": True, "tags": [],
        "options": {"format": "zip"}, "archive": ARCHIVE, "errors": 0,
        "stages": [
            {
                "name": "compress", "start_seconds": 0.0, "wall_seconds": 6.2,
                "busy_seconds": 23.4,
            },
            {
                "name": "upload", "start_seconds": 0.9, "wall_seconds": 7.8, "busy_seconds": 12.1
            },
        ],
    },
    "progress": STARTED | {"state": "completed", "state_name": "Completed"},
}  # fmt: skip
MEMBERS: Final[dict[str, Any]] = {
    "items": [
        {
            "path": "docs/letters/mum.txt", "name": "mum.txt", "type": "file", "size": 812,
            "mtime": "2026-11-20T18:03:11Z", "mode": "0644", "sha256": "2c26b46b…",
            "download": "/archives/42/members/docs/letters/mum.txt",
        }
    ],
    "next": None,
}  # fmt: skip
_LINE: Final[dict[str, Any]] = {
    "at": "2026-11-21T10:15:09.120000Z", "level": "info",
    "message": "documents: 5 files, 120 kB in 9 s", "flow_run_id": _FLOW_RUN,
    "cursor": "WyIyMDI2LTExLTIxIiwxXQ",
}  # fmt: skip
LOGS: Final[dict[str, Any]] = {"items": [_LINE], "next": _LINE["cursor"], "complete": True}
LOG_STREAM: Final = (
    'event: log\nid: WyIyMDI2LTExLTIxIiwxXQ\ndata: {"level":"info","message":"…"}\n\n'
    "event: end\ndata: {}\n\n"
)
METRICS: Final = (
    "# HELP pybak_job_newest_good_age_seconds How old the newest good backup is.\n"
    "# TYPE pybak_job_newest_good_age_seconds gauge\n"
    'pybak_job_newest_good_age_seconds{job="documents",kind="backup"} 291\n'
)
