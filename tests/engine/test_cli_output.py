"""What a command prints and the exit code it ends with, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pybak.cli import View, backup_command, emit, main, print_error, run_guarded
from pybak.errors import (
    ArchiveError,
    ExitCode,
    Interrupted,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
)
from pybak.problems import Problem
from pybak.report import BackupReport, FileCounts

REPOSITORY = Path(__file__).parents[2]


def python(
    code: str, *, stdout: Any = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run Python code in an interpreter of its own, where stdout is a real file."""
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **env},
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlanError("x"), 2),
        (NotFoundError("x"), 10),
        (ArchiveError("x"), 1),
        (StorageError("x"), 1),
        (Interrupted("x"), 130),
        (PyBakError("x"), 1),
    ],
)
def test_an_error_is_one_line_and_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], error: PyBakError, code: int
) -> None:
    def fail() -> int:
        raise error

    assert run_guarded(fail) == code
    assert capsys.readouterr() == ("", "pybak: x\n")


def test_what_an_action_gives_is_the_exit_code() -> None:
    assert run_guarded(lambda: None) == 0
    assert run_guarded(lambda: ExitCode.PARTIAL) == 3


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    """(case 95)"""

    def fail(request: object = None) -> int:
        raise KeyboardInterrupt

    assert run_guarded(fail) == 130
    assert capsys.readouterr().err == "pybak: interrupted\n"
    assert main(backup_command(fail), ["a"]) == 130
    assert capsys.readouterr().err == "pybak: interrupted\n"


WITH_CLOSED = """
import os, subprocess, sys
from pybak.cli import backup_command, main

def look(request):
    with open(sys.argv[1], "w") as told:
        print(told.fileno() > 2, *(os.fstat(fd).st_rdev == null for fd in (0, 1, 2)), file=told)
        told.flush()
        subprocess.run(["/bin/sh", "-c", f"exec <&0 >&1 2>&2 && echo heirs >> {sys.argv[1]}"])
    return 0

null = os.stat(os.devnull).st_rdev
os._exit(main(backup_command(look), ["a"]))
"""


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        ("2>&-", "True False False True"),
        ("<&- 2>&-", "True True False True"),
        ("<&- >&- 2>&-", "True True True True"),
    ],
)
def test_nothing_gets_the_number_of_a_standard_stream_that_is_closed(
    tmp_path: Path, closed: str, told: str
) -> None:
    subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "-",
         sys.executable, "-c", WITH_CLOSED, tmp_path / "told"],
        check=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    assert (tmp_path / "told").read_text() == f"{told}\nheirs\n"


def test_the_unexpected_is_one_line_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(request: object = None) -> int:
        raise ValueError("two\nlines \x1b[31m")

    assert main(backup_command(fail), ["a"]) == 1
    assert capsys.readouterr().err == (
        "pybak: unexpected ValueError: two\\nlines \\x1b[31m; "
        "run again with --debug and report it\n"
    )
    assert main(backup_command(fail), ["a", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].endswith("; report it")


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["a", "--json", "--level", "12"], "failed", 2),
        (["--json", "--nonsense"], "failed", 2),
        (["a", "--json"], "failed", 10),
    ],
)
def test_a_failed_command_still_prints_one_json_object(
    capsys: pytest.CaptureFixture[str], words: list[str], status: str, code: int
) -> None:
    def fail(request: object) -> int:
        raise NotFoundError("a: no such folder; check the name")

    assert main(backup_command(fail), words) == code
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["status"] == status
    assert captured.err == f"pybak: {report['errors'][0]['message']}\n"


def test_json_after_two_dashes_is_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(request: object) -> int:
        raise PlanError("no")

    assert main(backup_command(fail), ["--", "--json"]) == 2
    assert capsys.readouterr().out == ""


REPORT = BackupReport(
    status="partial",
    archive="/b.zip",
    files=FileCounts(new=1, failed=1),
    errors=(Problem("caf\udce9", "unreadable", "permission denied"),),
)


def test_a_report_is_text_or_json_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert emit(REPORT, View()) == 3
    assert capsys.readouterr().out == REPORT.to_text(80)
    assert emit(REPORT, View(json=True)) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == REPORT.to_json()
    assert err == ""
    assert emit(REPORT, View(quiet=True)) == 3
    assert capsys.readouterr() == (
        "", f"pybak: {REPORT.headline()}\npybak: \"caf\\xe9\": permission denied\n"
    )  # fmt: skip
    assert emit(BackupReport(status="success"), View(quiet=True)) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("run_id", "rest"),
    [
        ("r1", "pybak: `pybak logs r1 --level warning` has the rest"),
        (None, "pybak: without --quiet you see the rest"),
    ],
)
def test_quiet_names_the_first_problems_and_where_the_others_are(
    run_id: str | None, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = tuple(Problem(f"f{number}", "unreadable", "no") for number in range(7))
    report = BackupReport(
        status="partial", run_id=run_id, files=FileCounts(failed=7), errors=errors
    )
    assert emit(report, View(quiet=True)) == 3
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines == [*(f"pybak: f{number}: no" for number in range(5)), rest]


def test_quiet_tells_the_error_that_ended_a_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    ended = BackupReport(
        status="failed", message="disk full", errors=(Problem("", "storage", "disk full"),)
    )
    assert emit(ended, View(quiet=True)) == 1
    assert capsys.readouterr().err.count("disk full") == 1


def test_a_name_that_is_no_utf8_survives_json(capsys: pytest.CaptureFixture[str]) -> None:
    """(case 3)"""
    emit(REPORT, View(json=True))
    out = capsys.readouterr().out
    assert out.isascii()
    assert os.fsencode(json.loads(out)["errors"][0]["path"]) == b"caf\xe9"


def test_an_error_line_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """(case 7)"""
    print_error("/a\x1b[2J\n: no such file")
    assert capsys.readouterr().err == "pybak: /a\\x1b[2J\\n: no such file\n"


_EMIT = """
import sys
from pybak.cli import View, emit, run_guarded
from pybak.report import BackupReport, FileCounts
report = BackupReport(status="success", archive="/b/日本.zip", files=FileCounts(new=21304))
sys.exit(run_guarded(lambda: emit(report, View(json=len(sys.argv) > 1))))
"""


def test_a_reader_that_has_gone_away_gives_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python(_EMIT, stdout=writer)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_a_help_that_nobody_reads_gives_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "import sys\nfrom pybak.cli import backup_command, main\n"
        "sys.exit(main(backup_command(lambda request: 0), ['--help']))"
    )
    done = python(code, stdout=writer)
    os.close(writer)
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_told_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = python(_EMIT, stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"pybak: the output can't be written: No space left on device\n"


def test_a_terminal_without_utf8_gets_ascii() -> None:
    done = python(_EMIT, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"21 304 files" in done.stdout
    assert b"/b/\\u65e5\\u672c.zip" in done.stdout


def test_a_closed_stdout_is_no_error() -> None:
    code = "import os\nos.close(1)\n" + "import sys\nsys.stdout = None\n" + _EMIT
    done = python(code)
    assert done.returncode == 0
    assert done.stderr == b""
