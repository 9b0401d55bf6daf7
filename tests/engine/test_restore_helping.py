"""Helper processes restore what threads restore, and what ends one of them loses nothing."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import archives as forge
import msgspec
import psutil
import pytest
from backing_up import PASSWORD, back_up, noise, snapshot
from restoring import expected, tree

from pybak.clusters import HELPERS, THREADS
from pybak.errors import ArchiveError
from pybak.options import RestoreOptions
from pybak.report import RestoreReport
from pybak.restore.finish import finish, make_folders
from pybak.restore.helping import MODULE, BatchOrder, extract_hand
from pybak.restore.plan import RestorePlan
from pybak.restore.run import RestoreRun
from pybak.restore.snapshot import Share
from pybak.workers.messages import Call
from pybak.workers.pool import helping

FILES = 60


def restore_by_helpers(archive: Path, target: Path, password: bytes | None = None) -> RestoreReport:
    """Restore as the flow does it, two batches at once."""
    with RestoreRun(archive, str(target), RestoreOptions(workers=2)) as run:
        plan = run.plan(password)
        made = make_folders(plan)
        with helping(2, module=MODULE), ThreadPoolExecutor(2) as threads:
            hands = [
                threads.submit(extract_hand, run.staging, f"{number:03d}", batch, password=password)
                for number, batch in enumerate(plan.batches)
            ]
            outcomes = [hand.result() for hand in hands]
        assert outcomes
        assert (run.staging / "progress" / "000").exists()
        return run.report(plan, made, [*outcomes, finish(plan, password=password)])


@pytest.mark.parametrize("form", ["zip", "tar.zst"])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_helpers_restore_what_was_saved(tmp_path: Path, form: str, password: bytes | None) -> None:
    source = tmp_path / "src"
    for number in range(FILES):
        path = source / f"d{number % 7}" / os.fsdecode(b"f%d \xff\xe4" % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number * 700))
    os.link(source / "d0" / os.listdir(source / "d0")[0], source / "other name")
    os.symlink("d1", source / "link")
    made = back_up(source, to=tmp_path / "store", format=form, password=password)
    report = restore_by_helpers(made.files[0], tmp_path / "target", password)
    assert (report.status, report.files.restored) == ("success", FILES + 2)
    assert snapshot(tmp_path / "target" / "src") == snapshot(source)


def test_a_damaged_member_and_a_missing_archive_come_back_from_helpers_as_they_were(
    zip_path: Path, target: Path
) -> None:
    members = [forge.file(b"good", b"good"), forge.file(b"bad", b"bad", crc=1)]
    forge.write(zip_path, members)
    report = restore_by_helpers(zip_path, target)
    assert report.status == "partial"
    assert [os.path.basename(one.path) for one in report.errors] == ["bad"]
    assert tree(target).keys() == {b"good"}

    def replaced_meanwhile() -> None:
        with RestoreRun(zip_path, str(target), RestoreOptions(overwrite="always")) as run:
            plan = run.plan()
            make_folders(plan)
            shutil.copy(zip_path, zip_path.with_suffix(".new"))
            os.replace(zip_path.with_suffix(".new"), zip_path)
            with helping(1, module=MODULE):
                extract_hand(run.staging, "000", plan.batches[0], password=None)

    with pytest.raises(ArchiveError, match="changed while it was restored"):
        replaced_meanwhile()


def test_the_batch_of_a_helper_that_is_killed_is_done_by_another(
    zip_path: Path, target: Path
) -> None:
    """Nothing of the first try is left (case 95)."""
    members = [forge.file(b"f%02d" % number, noise(3_000_000)) for number in range(30)]
    forge.write(zip_path, members, with_manifest=True)
    with RestoreRun(zip_path, str(target), RestoreOptions(workers=1)) as run:
        plan = run.plan()
        made = make_folders(plan)
        with helping(1, module=MODULE), ThreadPoolExecutor(1) as threads:
            hand = threads.submit(_all, run, plan)
            while not any(target.glob("f*")):
                time.sleep(0.002)
            (victim,) = [
                child for child in psutil.Process().children() if MODULE in child.cmdline()
            ]
            victim.kill()
            outcomes = hand.result(60)
        report = run.report(plan, made, [*outcomes, finish(plan)])
    assert report.status == "success"
    assert tree(target) == expected(members)


def _all(run: RestoreRun, plan: RestorePlan) -> list:  # type: ignore[type-arg]
    return [
        extract_hand(run.staging, f"{number:03d}", batch, password=None)
        for number, batch in enumerate(plan.batches)
    ]


def test_a_request_to_stop_reaches_helpers(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"f%02d" % number, noise(3_000_000)) for number in range(30)]
    forge.write(zip_path, members)
    with RestoreRun(zip_path, str(target), RestoreOptions(workers=1)) as run:
        plan = run.plan()
        make_folders(plan)
        with helping(1, module=MODULE), ThreadPoolExecutor(1) as threads:
            hand = threads.submit(_all, run, plan)
            while not any(target.glob("f*")):
                time.sleep(0.002)
            run.request_cancel()
            assert any(outcome.stopped for outcome in hand.result(60))
    assert {path.read_bytes() for path in target.iterdir()} <= {member.data for member in members}


def test_an_order_does_not_show_its_password() -> None:
    order = BatchOrder(b"/staging", "000", b"/batch", b"correct horse")
    assert "horse" not in repr(order)
    assert "horse" not in repr(Call(function="a:b", argument=b"correct horse"))


@pytest.mark.parametrize(
    ("volumes", "cluster"),
    [((b"/store/a.zip",), HELPERS), ((b"s3://store/a.zip",), THREADS)],
)
def test_helpers_read_no_archive_elsewhere(
    zip_path: Path, volumes: tuple[bytes, ...], cluster: str
) -> None:
    """They have no credentials."""
    forge.write(zip_path, [forge.file(b"a", b"x")])
    with RestoreRun(zip_path, "/target", RestoreOptions()) as run:
        plan = msgspec.structs.replace(run.plan(), files=20_000, size=1 << 30)
    with RestoreRun([Share("a.zip", volumes)], "/target", RestoreOptions(workers=2)) as run:
        assert run.cluster(plan) == cluster
