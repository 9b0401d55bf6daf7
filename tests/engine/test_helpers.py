"""Helper processes: they do what threads do, and no end of theirs or of the run leaves a mess."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from backing_up import PASSWORD, judge, prose
from commands import PROJECT
from waiting import wait_for, within

from pybak import staging
from pybak.backup.batches import index_path, job_path
from pybak.backup.hands import Hand
from pybak.backup.plan import BackupPlan
from pybak.backup.run import BackupRun
from pybak.errors import Interrupted, NotFoundError, PlanError, StorageError
from pybak.options import BackupOptions
from pybak.workers import helper, pool
from pybak.workers.compress import compress_hand
from pybak.workers.messages import Answer, HelperError, Order, answer_of, good_or_raise
from pybak.workers.pool import HelperPool, HelpersUnavailableError, helping

FILES = 40


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Give files that the slowest level takes a second for; on disk they are one."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "00").write_bytes(prose(500_000))
    for number in range(1, FILES):
        os.link(folder / "00", folder / f"{number:02d}")
    return folder


@pytest.fixture
def run(src: Path, tmp_path: Path) -> Iterator[BackupRun]:
    """Give a run in batches of two files."""
    options = BackupOptions(level=9, chunk_size=2, workers=2)
    with BackupRun(
        [str(src)], output=str(tmp_path / "out.zip"), to=None, job=None, options=options
    ) as made:
        yield made


def planned(run: BackupRun) -> BackupPlan:
    run.choose_base(None)
    return run.plan(run.filter(run.discover()))


def order(run: BackupRun, hand: Hand, password: bytes | None = None) -> Order:
    return Order(
        folder=os.fsencode(run.staging), progress=os.fsencode(run.staging / "progress/x"),
        start=hand.start, stop=hand.stop, step=hand.step, password=password,
    )  # fmt: skip


def helpers_of(process: int | None = None) -> list[psutil.Process]:
    """List the helper processes of a process, of this one by default."""
    found = []
    for child in psutil.Process(process).children():
        try:
            if any(pool._CODE in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            pass
    return found


def finish(run: BackupRun, done: list[Future[int]]) -> None:
    """Wait for all hands, lay the archive together, and have it judged."""
    with run.assembling() as archive:
        for one in done:
            one.result()
        kept = run.filter(run.discover())
        assembly = archive.finish(run.header(), run.owner_names(), run.conclude(kept))
    stored = run.publish(assembly, 0)
    assert assembly.files == FILES
    judge(Path(stored.path), ["unzip"])


def test_helpers_do_what_threads_do(run: BackupRun) -> None:
    plan = planned(run)
    progress = run.staging / "progress"
    with helping(2) as helpers, ThreadPoolExecutor(2) as threads:
        assert helpers is pool.current_pool()
        done = [
            threads.submit(compress_hand, run.staging, hand, progress / str(n), password=None)
            for n, hand in enumerate(plan.hands)
        ]
        assert sum(one.result() for one in done) == plan.batches
        assert len(helpers_of()) == 2
    assert pool.current_pool() is None
    assert helpers_of() == []
    assert len(list(progress.iterdir())) == len(plan.hands)
    finish(run, done)


def test_the_work_of_a_helper_that_is_killed_is_done_by_another(run: BackupRun) -> None:
    plan = planned(run)
    with HelperPool(1) as helpers, ThreadPoolExecutor(1) as threads:
        done = threads.submit(helpers.compress, order(run, Hand(0, plan.batches, 1)))
        wait_for(lambda: index_path(run.staging, 1).exists())
        (victim,) = helpers_of()
        before = index_path(run.staging, 1).stat()
        victim.kill()
        assert done.result(60) == plan.batches
        assert victim not in helpers_of()
        after = index_path(run.staging, 1).stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    finish(run, [done])


DEADLY = """
import os, sys
sys.stdin.readline()
print("{}", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


def test_work_that_kills_every_helper_ends_in_an_error(
    run: BackupRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(run)
    monkeypatch.setattr(pool, "_CODE", DEADLY)
    with HelperPool(1) as helpers:
        with pytest.raises(HelperError, match=r"ended 3 times .*signal 9.*--workers"):
            helpers.compress(order(run, Hand(0, 1, 1)))
        assert helpers_of() == []


def test_errors_come_back_as_they_were(run: BackupRun) -> None:
    planned(run)
    with HelperPool(1) as helpers:
        staging.request_cancel(run.staging)
        with pytest.raises(Interrupted):
            helpers.compress(order(run, Hand(0, 1, 1)))
        gone = Order(folder=b"/nonexistent/\xff", progress=b"/x", start=0, stop=1, step=1)
        with pytest.raises(StorageError, match="/nonexistent/\udcff: is not there"):
            helpers.compress(gone)
        job_path(run.staging).write_bytes(b"\xc1")  # no message begins like this
        with pytest.raises(HelperError, match="a helper process failed: DecodeError: ") as it:
            helpers.compress(order(run, Hand(0, 1, 1)))
        assert "compress_batches" in str(it.value.__cause__)
        assert len(helpers_of()) == 1


@pytest.mark.parametrize(
    "error", [PlanError("a"), NotFoundError("b\udcff"), StorageError("c", retryable=True)]
)
def test_every_family_of_errors_survives(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        good_or_raise(answer_of(error))
    assert type(found.value) is type(error)
    assert str(found.value) == str(error)
    assert getattr(found.value, "retryable", None) is getattr(error, "retryable", None)


def test_what_is_none_of_ours_is_told_in_one_line() -> None:
    answer = answer_of(ValueError("one\ntwo"))
    with pytest.raises(HelperError, match=r"^a helper process failed: ValueError: one$"):
        good_or_raise(answer)


def test_a_password_goes_through_the_pipe_alone(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not through a command line, an environment or a file."""
    monkeypatch.setenv("PYBAK_PASSWORD", PASSWORD.decode())
    with (
        BackupRun(
            [str(src)], output=str(tmp_path / "out.zip"), to=None, job=None,
            options=BackupOptions(chunk_size=4), password=PASSWORD,
        ) as run,
        HelperPool(1) as helpers,
    ):  # fmt: skip
        plan = planned(run)
        with run.assembling():
            with pytest.raises(PlanError, match="another password"):
                helpers.compress(order(run, Hand(0, 1, 1), b"wrong"))
            with pytest.raises(PlanError, match="a password is needed"):
                helpers.compress(order(run, Hand(0, 1, 1)))
            whole = order(run, Hand(0, plan.batches, 1), PASSWORD)
            assert helpers.compress(whole) == plan.batches
            assert "horse" not in repr(whole)
        (one,) = helpers_of()
        assert "horse" not in " ".join(one.cmdline()) + " ".join(one.environ().values())
        for path in run.staging.rglob("*"):
            assert path.is_dir() or PASSWORD not in path.read_bytes()


def test_ctrl_c_and_a_hangup_of_the_terminal_do_not_reach_helpers(run: BackupRun) -> None:
    planned(run)
    with HelperPool(1) as helpers:
        assert helpers.compress(order(run, Hand(0, 1, 1))) == 1
        (one,) = helpers_of()
        assert os.getpgid(one.pid) != os.getpgid(0)
        one.send_signal(signal.SIGINT)
        assert helpers.compress(order(run, Hand(1, 2, 1))) == 1
        assert helpers_of() == [one]


def test_closing_ends_helpers_that_are_at_work_at_once(run: BackupRun) -> None:
    plan = planned(run)
    with ThreadPoolExecutor(1) as threads, HelperPool(2) as helpers:
        done = threads.submit(helpers.compress, order(run, Hand(0, plan.batches, 1)))
        wait_for(lambda: index_path(run.staging, 0).exists())
        with within(1):
            helpers.close()
            with pytest.raises(Interrupted):
                done.result(10)
        assert helpers_of() == []
        with pytest.raises(Interrupted):
            helpers.compress(order(run, Hand(0, 1, 1)))


PARENT = """
import sys, threading
from pybak.workers.pool import HelperPool
from pybak.workers.messages import Order
folder, stop = sys.argv[1].encode(), int(sys.argv[2])
helpers = HelperPool(2)
order = Order(folder=folder, progress=folder + b"/progress/x", start=0, stop=stop, step=1)
helpers.compress(order)
"""


def test_helpers_go_when_the_run_is_killed(run: BackupRun) -> None:
    """One that is at work, and one that has nothing to do (case 93)."""
    plan = planned(run)
    words = [sys.executable, "-c", PARENT, str(run.staging), str(plan.batches)]
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(PROJECT)}) as parent:
        wait_for(lambda: index_path(run.staging, 0).exists())
        helpers = helpers_of(parent.pid)
        assert len(helpers) == 2
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs(helpers, timeout=5)
        assert (len(gone), alive) == (2, [])
    assert not index_path(run.staging, plan.batches - 1).exists()


def test_without_helpers_there_is_an_error_at_once() -> None:
    with pytest.raises(HelpersUnavailableError, match="no helper process can be started"):
        HelperPool(1, python="/nonexistent/python")


def test_where_helpers_do_not_start_the_thread_does_the_work(
    run: BackupRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, and does not try again."""
    plan = planned(run)
    monkeypatch.setattr(pool, "_CODE", "raise SystemExit(7)")
    with helping(1):
        for number in range(2):
            hand = Hand(number, plan.batches, 2)
            done = compress_hand(run.staging, hand, run.staging / "progress/x", password=None)
            assert done == len(hand.batches())
    (message,) = caplog.messages
    assert message == "a helper process ended at its start (exit status 7); using threads"


def test_a_helper_answers_what_is_no_order() -> None:
    """It goes on afterwards."""
    answers = io.BytesIO()
    ended = threading.Event()
    orders = io.BytesIO(b"nonsense\n{}\n")

    def leave(_status: int) -> None:
        ended.set()

    thread = threading.Thread(target=helper.serve, args=(orders, answers, leave), daemon=True)
    thread.start()
    assert ended.wait(5)
    wait_for(lambda: answers.getvalue().count(b"\n") == 2)
    assert b"DecodeError" in answers.getvalue()
    assert b"ValidationError" in answers.getvalue()
    assert Answer() == Answer(done=0)


def test_a_helper_calls_a_function_of_the_engine() -> None:
    with HelperPool(1, module="pybak.mirror.helping") as helpers:
        assert helpers.call("posixpath:basename", b"/a/b\xff") == b"b\xff"
        with pytest.raises(HelperError, match=r"DecodeError|ValidationError"):
            helpers.call("pybak.mirror.helping:copy_order", b"\xc1")
        assert helpers.call("posixpath:dirname", b"/a/b") == b"/a"
