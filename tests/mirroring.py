"""Mirrors by the engine alone, without Prefect, and what judges them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from walker import walk

from pybak.home import catalog_url
from pybak.mirror.helping import mirror_hand
from pybak.mirror.plan import MirrorPlan
from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions
from pybak.report.mirror import MirrorReport

NOBODY = 65534
LONG_AGO = 1_600_000_000_123_456_789


def mirror(
    source: Path,
    target: Path,
    *,
    between: Callable[[MirrorPlan], object] = lambda _plan: None,
    ahead: bool = False,
    **options: Any,
) -> MirrorReport:
    """Do a whole mirror as the flow does; `between` is called before anything is copied.

    With `ahead` it begins as the command does.
    """
    chosen = MirrorOptions(**options)
    with MirrorRun(str(source), str(target), chosen) as run:
        if ahead:
            assert run.compare_ahead(catalog_url())
        plan = run.compare()
        if chosen.dry_run:
            return run.rehearse(plan)
        between(plan)
        if plan.is_nothing:
            return run.report(plan, [])
        run.prepare(plan)
        run.cluster(plan)
        with ThreadPoolExecutor(run.workers) as threads:
            futures = [
                threads.submit(mirror_hand, run.staging, f"{number:04d}", hand)
                for number, hand in enumerate(plan.hands)
            ]
            outcomes = [future.result() for future in futures]
        return run.report(plan, [*outcomes, run.finish(plan, outcomes)])


def done(report: MirrorReport) -> dict[str, int]:
    """Give the counts that are not 0, the total apart."""
    return {
        name: count for name, count in report.files.to_json().items() if count and name != "total"
    }


def errors(report: MirrorReport) -> dict[str, str]:
    """Give the code of each path that failed."""
    return {problem.path: problem.code for problem in report.errors}


def assert_mirrored(source: Path, target: Path) -> None:
    """See that both hold the same with all metadata, and look the same themselves."""
    here, there = walk(source), walk(target)
    assert there == here
    one, other = source.stat(), target.stat()
    assert (other.st_mode, other.st_mtime_ns) == (one.st_mode, one.st_mtime_ns)


def assert_rsync_agrees(source: Path, target: Path) -> None:
    """Have rsync look for differences by content and metadata; it may find none."""
    command = ["rsync", "-aHAXnic", "--delete", f"{source}/", f"{target}/"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == ""


def put(path: Path, content: bytes | str = b"x", *, mtime_ns: int = LONG_AGO) -> Path:
    """Write a file with a time of its own, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path
