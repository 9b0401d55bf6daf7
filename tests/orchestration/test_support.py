"""What stands around the flows: finding a server, fanning out, ending as people expect."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import PROJECT
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger
from prefect.states import Completed
from pydantic import BaseModel, model_serializer
from waiting import wait_for

import tasks.email_report as email_report_module
from flows.support import cluster, fan_out, interrupt, record, resolved, server, session, states
from flows.support.interrupt import stop_at_once_on_signal, stop_on_signal
from flows.support.screen import Screen
from pybak.cli import View
from pybak.errors import ExitCode, Interrupted, PlanError, StorageError
from pybak.portable import from_portable, to_portable
from pybak.progress_line import ProgressLine
from pybak.report import CANCELLED, FAILED, BackupReport
from pybak.workers.pool import COMPRESSING, HelpersUnavailableError, current_pool

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1068 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid} 0 1 1
"""


@pytest.mark.parametrize(
    ("state", "uid", "own"),
    [("0A", os.geteuid(), True), ("0A", 0, True), ("0A", 4711, False), ("01", 0, False)],
)
def test_only_an_own_listener_is_trusted(tmp_path: Path, state: str, uid: int, own: bool) -> None:
    table = tmp_path / "tcp"
    table.write_text(TABLE.format(state=state, uid=uid))
    assert server.is_own_listener(4200, table) is own
    assert not server.is_own_listener(4201, table)
    assert not server.is_own_listener(4200, tmp_path / "missing")


def test_the_address_in_the_active_profile_is_used(tmp_path: Path, prefect_server: str) -> None:
    (tmp_path / "profiles.toml").write_text(
        f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{prefect_server}"\n[profiles.b]\n'
    )
    environ = {"PREFECT_HOME": str(tmp_path)}
    assert server.find_server(environ, "0") == prefect_server
    assert server.find_server(environ | {"PREFECT_PROFILE": "b"}, "0") is None


def test_a_named_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(server.ServerError, match="no Prefect server answers"):
        server.find_server({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "0")


def test_a_home_that_can_not_be_written_is_told_and_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "file").touch()
    for _ in range(2):
        with pytest.raises(server.ServerError, match="set PYBAK_HOME"):
            server.TemporaryServer(tmp_path / "file" / "log")


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_every_path_survives_a_flow_parameter(raw: bytes) -> None:
    path = os.path.abspath(os.fsdecode(b"/" + raw))
    portable = to_portable(path)
    portable.encode("utf-8")
    assert os.path.abspath(from_portable(portable)) == path


def test_a_path_that_was_judged_is_refused_when_a_link_came_into_its_way(
    tmp_path: Path,
) -> None:
    """As the restore of another request may make one."""
    inner = tmp_path / "root" / "later"
    paths = {"to": str(inner), "sources": ["s3://bucket/x", str(tmp_path)], "output": None}
    tags = resolved.resolved_tags({"to": str(inner), "sources": ["/"], "job": "x"})
    resolved.check_resolved(tags, paths)
    inner.parent.mkdir()
    inner.symlink_to(tmp_path)
    with pytest.raises(PlanError, match="a link has come into its way"):
        resolved.check_resolved(tags, paths)
    resolved.check_resolved(["api"], paths)  # what a deployment says may lead anywhere


def test_worker_processes_talk_over_tls() -> None:
    """Other users of the machine must not be able to run code in them."""
    cluster.choose("processes", 1)
    with cluster.start_cluster() as started:
        assert started.scheduler_address.startswith("tls://127.0.0.1:")


def test_with_helpers_the_cluster_has_threads_of_this_process() -> None:
    cluster.choose("helpers", 2)
    with cluster.start_cluster() as started:
        assert started.scheduler_address.startswith("inproc://")


def test_where_no_helper_can_be_started_threads_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_count: int, *, module: str) -> None:
        assert module == COMPRESSING
        raise HelpersUnavailableError("no helper process can be started: no memory")

    monkeypatch.setattr(fan_out, "helping", refuse)
    screen: Any = Screenless()
    with disable_run_logger(), fan_out._helpers("helpers", 2, screen):
        assert current_pool() is None
    assert screen.warnings == ["no helper process can be started: no memory; using threads"]


def test_helpers_are_there_while_their_tasks_run_and_no_longer() -> None:
    screen: Any = Screenless()
    for kind, there in (("helpers", True), ("threads", False), ("processes", False)):
        with fan_out._helpers(kind, 2, screen):
            assert (current_pool() is not None) == there
        assert current_pool() is None
    assert screen.warnings == []


def test_a_scheduler_without_workers_is_told(tmp_path: Path) -> None:
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port",
         "0", "--no-dashboard", "--scheduler-file", str(tmp_path / "s.json")],
        stderr=subprocess.DEVNULL, cwd=tmp_path,
    )  # fmt: skip
    try:
        told = tmp_path / "s.json"
        wait_for(lambda: told.exists() and told.read_text(), 30)
        address = json.loads(told.read_text())["address"]
        cluster.choose(address, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "_WORKERS_SECONDS", 0.3)
            with pytest.raises(cluster.ClusterError, match="has no workers"):
                cluster.start_cluster().__enter__()
    finally:
        scheduler.terminate()
        scheduler.wait()


class StuckFuture:
    """A Dask future that never gets a worker."""

    def __init__(self) -> None:
        self.cancelled = False
        self.wrapped_future = SimpleNamespace(
            done=lambda: False, cancel=self.cancel, add_done_callback=lambda _tell: None
        )

    def cancel(self) -> None:
        self.cancelled = True


def test_what_is_stuck_is_cancelled_once_someone_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fan_out, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(fan_out, "_PATIENCE_SECONDS", 0.3)
    future = StuckFuture()
    asked = iter([False, False])
    with pytest.raises(Interrupted):
        fan_out._wait(future, lambda: next(asked, True))
    assert future.cancelled


class SlowToFetch:
    """A Dask future whose result takes longer to come over than the wait for it is patient."""

    def __init__(self) -> None:
        self.fetched = 0
        self._is_done = threading.Event()
        self.wrapped_future = SimpleNamespace(
            done=self._is_done.is_set, cancel=None, add_done_callback=self._tell_later
        )

    def _tell_later(self, tell: Callable[[None], None]) -> None:
        threading.Timer(0.1, lambda: (self._is_done.set(), tell(None))).start()

    def wait(self, timeout: float) -> None:
        self.fetched += 1
        self._is_done.wait(timeout)


def test_waiting_for_a_task_does_not_fetch_its_result() -> None:
    """Giving up while it comes over, as a busy machine may make one do, would lose it."""
    future = SlowToFetch()
    fan_out._wait(future, lambda: False)
    assert future.fetched == 0


def test_a_report_that_can_not_be_left_does_not_fail_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("500")

    monkeypatch.setattr(email_report_module, "create_markdown_artifact", refuse)
    with disable_run_logger():
        email_report_module.email_report.fn("backup-report", BackupReport(status="success"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("disk full\nmore"), FAILED),
        (Interrupted("stopped"), CANCELLED),
        (KeyboardInterrupt(), CANCELLED),
        (ZeroDivisionError("a bug"), FAILED),
    ],
)
def test_every_end_is_recorded(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    """No run stays open in the catalog, whatever ended it."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(record, "record_metadata", lambda _recorder, **how: told.update(how))
    recorder: Any = SimpleNamespace(problem=None, run_id="1", job="docs")
    before = datetime.now(UTC)
    with (
        disable_run_logger(),
        pytest.raises(type(error)),
        record.failure_recorded(recorder, Screenless()),
    ):
        raise error
    assert told["status"] == status
    assert "\n" not in told["message"]
    assert before <= told["now"] <= datetime.now(UTC)


class Screenless:
    """Takes warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_catalog_that_can_not_be_used_is_told() -> None:
    screen = Screenless()
    recorder: Any = SimpleNamespace(
        problem="x.db: the catalog can't be used", run_id="1", job="docs"
    )
    with disable_run_logger(), record.failure_recorded(recorder, screen):
        pass
    (warning,) = screen.warnings
    assert warning.startswith("x.db: ")


@pytest.mark.parametrize(
    ("quiet", "told"), [(False, "pybak: waiting for a\\x07 run\n"), (True, "")]
)
def test_a_log_gets_a_line_where_a_terminal_would_show_what_is_waited_for(
    quiet: bool, told: str
) -> None:
    log = io.StringIO()
    screen = Screen(ProgressLine(log), quiet=quiet)
    screen.waiting("waiting for a\a run")
    screen.phase("scanning")
    assert log.getvalue() == told
    Screen(None).waiting("told to nobody")


def test_states_tell_what_exit_codes_tell() -> None:
    assert states.error_state(Interrupted("x")).is_cancelled()
    assert states.error_state(StorageError("x")).is_failed()
    partial = states.final_state(BackupReport(status="partial"))
    assert (partial.is_completed(), partial.name) == (True, "Partial")


def test_the_report_survives_a_server_that_answers_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect then hands out the server's copy of the final state, which carries nothing."""
    finished = BackupReport(status="success")
    copy = Completed(message="Backup complete")
    monkeypatch.setattr(session, "prefect_server", lambda **_: nullcontext())

    def flow(**_: object) -> State[Any]:
        states.final_state(finished)
        return copy

    monkeypatch.setattr(session, "stop_at_once_on_signal", lambda: None)
    view = View(quiet=True, json=False, debug=False)
    assert session.run_flow(lambda: flow, {}, view) is finished
    with pytest.raises(session.FlowError):
        session.run_flow(lambda: lambda **_: copy, {}, view)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put the handlers of signals to stop back in the end."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_is_heard_and_the_old_handlers_come_back(
    handlers: None, number: int
) -> None:
    asked: list[int] = []
    signal.signal(number, signal.SIG_DFL)  # nohup, say, has it ignored
    before = signal.getsignal(number)
    with stop_on_signal(lambda: asked.append(1)):
        os.kill(os.getpid(), number)
    assert asked == [1]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(handlers: None, number: int) -> None:
    """As nohup has it, and the shell for what a script starts in the background."""
    asked: list[int] = []
    signal.signal(number, signal.SIG_IGN)
    stop_at_once_on_signal()
    assert signal.getsignal(number) == signal.SIG_IGN
    with stop_on_signal(lambda: asked.append(1)):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN
    assert asked == []


class Setting(BaseModel):
    @model_serializer
    def interrupted(self) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "never"


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_a_signal_that_pydantic_makes_an_error_of_interrupts(
    handlers: None, monkeypatch: pytest.MonkeyPatch, is_swallowed: bool
) -> None:
    """Prefect may also make a failed run of that error."""

    def flow(**_: object) -> State[Any]:
        with suppress(Exception) if is_swallowed else nullcontext():
            Setting().model_dump()
        return Completed(message="a copy")

    monkeypatch.setattr(session, "prefect_server", lambda **_: nullcontext())
    monkeypatch.setattr(interrupt, "_is_due", False)
    with pytest.raises(Interrupted, match="interrupted"):
        session.run_flow(lambda: flow, {}, View(quiet=True, json=False, debug=False))


def test_blocks_inside_each_other_all_hear_of_a_signal_also_one_that_begins_later() -> None:
    asked: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal(lambda: asked.append("outer")):
        with stop_on_signal(lambda: asked.append("inner")):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["outer", "inner"]
        with stop_on_signal(lambda: asked.append("late")):
            assert asked == ["outer", "inner", "late"]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    with stop_on_signal(lambda: asked.append("another run")):
        pass
    assert "another run" not in asked


def _has(pid: int, kind: str, number: signal.Signals) -> bool:
    """Whether a signal is in one of the sets that proc(5) tells of a process."""
    told = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(rf"^{kind}:\s*([0-9a-f]+)$", told, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_ctrl_c_right_at_the_start_prints_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "flows/backup.py"), "--help"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    # Python itself ignores SIGPIPE first, then takes SIGINT; our first line gives that up again.
    wait_for(lambda: _has(process.pid, "SigIgn", signal.SIGPIPE), every=0.005)
    wait_for(lambda: not _has(process.pid, "SigCgt", signal.SIGINT), every=0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode in (-signal.SIGINT, ExitCode.INTERRUPTED, 0)
