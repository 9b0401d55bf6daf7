"""Commands before and after a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from waiting import within

from pybak import hooks
from pybak.errors import Interrupted
from pybak.hooks import HookError, environment, run_hook


def _run(
    command: str, *, seconds: float = 20, environ: dict[str, str] | None = None,
    cancelled: object = None,
) -> list[str]:  # fmt: skip
    lines: list[str] = []
    run_hook(
        command, option="--before", environ=environ or {"PATH": os.environ["PATH"]},
        seconds=seconds, log=lines.append,
        cancelled=cancelled if callable(cancelled) else lambda: False,
    )  # fmt: skip
    return lines


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_what_a_command_says_goes_to_the_log_line_by_line() -> None:
    """(case 111)"""
    assert _run("echo one; echo two >&2; printf three") == ["one", "two", "three"]
    assert _run("true") == []


def test_a_command_that_fails_is_told_with_its_last_line() -> None:
    """(case 111)"""
    with pytest.raises(HookError, match=r"^--before: ended with 3: no such disk$"):
        _run("echo looking; echo no such disk; exit 3")
    with pytest.raises(HookError, match=r"^--before: ended by SIGKILL$"):
        _run("kill -9 $$")
    with pytest.raises(HookError, match=r"ended with 127: .*nonsense"):
        _run("nonsense")


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """(case 111)"""
    pids = tmp_path / "pids"
    with (
        within(10),
        pytest.raises(HookError, match=r"stopped after 0.5 s: waiting; .*--hook-timeout"),
    ):
        _run(f"sleep 60 & echo $! > {pids}; echo $$ >> {pids}; echo waiting; wait", seconds=0.5)
    for pid in map(int, pids.read_text().split()):
        assert not _is_alive(pid)


def test_a_command_that_does_not_listen_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "GRACE_SECONDS", 0.3)
    pids = tmp_path / "pids"
    with pytest.raises(HookError, match="stopped after"):
        _run(f"trap '' TERM; echo $$ > {pids}; while :; do sleep 1; done", seconds=0.5)
    assert not _is_alive(int(pids.read_text()))


def test_what_a_command_started_has_time_to_put_things_in_order(tmp_path: Path) -> None:
    """The shell dies of the signal at once; its children may want to unmount first."""
    child = (
        "trap 'sleep 0.7; echo in order >&2; exit' TERM; echo ready; while :; do sleep 0.1; done"
    )
    (tmp_path / "child").write_text(child)
    lines: list[str] = []
    with pytest.raises(HookError, match="stopped after"):
        run_hook(
            f"sh {tmp_path}/child; echo after", option="--before", environ=os.environ, seconds=0.5,
            log=lines.append,
        )  # fmt: skip
    assert lines[-1] == "in order"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_command_that_can_t_be_killed_is_left_and_told(
    monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """As one that runs by sudo, or waits for a disk that is gone."""
    kill, groups = os.killpg, []

    def refuse(group: int, _number: int) -> None:
        groups.append(group)
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(hooks, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(hooks, "KILLED_SECONDS", 0.2)
    with (
        within(5),
        pytest.raises((HookError, Interrupted), match="could not be ended and still runs"),
    ):
        _run("exec sleep 120", seconds=0.2, cancelled=lambda: cancelled)
    kill(groups[0], 9)


def test_a_command_in_the_background_is_not_waited_for() -> None:
    with within(5):
        assert _run("sleep 60 & echo started") == ["started"]


def test_a_command_is_ended_when_the_run_is_cancelled(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(Interrupted, match="interrupted while --before ran"):
        _run(f"echo $$ > {pids}; exec sleep 60", cancelled=pids.is_file)
    assert not _is_alive(int(pids.read_text()))


def test_an_interrupt_leaves_no_command_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupted() -> bool:
        if pids.is_file() and pids.read_text().strip():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        _run(f"echo $$ > {pids}; exec sleep 60", cancelled=interrupted)
    assert not _is_alive(int(pids.read_text()))


def test_a_flood_of_lines_is_bounded_and_counted() -> None:
    lines = _run(f"seq {hooks.MOST_LINES + 50}")
    assert lines[: hooks.MOST_LINES] == [str(n + 1) for n in range(hooks.MOST_LINES)]
    assert lines[hooks.MOST_LINES :] == ["and 50 more lines"]
    [line] = _run("head -c 1000000 /dev/zero | tr '\\0' x")
    assert line == "x" * hooks.LINE_CHARACTERS


def test_the_last_line_is_known_after_a_flood() -> None:
    with pytest.raises(HookError, match=r"ended with 1: the end$"):
        _run("seq 1000; echo the end; exit 1")


def test_what_moves_a_cursor_is_shown_as_an_escape() -> None:
    assert _run("printf 'a\\033[31mb\\r\\n\\377\\n'") == [r"a\x1b[31mb", r"\xff"]


def test_a_command_has_nothing_to_read() -> None:
    assert _run("cat; echo done") == ["done"]


def test_a_command_knows_what_it_is_told_and_no_secrets() -> None:
    around = {
        "PATH": os.environ["PATH"], "HOME": "/root", "PGPASSWORD": "kept",
        "PYBAK_PASSWORD": "hunter2", "PYBAK_CATALOG_URL": "postgresql://u:p@h/d",
        "PREFECT_API_KEY": "key", "PREFECT_API_AUTH_STRING": "a:b",
        "PYBAK_BLOCK_MAIL_PASSWORD": "sesame", "PYBAK_ARCHIVE": "of a run around this one",
        "PYBAK_LEVEL": "6",
    }  # fmt: skip
    told = environment(around, job="docs", status=None, archive=None, message="a\0b")
    lines = _run("env | grep -v ^_= | sort", environ=told)
    assert {line.partition("=")[0] for line in lines} - {"PWD", "SHLVL", "OLDPWD"} == {
        "PATH", "HOME", "PGPASSWORD", "PYBAK_JOB", "PYBAK_LEVEL", "PYBAK_MESSAGE",
    }  # fmt: skip
    assert "PYBAK_JOB=docs" in lines
    assert "PYBAK_MESSAGE=ab" in lines
    assert not any(word in " ".join(lines) for word in ("hunter2", "sesame", "u:p", "key"))


def test_a_name_that_is_no_text_reaches_a_command_as_its_bytes() -> None:
    told = environment({"PATH": os.environ["PATH"]}, job=os.fsdecode(b"caf\xe9"))
    assert _run('printf %s "$PYBAK_JOB" | od -An -tx1 | tr -d " "', environ=told) == ["636166e9"]
