"""How many workers a run gets, and what a memory limit leaves of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybak.errors import PlanError
from pybak.formats.streams import memory_bytes
from pybak.resources import (
    FLOW_BYTES,
    HELPER_BYTES,
    PROCESS_BYTES,
    WORKER_BUFFER_BYTES,
    default_workers,
    share_memory,
    usable_cpus,
)


@pytest.mark.parametrize(
    ("cpus", "workers"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (9, 8), (64, 8)]
)
def test_all_processors_up_to_three_then_one_less_at_most_eight(cpus: int, workers: int) -> None:
    assert default_workers(cpus, {}) == workers


def test_the_most_can_be_raised_and_lowered() -> None:
    assert default_workers(64, {"PYBAK_MAX_WORKERS": "40"}) == 40
    assert default_workers(64, {"PYBAK_MAX_WORKERS": "1"}) == 1
    for wrong in ("0", "-1", "many", ""):
        with pytest.raises(PlanError, match="PYBAK_MAX_WORKERS"):
            default_workers(64, {"PYBAK_MAX_WORKERS": wrong})


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu.max": "nonsense"}, 16),
        ({}, 16),
    ],
)
def test_a_container_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], want: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cpus(tmp_path) == want


def test_affinity_counts() -> None:
    assert usable_cpus(Path("/nonexistent")) == len(os.sched_getaffinity(0))


def test_a_memory_limit_takes_processes_first_and_then_workers() -> None:
    per_process = PROCESS_BYTES + WORKER_BUFFER_BYTES
    assert share_memory(4, None) == share_memory(4, FLOW_BYTES + 4 * per_process)
    less = share_memory(4, FLOW_BYTES + 4 * per_process - 1)
    assert (less.workers, less.processes_fit, less.helpers_fit) == (4, False, True)
    per_helper = HELPER_BYTES + WORKER_BUFFER_BYTES
    assert share_memory(4, FLOW_BYTES + 4 * per_helper).helpers_fit
    least = share_memory(4, FLOW_BYTES + 4 * per_helper - 1)
    assert (least.workers, least.helpers_fit) == (4, False)
    assert share_memory(4, FLOW_BYTES + 2 * WORKER_BUFFER_BYTES).workers == 2
    assert share_memory(4, FLOW_BYTES + WORKER_BUFFER_BYTES).workers == 1


def test_a_limit_too_small_for_one_thread_is_refused_with_the_least() -> None:
    with pytest.raises(PlanError, match=r"too little to run; give 279 MB or more"):
        share_memory(1, FLOW_BYTES + WORKER_BUFFER_BYTES - 1)


def test_a_compressor_that_takes_more_leaves_room_for_fewer_workers() -> None:
    limit = FLOW_BYTES + 4 * WORKER_BUFFER_BYTES
    more = memory_bytes("tar.zst", 9)
    assert share_memory(4, limit).workers == 4
    assert share_memory(4, limit + more, more_bytes=more).workers < 4
    with pytest.raises(PlanError, match="too little"):
        share_memory(4, FLOW_BYTES + WORKER_BUFFER_BYTES, more_bytes=more)
