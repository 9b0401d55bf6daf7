"""The ending of flows: log, artifact, notices and commands, whatever happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_servers import Receiver, receiving
from mail_servers import PASSWORD, RECIPIENT, USER, MailHouse, free_port
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogWorker
from waiting import within

from blocks import MailServer, Ping, Webhook
from flows.support import concluded as module
from flows.support.concluded import concluded
from flows.support.screen import Screen
from pybak.catalog.locks import job_lock
from pybak.errors import Interrupted, LockedError, PlanError, StorageError
from pybak.hooks import HookError
from pybak.notify.patience import patiently
from pybak.options import BackupOptions
from pybak.problems import Problem
from pybak.progress_line import ProgressLine
from pybak.report import BackupReport, FileCounts, Report

SECRET = "s3cr3t-path"
KEY = "backup-report"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[MailHouse]:
    with MailHouse(tmp_path / "house") as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def blocks(in_prefect: None, house: MailHouse, receiver: Receiver) -> Iterator[dict[str, str]]:
    """Make blocks of each kind, and give the options that name them."""
    MailServer(
        host="127.0.0.1", port=house.port, sender=USER, recipients=[RECIPIENT], user=USER,
        password=PASSWORD, ca_file=str(house.ca_file),  # type: ignore[arg-type]
    ).save("told-mail", overwrite=True)  # fmt: skip
    Webhook(url=f"{receiver.url}/hook/{SECRET}").save("told-hook", overwrite=True)  # type: ignore[arg-type]
    Ping(url=f"{receiver.url}/ping/{SECRET}").save("told-ping", overwrite=True)  # type: ignore[arg-type]
    yield {"mail": "told-mail", "webhook": "told-hook", "ping": "told-ping"}
    for kind, name in ((MailServer, "told-mail"), (Webhook, "told-hook"), (Ping, "told-ping")):
        kind.delete(name)  # type: ignore[attr-defined]


def _report(status: str = "success", *errors: Problem) -> BackupReport:
    return BackupReport(
        status=status, run_id="3f2a", job="docs", archive="/mnt/docs.zip",
        files=FileCounts(new=5, failed=len(errors)), errors=errors,
    )  # fmt: skip


def _run(make: Callable[[], Report] | Report, **options: Any) -> State[Any]:
    """Run a flow that ends as all do."""

    @flow(name="backup", persist_result=False)
    def ending() -> State[Any]:
        work = make if callable(make) else lambda: make
        return concluded("backup", KEY, BackupOptions(**options), "docs", work)

    state: State[Any] = ending(return_state=True)
    return state


def _raising(error: BaseException) -> Callable[[], Report]:
    def work() -> Report:
        raise error

    return work


def _run_id(state: State[Any]) -> str:
    assert state.state_details is not None
    return str(state.state_details.flow_run_id)


def _task_runs(api: httpx.Client, state: State[Any]) -> list[str]:
    wanted = {"flow_runs": {"id": {"any_": [_run_id(state)]}}}
    return [run["name"] for run in api.post("/task_runs/filter", json=wanted).json()]


def _artifacts(api: httpx.Client, state: State[Any]) -> list[dict[str, Any]]:
    wanted = {"artifacts": {"flow_run_id": {"any_": [_run_id(state)]}}}
    found: list[dict[str, Any]] = api.post("/artifacts/filter", json=wanted).json()
    return found


def _logs(api: httpx.Client, state: State[Any]) -> str:
    APILogWorker.instance().drain()
    wanted = {"logs": {"flow_run_id": {"any_": [_run_id(state)]}}}
    deadline = time.monotonic() + 10
    while True:
        lines = [one["message"] for one in api.post("/logs/filter", json=wanted).json()]
        if lines or time.monotonic() > deadline:
            return "\n".join(lines)
        time.sleep(0.1)


def test_without_notices_a_run_leaves_log_and_artifact(
    in_prefect: None, prefect_api: httpx.Client
) -> None:
    state = _run(_report())
    assert state.is_completed()
    assert state.message == "Backup of docs complete"
    assert _task_runs(prefect_api, state) == ["email-report"]
    assert [one["key"] for one in _artifacts(prefect_api, state)] == [KEY]
    assert "Backup of docs complete" in _logs(prefect_api, state)


def test_all_blocks_tell_of_a_run_by_name(
    blocks: dict[str, str], house: MailHouse, receiver: Receiver, prefect_api: httpx.Client
) -> None:
    problem = Problem("/home/ann/a", "unreadable", "permission denied")
    state = _run(_report("partial", problem), **blocks)
    assert state.name == "Partial"
    [message] = house.messages
    assert message["Subject"].startswith("[PyBak] PARTIAL: backup of docs on ")
    assert receiver.paths[0] == f"/ping/{SECRET}/start"
    assert sorted(receiver.paths[1:]) == [f"/hook/{SECRET}", f"/ping/{SECRET}/fail"]
    hook = next(one for one in receiver.requests if one.path.startswith("/hook"))
    data = json.loads(hook.body)
    assert data["flow_run"] == _run_id(state)
    assert data["report"]["errors"][0]["path"] == "/home/ann/a"
    assert _task_runs(prefect_api, state) == ["email-report"]


def test_an_unchanged_run_costs_no_task_run_and_pings(
    blocks: dict[str, str], house: MailHouse, receiver: Receiver, prefect_api: httpx.Client
) -> None:
    state = _run(_report("unchanged"), **blocks)
    assert state.name == "Unchanged"
    assert _task_runs(prefect_api, state) == []
    assert _artifacts(prefect_api, state) == []
    assert house.messages == []
    assert f"/ping/{SECRET}" in receiver.paths


def test_a_run_that_failed_is_told_and_stays_failed(
    blocks: dict[str, str], house: MailHouse, receiver: Receiver, prefect_api: httpx.Client
) -> None:
    error = StorageError("/mnt: the disk is full; make room")
    state = _run(_raising(error), **blocks)
    assert state.is_failed()
    assert state.message == str(error)
    assert house.messages[0]["Subject"].startswith("[PyBak] FAILED: backup of docs")
    assert f"/ping/{SECRET}/fail" in receiver.paths
    assert _artifacts(prefect_api, state) == []
    _run(_report("unchanged"), **blocks)
    assert "(good again)" in house.messages[1]["Subject"]


def test_a_fault_of_the_program_is_told_and_raised(
    blocks: dict[str, str], house: MailHouse
) -> None:
    state = _run(_raising(ZeroDivisionError("division by zero")), **blocks)
    assert state.is_failed()
    assert "ZeroDivisionError" in str(state.message)
    assert "FAILED" in house.messages[0]["Subject"]


def test_a_run_that_found_another_one_at_work_is_no_news(
    blocks: dict[str, str], house: MailHouse, receiver: Receiver
) -> None:
    state = _run(_raising(LockedError("job docs: another run is at work")), **blocks)
    assert state.is_cancelled()
    assert house.messages == []
    assert f"/ping/{SECRET}/fail" not in receiver.paths
    assert f"/ping/{SECRET}" not in receiver.paths


def test_a_dry_run_tells_nobody_and_runs_no_commands(
    blocks: dict[str, str], house: MailHouse, receiver: Receiver, tmp_path: Path,
    prefect_api: httpx.Client,
) -> None:  # fmt: skip
    state = _run(
        _report("unchanged"), dry_run=True, before=f"touch {tmp_path}/ran",
        log_file=str(tmp_path / "log"), mail_when="always", **blocks,
    )  # fmt: skip
    assert state.is_completed()
    assert house.messages == []
    assert receiver.requests == []
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "log").exists()
    assert [one["key"] for one in _artifacts(prefect_api, state)] == [KEY]


@pytest.mark.parametrize("trouble", ["down", "bad password", "missing"])
def test_a_mail_that_can_t_be_sent_never_fails_a_run(
    blocks: dict[str, str], house: MailHouse, prefect_api: httpx.Client, trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    at_once = partial(patiently, sleep=lambda _: None)
    monkeypatch.setattr("pybak.notify.deliver.patiently", at_once)
    name = {"missing": "nowhere"}.get(trouble, "told-mail")
    block = MailServer.load("told-mail")
    if trouble == "down":
        block.port = free_port()  # type: ignore[union-attr]
    if trouble == "bad password":
        block.password = "wrong-hunter2"  # type: ignore[union-attr]
    block.save("told-mail", overwrite=True)  # type: ignore[union-attr]
    state = _run(_report(), mail=name)
    assert state.is_completed()
    logs = _logs(prefect_api, state)
    assert "it waits for the next run" in logs
    assert "wrong-hunter2" not in logs
    [letter] = (Path(os.environ["PYBAK_HOME"]) / "outbox").iterdir()
    assert letter.stat().st_mode & 0o777 == 0o600
    assert house.messages == []


def test_no_secret_of_a_block_shows_anywhere(
    blocks: dict[str, str], receiver: Receiver, prefect_api: httpx.Client,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mail = MailServer.load("told-mail")
    mail.password = f"wrong-{SECRET}"  # type: ignore[union-attr]
    mail.save("told-mail", overwrite=True)  # type: ignore[union-attr]
    receiver.answers = [404] * 10
    state = _run(_raising(StorageError("no space")), **blocks)
    good = _run(_report(), **blocks)
    told = "".join(_logs(prefect_api, one) for one in (state, good))
    assert "404" in told
    told += (
        prefect_api.get(f"/flow_runs/{_run_id(state)}").text
        + prefect_api.post("/flow_run_states/filter", json={}).text
    )
    told += json.dumps(_artifacts(prefect_api, good)) + "".join(capfd.readouterr())
    for path in Path(os.environ["PYBAK_HOME"]).rglob("*"):
        told += path.read_bytes().decode("latin-1") if path.is_file() else ""
    assert SECRET not in told
    assert PASSWORD not in told


def _by_hand(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    monkeypatch.setattr(module, "_is_terminal", lambda: terminal)
    monkeypatch.setattr(
        Screen, "current", staticmethod(lambda: Screen(ProgressLine(enabled=False)))
    )


def test_a_block_that_is_missing_is_told_before_the_work_to_whoever_sits_there(
    in_prefect: None, monkeypatch: pytest.MonkeyPatch, prefect_api: httpx.Client
) -> None:
    made: list[bool] = []

    def work() -> Report:
        made.append(True)
        return _report()

    _by_hand(monkeypatch, terminal=True)
    state = _run(work, webhook="nowhere")
    assert state.is_failed()
    assert isinstance(module_outcome(), PlanError)
    assert not made
    _by_hand(monkeypatch, terminal=False)
    state = _run(work, webhook="nowhere")
    assert state.is_completed()
    assert made
    assert "block nowhere: there is none" in _logs(prefect_api, state)


def module_outcome() -> object:
    from flows.support.states import take_outcome

    return take_outcome()


def test_a_flow_and_its_ending_share_one_screen(in_prefect: None) -> None:
    seen: list[Screen] = []

    def work() -> Report:
        seen.extend([Screen.current(), Screen.current()])
        return _report()

    assert _run(work).is_completed()
    assert seen[0] is seen[1]
    assert Screen.current() is not seen[0]


def _wrote(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


TELL = 'echo "$PYBAK_KIND,$PYBAK_JOB,$PYBAK_STATUS,$PYBAK_RUN_ID,$PYBAK_ARCHIVE" >> '


def test_commands_run_before_and_after_and_know_how_it_ended(
    in_prefect: None, tmp_path: Path, prefect_api: httpx.Client
) -> None:
    """(case 111)"""
    log = tmp_path / "log"

    def work() -> Report:
        with log.open("a") as file:
            file.write("work\n")
        return _report("partial", Problem("/a", "io_error", "input/output error"))

    state = _run(work, before=f"echo hello; {TELL}{log}", after=f"{TELL}{log}")
    assert state.name == "Partial"
    assert _wrote(log) == [
        "backup,docs,,,", "work", "backup,docs,partial,3f2a,/mnt/docs.zip"
    ]  # fmt: skip
    assert "--before: hello" in _logs(prefect_api, state)


def test_a_command_does_not_hand_on_that_it_is_to_be_run(
    in_prefect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_BEFORE", "a command")
    monkeypatch.setenv("PYBAK_PASSWORD", "hunter2")
    _run(_report(), before=f"env > {tmp_path}/env")
    told = (tmp_path / "env").read_text()
    assert "PYBAK_KIND=backup" in told
    assert "PYBAK_BEFORE" not in told
    assert "hunter2" not in told


def test_a_run_whose_first_command_fails_does_not_start_but_the_last_one_runs(
    in_prefect: None, tmp_path: Path
) -> None:
    """(case 111)"""
    log = tmp_path / "log"
    state = _run(_raising(AssertionError("started")), before="echo no disk; exit 4",
                 after=f"{TELL}{log}")  # fmt: skip
    assert state.is_failed()
    assert state.message == "--before: ended with 4: no disk"
    error = module_outcome()
    assert isinstance(error, HookError)
    assert error.exit_code == 1
    assert _wrote(log) == ["backup,docs,failed,,"]


def test_the_last_command_runs_after_a_failure_and_its_own_is_a_warning(
    blocks: dict[str, str], tmp_path: Path, house: MailHouse, prefect_api: httpx.Client
) -> None:
    """(case 111)"""
    log = tmp_path / "log"
    state = _run(_raising(StorageError("no space")), after=f"{TELL}{log}")
    assert state.message == "no space"
    assert _wrote(log) == ["backup,docs,failed,,"]
    state = _run(_report(), after="echo busy; exit 3", mail=blocks["mail"])
    assert state.is_completed()
    assert "--after: ended with 3: busy" in _logs(prefect_api, state)
    text = house.messages[0].get_body(("plain",))
    assert text is not None
    assert "Note: --after: ended with 3: busy" in text.get_content()


def test_a_signal_to_stop_after_the_work_leaves_the_run_as_it_ended(
    in_prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("tasks.email_report.create_markdown_artifact", stopped)
    assert _run(_report()).is_completed()


def test_a_run_that_was_stopped_gives_its_last_command_little_time(
    in_prefect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> Report:
        os.kill(os.getpid(), signal.SIGINT)
        raise Interrupted("interrupted")

    ran = tmp_path / "ran"
    assert _run(work, after=f"sleep 1; touch {ran}").is_cancelled()
    assert ran.exists()
    monkeypatch.setattr("flows.support.hooked.STOPPED_SECONDS", 0.5)
    with within(10):
        assert _run(work, after="sleep 60").is_cancelled()


def test_a_run_that_is_stopped_in_its_last_command_ends_that(in_prefect: None) -> None:
    with within(10):
        state = _run(_report(), after=f"kill -INT {os.getpid()}; sleep 60")
        assert state.is_completed()


def test_a_block_that_stalls_does_not_hold_back_the_work(
    in_prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, began = threading.Event(), []

    def load(_: str) -> None:
        stalled.wait(30)
        raise StorageError("Prefect's server is away")

    def work() -> Report:
        began.append(time.monotonic())
        stalled.set()
        return _report()

    monkeypatch.setattr("tasks._telling.load_ping", load)
    start = time.monotonic()
    assert _run(work, ping="told-ping").is_completed()
    assert began[0] - start < 10


def test_commands_of_one_job_never_run_side_by_side(in_prefect: None, tmp_path: Path) -> None:
    """(case 98)"""
    ran = tmp_path / "ran"
    with job_lock("docs (commands of its backup)"):
        state = _run(_report(), before=f"touch {ran}", after=f"touch {ran}")
    assert state.is_cancelled()
    assert not ran.exists()
    assert _run(_report(), before=f"touch {ran}").is_completed()
    assert ran.exists()


def test_what_tells_is_not_imported_by_a_run_that_tells_nobody() -> None:
    code = (
        "import sys, flows.backup\n"
        "print([m for m in sys.modules if m in ('pybak.notify.smtp', 'pybak.notify.http', "
        "'pybak.notify.message', 'blocks.mail_server')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
