"""What a run to a slow storage takes on the disk and in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT
from faults import Fault, FaultProxy
from s3_servers import S3Server
from storage.runs import BY_RUN, BY_WORKERS, VOLUMES, Place, make_source, nothing_here

from pybak.backup.shipping import LEAST_STAGING_LIMIT

FULL = pytest.mark.full
pytestmark = pytest.mark.needs_component("swift")
TOLERANCE = 1.1
"""Of the limit: what batches grow by, and the small files of lists and records."""
MEMORY = 350 << 20
"""Python, the SDK and this engine take some 100 MB of it before the first part."""

WATCHED = """
import json, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import pytest
from backing_up import back_up
from storage.runs import small
if sys.argv[6] == "small":
    patch = pytest.MonkeyPatch()
    small(patch)
    patch.setattr("pybak.backup.shipping.LEAST_STAGING_LIMIT", 0)
peak, done = 0, threading.Event()

def measure():
    global peak
    while not done.wait(0.005):
        total = 0
        for path in Path(sys.argv[3], "staging").rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                pass
        peak = max(peak, total)

thread = threading.Thread(target=measure)
thread.start()
try:
    report = back_up(sys.argv[1], to=sys.argv[2], **json.loads(sys.argv[5])).report
finally:
    done.set()
    thread.join()
status = Path("/proc/self/status").read_text()
memory = int(status.partition("VmHWM:")[2].split()[0]) << 10
print(json.dumps({"peak": peak, "memory": memory, "stored": report.bytes_stored}))
"""


def watch(
    tmp_path: Path, swift: S3Server, proxy: FaultProxy, *, files: int, limit: int,
    how: dict[str, Any], sizes: str,
) -> None:  # fmt: skip
    """Back up so many MB in a process of its own, and see what it takes."""
    (tmp_path / "from").mkdir()
    src = make_source(tmp_path / "from", files)
    place, home = Place(swift, proxy.endpoint), tmp_path / "home"
    env = os.environ | swift.environment() | {
        "AWS_ENDPOINT_URL_S3": proxy.endpoint, "PYBAK_HOME": str(home),
        "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    options = {"chunk_size": 4, "staging_limit": str(limit), **how}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, src, place.address, home, PROJECT / "tests",
         json.dumps(options), sizes],
        env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["stored"] > 2 * limit
    assert limit * 0.3 < found["peak"] <= limit * TOLERANCE, found
    assert found["memory"] < MEMORY, found
    nothing_here(home)


@pytest.mark.parametrize(
    "how", [pytest.param(BY_RUN, id="zip"), pytest.param(VOLUMES, id="volumes", marks=FULL)]
)
def test_a_run_that_sends_alone_stays_below_its_limits(
    how: dict[str, Any], tmp_path: Path, swift: S3Server, faulty: Callable[[str], FaultProxy]
) -> None:
    """Compressing waits for sending (case 65)."""
    proxy = faulty(swift.endpoint)
    proxy.arm(Fault("slow_up", "PUT", times=1_000_000, rate=3_000_000))
    watch(tmp_path, swift, proxy, files=64, limit=32_000_000, how=how, sizes="small")


@FULL
def test_workers_that_send_stay_below_the_smallest_limit(
    tmp_path: Path, swift: S3Server, faulty: Callable[[str], FaultProxy]
) -> None:
    """With parts and stretches of their real sizes (case 65)."""
    proxy = faulty(swift.endpoint)
    proxy.arm(Fault("slow_up", "PUT", times=1_000_000, rate=6_000_000))
    watch(
        tmp_path, swift, proxy, files=170, limit=LEAST_STAGING_LIMIT, how=BY_WORKERS, sizes="real"
    )
