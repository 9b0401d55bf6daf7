"""Figures in Prometheus' text format 0.0.4: gauges only, for a catalog remembers and this doesn't.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from pybak.overview.facts import STATES, JobState

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[dict[str, str], float]

_HELP: Final = {
    "pybak_up": "Whether the orchestrator answers.",
    "pybak_job_state": "1 for the state that a job is in, 0 for the others.",
    "pybak_job_newest_good_timestamp_seconds": "When the newest good backup ended.",
    "pybak_job_newest_good_age_seconds": "How old the newest good backup is.",
    "pybak_job_next_run_timestamp_seconds": "When the next run is due.",
    "pybak_job_failures": "Runs that went wrong since the last good one.",
    "pybak_job_archives": "How many archives a job has.",
    "pybak_job_stored_bytes": "What the archives of a job take.",
    "pybak_job_running": "Whether a run of the job is at work.",
    "pybak_job_last_run_status": "1, with the status of the last run as a label.",
    "pybak_job_last_run_timestamp_seconds": "When the last run began.",
    "pybak_job_last_run_duration_seconds": "How long the last run took.",
    "pybak_job_last_run_read_bytes": "The size of what the last run's archive holds.",
    "pybak_job_last_run_archive_bytes": "The size of the last run's archive.",
    "pybak_job_last_run_files": "Files of the last run, by what became of them.",
}


def exposition(jobs: Iterable[JobState], now: datetime, *, orchestrator_answers: bool) -> str:
    """Give the figures of all jobs at one moment."""
    found: dict[str, list[Sample]] = {name: [] for name in _HELP}
    found["pybak_up"].append(({}, float(orchestrator_answers)))
    for job in jobs:
        for name, labels, value in _of_job(job, now):
            if value is not None:
                found[name].append(({"job": job.name, "kind": job.kind, **labels}, float(value)))
    lines: list[str] = []
    for name, samples in found.items():
        if samples:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _of_job(job: JobState, now: datetime) -> Iterator[tuple[str, dict[str, str], float | None]]:
    for state in STATES:
        yield "pybak_job_state", {"state": state}, float(state == job.state)
    yield "pybak_job_failures", {}, job.failures
    yield "pybak_job_archives", {}, job.archives
    yield "pybak_job_stored_bytes", {}, job.size_bytes
    yield "pybak_job_running", {}, float(job.running is not None)
    if (good := job.newest_good) is not None:
        yield "pybak_job_newest_good_timestamp_seconds", {}, good.finished_at.timestamp()
        age = max(0.0, (now - good.finished_at).total_seconds())
        yield "pybak_job_newest_good_age_seconds", {}, age
    if job.next_run is not None:
        yield "pybak_job_next_run_timestamp_seconds", {}, job.next_run.timestamp()
    if (last := job.last_run) is not None:
        yield "pybak_job_last_run_status", {"status": last.status}, 1.0
        yield "pybak_job_last_run_timestamp_seconds", {}, last.started_at.timestamp()
        yield "pybak_job_last_run_duration_seconds", {}, last.duration_seconds
        yield "pybak_job_last_run_read_bytes", {}, last.bytes_read
        yield "pybak_job_last_run_archive_bytes", {}, last.bytes_stored
        for what, count in last.files.items():
            if isinstance(count, int | float) and not isinstance(count, bool):
                yield "pybak_job_last_run_files", {"what": what}, count


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    # The format is UTF-8: a name's other bytes become question marks.
    plain = text.encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
