"""Whole backups through a wire that fails: a verified archive, or one clear error and nothing left.

That each fault has happened is seen to by the fixture `faulty`.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT
from faults import Fault, FaultProxy
from s3_servers import REGION, SECOND_ON_SWIFT, S3Server
from storage.runs import (
    BY_RUN,
    BY_WORKERS,
    PIECE,
    VOLUMES,
    Place,
    make_source,
    nothing_here,
    run,
    short_pauses,
    small,
    verified,
)
from waiting import within

from pybak.backup.run import BackupRun
from pybak.backup.stretches import read_stretches
from pybak.errors import PyBakError

pytestmark = pytest.mark.needs_component("swift")
PART, BEGIN, END = "partNumber=", r"\?uploads", "uploadId="
EVER = 1_000_000
BROKEN: dict[str, Any] = {"status": 500, "code": "InternalError"}

# The first part that is put is the one with a wrong digest, by which the server is tried.
SURVIVED = {
    "503s on parts": Fault("status", "PUT", PART, skip=1, times=4),
    "500s on parts": Fault("status", "PUT", PART, skip=2, times=2, **BROKEN),
    "503s on the beginning": Fault("status", "POST", BEGIN, times=2),
    "500s on the beginning": Fault("status", "POST", BEGIN, times=2, **BROKEN),
    "503s on the end": Fault("status", "POST", END, times=2),
    "500s on the end": Fault("status", "POST", END, times=2, **BROKEN),
    "cuts in parts": Fault("cut_up", "PUT", PART, times=2, after=PIECE // 2),
    "a part that stalls": Fault("stall", "PUT", PART, skip=2),
    "a part that freezes half way": Fault("freeze_up", "PUT", PART, after=PIECE // 2),
    "a slow part": Fault("slow_up", "PUT", PART, skip=1, rate=2 * PIECE),
    "parts that arrive changed": Fault("corrupt_up", "PUT", PART, skip=1, times=2),
    "lost replies to parts": Fault("lose", "PUT", PART, skip=1, times=2),
    "a lost reply to the end": Fault("lose", "POST", END),
    "an end that is never answered": Fault("stall", "POST", END),
    "a corrupt reply to the end": Fault("corrupt", "POST", END),
}  # fmt: skip
FATAL = {
    "503s on parts": (Fault("status", "PUT", PART, skip=3, times=EVER), "too busy"),
    "500s on parts": (
        Fault("status", "PUT", PART, skip=3, times=EVER, **BROKEN),
        "the storage failed",
    ),
    "cuts in parts": (
        Fault("cut_up", "PUT", PART, skip=1, times=EVER, after=PIECE // 2),
        "can't be reached",
    ),
    "503s on the beginning": (Fault("status", "POST", BEGIN, times=EVER), "too busy"),
    "500s on the end": (
        Fault("status", "POST", END, times=EVER, **BROKEN),
        "the storage failed",
    ),
    "a quota on parts": (
        Fault("status", "PUT", PART, skip=3, times=EVER, status=403, code="QuotaExceeded"),
        "the storage is full; free space",
    ),
    "no space for parts": (
        Fault("status", "PUT", PART, skip=2, times=EVER, status=507, code="InsufficientStorage"),
        "the storage is full; free space",
    ),
    "no space at the end": (
        Fault("status", "POST", END, times=EVER, status=507, code="InsufficientStorage"),
        "the storage is full; free space",
    ),
    "rights that end": (
        Fault("status", "PUT", PART, skip=3, times=EVER, status=403, code="AccessDenied"),
        "grant s3:PutObject",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    short_pauses(monkeypatch)
    small(monkeypatch)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def proxy(swift: S3Server, faulty: Callable[[str], FaultProxy]) -> FaultProxy:
    return faulty(swift.endpoint)


@pytest.fixture
def place(swift: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(swift, proxy.endpoint, read_timeout_s=2)
    found.use(monkeypatch)
    return found


def workers_send(found: BackupRun) -> None:
    """See that there is something for them."""
    stretches = read_stretches(found.staging)
    assert stretches is not None
    assert len(stretches.all) >= 2


@pytest.mark.parametrize("name", SURVIVED)
def test_workers_get_over_what_passes(
    name: str, src: Path, tmp_path: Path, home: Path, place: Place, proxy: FaultProxy
) -> None:
    """(case 102)"""
    fault = proxy.arm(replace(SURVIVED[name]))
    done = run(src, place, before_reading=workers_send, **BY_WORKERS)
    assert fault.fired == fault.times
    place.holds_whole(done, src, tmp_path / "got")
    nothing_here(home)


FULL = pytest.mark.full
ALONE = [
    pytest.param(BY_RUN, id="zip"),
    pytest.param(VOLUMES, id="tar in volumes", marks=FULL),
]


@pytest.mark.parametrize("how", ALONE)
@pytest.mark.parametrize(
    "name",
    [
        "503s on parts",
        pytest.param("cuts in parts", marks=FULL),
        pytest.param("lost replies to parts", marks=FULL),
        "a lost reply to the end",
    ],
)
def test_a_run_that_sends_alone_gets_over_what_passes(
    name: str, how: dict[str, Any], src: Path, tmp_path: Path, home: Path, place: Place,
    proxy: FaultProxy,
) -> None:  # fmt: skip
    """(case 102)"""
    proxy.arm(replace(SURVIVED[name]))
    place.holds_whole(run(src, place, **how), src, tmp_path / "got")
    nothing_here(home)


def test_much_at_once_is_sat_out_too(
    src: Path, tmp_path: Path, home: Path, place: Place, proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A bad day: something goes wrong with every kind of request (case 102)."""
    place.use(monkeypatch, place.at(proxy.endpoint, attempts=6, rounds=4))
    for name in (
        "503s on the beginning", "cuts in parts", "lost replies to parts",
        "parts that arrive changed", "500s on the end",
    ):  # fmt: skip
        proxy.arm(replace(SURVIVED[name]))
    proxy.arm(Fault("lose", "POST", END))
    done = run(src, place, before_reading=workers_send, **BY_WORKERS)
    place.holds_whole(done, src, tmp_path / "got")
    nothing_here(home)


def fails(src: Path, place: Place, **how: Any) -> str:
    """Back up, which fails; give the one line that says why."""
    with pytest.raises(PyBakError) as raised:
        run(src, place, **how)
    said = str(raised.value)
    assert said.count("\n") == 0
    assert place.address in said
    return said


@pytest.mark.parametrize("name", FATAL)
def test_what_does_not_pass_ends_the_run_and_leaves_nothing(
    name: str, src: Path, home: Path, place: Place, proxy: FaultProxy
) -> None:
    """(cases 96, 102, 103)"""
    fault, says = FATAL[name]
    fault = proxy.arm(replace(fault))
    with within(30):
        assert says in fails(src, place, **BY_WORKERS)
    assert fault.fired < 100
    place.holds_nothing(home)


@pytest.mark.parametrize("how", ALONE)
@pytest.mark.parametrize("name", ["a quota on parts", "no space at the end"])
def test_a_full_store_is_told_and_works_when_there_is_room(
    name: str, how: dict[str, Any], src: Path, tmp_path: Path, home: Path, place: Place,
    proxy: FaultProxy,
) -> None:  # fmt: skip
    """Nothing is tried again meanwhile; the archive of an earlier run stays (case 96)."""
    earlier = place.at()
    from pybak.storage.body import BytesBody

    earlier.put("earlier.zip", BytesBody(b"earlier"))
    fault = proxy.arm(replace(FATAL[name][0]))
    assert "the storage is full" in fails(src, place, **how)
    assert 0 < fault.fired <= 6
    place.holds(1)
    nothing_here(home)
    fault.times = 0
    earlier.delete("earlier.zip")
    place.holds_whole(run(src, place, **how), src, tmp_path / "got")
    fault.fired = 1


def test_a_storage_that_is_gone_for_good_is_cleaned_up_when_it_is_back(
    src: Path, tmp_path: Path, home: Path, place: Place, proxy: FaultProxy
) -> None:
    """Not even the upload can be dropped then; it stays noted for the next run (case 102)."""
    fault = proxy.arm(Fault("status", skip=12, times=EVER, status=503))
    assert "too busy" in fails(src, place, **BY_WORKERS)
    assert fault.fired > 1
    assert place.uploads() == 1
    assert len(os.listdir(home / "uploads")) == 1
    assert not (home / "staging").exists() or os.listdir(home / "staging") == []
    fault.times = 0
    place.holds_whole(run(src, place, **BY_WORKERS), src, tmp_path / "got")
    nothing_here(home)


# Credentials and clocks


def test_wrong_credentials_end_a_run_within_seconds(
    src: Path, home: Path, place: Place, proxy: FaultProxy, swift: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """(case 104)"""
    wrong = replace(swift, secret="wrong")
    place.use(monkeypatch, place.at(proxy.endpoint, session=wrong.session))
    with within(5):
        assert "check AWS_ACCESS_KEY_ID" in fails(src, place, **BY_WORKERS)
    assert len(proxy.requests) == 1
    place.holds_nothing(home)


def test_credentials_that_expire_end_a_run_which_the_next_one_cleans_up(
    src: Path, tmp_path: Path, home: Path, place: Place, proxy: FaultProxy
) -> None:
    """Nothing can be taken back with them (case 104)."""
    fault = proxy.arm(
        Fault("status", skip=12, times=EVER, status=400, code="ExpiredToken")
    )  # fmt: skip
    assert "the credentials have expired; log in again" in fails(src, place, **BY_WORKERS)
    assert fault.fired < 20, "not tried again"
    assert len(os.listdir(home / "uploads")) == 1
    fault.times = 0
    place.holds_whole(run(src, place, **BY_WORKERS), src, tmp_path / "got")
    nothing_here(home)


def test_credentials_that_expire_are_renewed_in_the_middle_of_a_run(
    src: Path, tmp_path: Path, home: Path, place: Place, proxy: FaultProxy, swift: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """(case 104)"""
    start = datetime.now(UTC)
    renewed: list[int] = []

    def now() -> datetime:
        parts = sum(PART in one.target for one in proxy.requests)
        return start + timedelta(hours=2 if parts > 3 else 0)

    def session() -> Any:
        import boto3.session
        import botocore.session
        from botocore.credentials import RefreshableCredentials

        def renew() -> dict[str, str]:
            renewed.append(len(proxy.requests))
            key, secret = SECOND_ON_SWIFT
            until = (start + timedelta(hours=9)).isoformat()
            return {"access_key": key, "secret_key": secret, "token": "", "expiry_time": until}

        core = botocore.session.get_session()
        core._credentials = RefreshableCredentials(  # type: ignore[attr-defined]
            swift.key, swift.secret, "", start + timedelta(hours=1), renew, "test",
            time_fetcher=now,
        )  # fmt: skip
        return boto3.session.Session(botocore_session=core, region_name=REGION)

    place.use(monkeypatch, place.at(proxy.endpoint, session=session))
    done = run(src, place, before_reading=workers_send, **BY_WORKERS)
    place.holds_whole(done, src, tmp_path / "got")
    nothing_here(home)
    assert len(renewed) == 1
    signed = [
        one.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for one in proxy.requests if one.method == "PUT"
    ]  # fmt: skip
    assert [key for key, _ in itertools.groupby(signed)] == ["test:tester", "test:second"]


SKEWED = """
import sys
sys.path.insert(0, sys.argv[3])
from backing_up import back_up
from pybak.errors import StorageError
try: back_up(sys.argv[1], to=sys.argv[2])
except StorageError as error: sys.exit(str(error))
"""


@pytest.mark.needs_tool("faketime")
def test_a_clock_that_is_wrong_ends_a_run(src: Path, home: Path, s3_address: str) -> None:
    """(case 104)"""
    faketime = shutil.which("faketime")
    assert faketime is not None
    done = subprocess.run(
        [faketime, "-f", "+20m", sys.executable, "-c", SKEWED, src, s3_address,
         PROJECT / "tests"],
        capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "set the clock" in done.stderr
    assert done.stderr.count("\n") == 1
    nothing_here(home)


# Reading back


@pytest.mark.parametrize("skip", [3, pytest.param(5, marks=FULL)])
def test_a_check_gets_over_replies_that_arrive_changed(
    skip: int, src: Path, tmp_path: Path, place: Place, proxy: FaultProxy
) -> None:
    """(case 102)"""
    done = run(src, place, **BY_WORKERS)
    fault = proxy.arm(Fault("corrupt", "GET", r"\.zip$", skip=skip))
    assert verified(done.report.volumes[0].uri, tmp_path) == []
    assert fault.fired == 1


def test_a_check_names_what_lies_there_changed(
    src: Path, tmp_path: Path, place: Place, swift: S3Server
) -> None:
    """(case 59)"""
    done = run(src, place, **BY_WORKERS)
    name = done.report.volumes[0].uri.rpartition("/")[2]
    data = bytearray(place.fetch(name, tmp_path / "got").read_bytes())
    data[len(data) // 2] ^= 1
    swift.client().put_object(Bucket=place.bucket, Key=f"backups/{name}", Body=bytes(data))
    (bad,) = verified(done.report.volumes[0].uri, tmp_path)
    assert bad.startswith("src/f")
