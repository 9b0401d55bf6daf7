"""Commands that tell of their runs, and that run others before and after."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from catalogs import query
from commands import Commands
from mail_servers import PASSWORD, RECIPIENT, USER, Exim, free_port, mute_server, running_exim
from waiting import wait_for, within

from blocks import MailServer


@pytest.fixture
def exim() -> Iterator[Exim]:
    with running_exim() as running:
        yield running


def _block(name: str, port: int, **more: object) -> None:
    MailServer(
        host="127.0.0.1", port=port, sender=USER, recipients=[RECIPIENT], user=USER,
        password=PASSWORD, **more,  # type: ignore[arg-type]
    ).save(name, overwrite=True)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("text " * 1000)
    return folder


@pytest.mark.needs_root
@pytest.mark.needs_tool("exim4")
def test_a_backup_s_report_is_delivered_by_a_real_mail_server(
    run_command: Commands, in_prefect: None, exim: Exim, source: Path, tmp_path: Path,
    prefect_api: httpx.Client,
) -> None:  # fmt: skip
    _block("exim", exim.port, ca_file=str(exim.ca_file))
    words = (source, "--to", tmp_path / "to", "--job", "docs", "--mode", "incremental",
             "--mail", "exim")  # fmt: skip
    first = run_command("backup", *words, "--json")
    assert first.rc == 0, first
    (source / "new.txt").write_text("new " * 1000)
    os.mkfifo(source / "pipe")
    (source / "secret.txt").write_text("x")
    (source / "secret.txt").chmod(0)
    second = run_command("backup", *words, "--json", powerless=True)
    assert second.rc == 3, second
    mails = exim.messages(at_least=2)
    good, partial = sorted(mails, key=lambda message: str(message["Subject"]))
    assert good["Subject"].startswith("[PyBak] OK: backup of docs on ")
    assert partial["Subject"].startswith("[PyBak] PARTIAL: backup of docs on ")
    body = partial.get_body(("plain",))
    assert body is not None
    text = body.get_content()
    assert second.json["archive"] in text
    assert "secret.txt" in text
    assert "Last run" in text
    assert "1, was 0 (1 new)" in text
    assert "5, was 3 (+2)" in text
    flow_runs = query(
        f"sqlite:///{os.environ['PYBAK_HOME']}/catalog.db", "select flow_run from run"
    )
    assert len(flow_runs) == 2
    for (flow_run,) in flow_runs:
        assert prefect_api.get(f"/flow_runs/{flow_run}").json()["id"] == flow_run
    told = exim.log() + first.stdout + first.stderr
    assert PASSWORD not in told


def test_a_mail_server_that_is_down_is_a_warning_and_no_failure(
    run_command: Commands, in_prefect: None, source: Path, tmp_path: Path
) -> None:
    _block("down", free_port())
    done = run_command("backup", source, "--to", tmp_path / "to", "--mail", "down")
    assert done.rc == 0, done
    assert "Backup complete" in done.stdout
    assert "warning: mail down: mail server 127.0.0.1" in done.stderr
    assert "can't be reached: Connection refused; it waits for the next run" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_run_that_is_stopped_does_not_wait_for_a_mail_server_that_says_nothing(
    run_command: Commands, in_prefect: None, source: Path, tmp_path: Path
) -> None:
    """(case 95)"""
    begun = tmp_path / "begun"
    with mute_server() as port:
        _block("mute", port)
        words = (source, tmp_path / "to", "--mail", "mute", "--before", f"touch {begun}; sleep 60")
        with run_command.running("mirror", *words) as process:
            wait_for(lambda: begun.exists() or process.poll() is not None, 60)
            assert process.poll() is None, process.communicate()
            with within(5):
                process.send_signal(signal.SIGTERM)
                _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "mail mute: was told to stop; it waits for the next run" in stderr


def test_a_command_that_fails_before_a_backup_ends_it(
    run_command: Commands, source: Path, tmp_path: Path
) -> None:
    """(case 111)"""
    done = run_command(
        "backup", source, "--to", tmp_path / "to", "--json",
        "--before", f"echo $PYBAK_JOB > {tmp_path}/before; echo no disk; exit 7",
        "--after", f"echo $PYBAK_STATUS $PYBAK_PASSWORD > {tmp_path}/after",
        env={"PYBAK_PASSWORD": "correct horse battery"},
    )  # fmt: skip
    assert done.rc == 1, done
    assert done.json["status"] == "failed"
    assert done.json["message"] == "--before: ended with 7: no disk"
    assert not (tmp_path / "to").exists()
    assert (tmp_path / "before").read_text() == f"{source}\n"
    assert (tmp_path / "after").read_text() == "failed\n"


def test_options_that_make_no_sense_are_told_at_once(run_command: Commands, source: Path) -> None:
    done = run_command("backup", source, "--mail-when", "never")
    assert done.rc == 2
    assert "never is not one of always, on-change, on-problem" in done.stderr
    done = run_command("backup", source, "--hook-timeout", "soon")
    assert done.rc == 2
    done = run_command("verify", "x.zip", "--before", "true")
    assert done.rc == 2
