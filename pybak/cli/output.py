"""What a command prints, and the exit code it ends with.

Results go to stdout, everything else to stderr. With `--json` stdout holds one JSON object and
nothing else, also when the command fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO

from pybak.display import escape, for_encoding, printable
from pybak.errors import ExitCode, Interrupted, PlanError, PyBakError, StorageError

if TYPE_CHECKING:
    from pybak.report import Report

_WIDEST: Final = 100
_WIDTH_OF_FILES: Final = 80
_PROBLEMS: Final = 5
"""How many problems are named where little is to be said."""
_WITH_REPORTS: Final = (
    "backup", "restore", "verify", "prune", "rebuild", "drill", "transfer", "inbox",
)  # fmt: skip
"""Commands whose JSON is a report, also when they fail."""


@dataclass(frozen=True)
class View:
    """How much a command says, and in which form."""

    json: bool = False
    quiet: bool = False
    debug: bool = False


def emit(report: Report, view: View) -> int:
    """Print a report as `view` asks and give the exit code; quiet tells only what went wrong."""
    if view.json:
        _print_json(report.to_json())
    elif not view.quiet:
        print_text(report.to_text(_width(sys.stdout)), sys.stdout)
    elif report.exit_code != ExitCode.DONE:
        print_error(report.headline())
        _print_problems(report)
    return int(report.exit_code)


def _print_problems(report: Report) -> None:
    """Print the first problems of a report, and where the others are."""
    from pybak.report.phrases import of_files, what_happened

    problems = of_files(report.errors, getattr(report, "message", None))
    for problem in problems[:_PROBLEMS]:
        place = f"{printable(problem.path)}: " if problem.path else ""
        print_error(f"{place}{what_happened(problem)}")
    if len(problems) <= _PROBLEMS:
        return
    run = getattr(report, "drill_id", None) or getattr(report, "run_id", None)
    where = f"`pybak logs {run} --level warning` has" if run else "without --quiet you see"
    print_error(f"{where} the rest")


def print_error(message: str) -> None:
    """Print one line on stderr: `pybak: …`, with nothing in it that moves a cursor."""
    with contextlib.suppress(OSError, StorageError, ValueError):  # nobody is left to tell
        print_text(f"pybak: {escape(message)}\n", sys.stderr)


def print_warning(message: str) -> None:
    """Print one line on stderr about what does not change how the command ends."""
    print_error(f"warning: {message}")


def run_guarded(
    action: Callable[[], int | None], *, command: str = "backup", view: View | None = None
) -> int:
    """Do `action` and give the exit code, whatever happens; None from it means 0.

    An error becomes one line on stderr, and with `--json` a failed report on stdout. `--debug`
    adds the traceback. A reader of stdout that has gone away ends the command quietly.
    """
    view = view or View()
    try:
        return int(action() or 0)
    except BrokenPipeError:
        _silence_stdout()
        return int(ExitCode.FAILED)
    except (Exception, KeyboardInterrupt) as error:
        return _failed(error, command, view)


def _failed(error: BaseException, command: str, view: View) -> int:
    from pybak.report import error_message, failed_report

    if view.debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted("interrupted")
    if not isinstance(error, PyBakError):
        name = f"{type(error).__name__}: {error_message(error)}"
        advice = "report it" if view.debug else "run again with --debug and report it"
        error = PyBakError(f"unexpected {name}; {advice}")
    if view.json:
        try:
            report = failed_report(command, error).to_json()
            if command not in _WITH_REPORTS:
                report = {name: report[name] for name in ("status", "errors")}
            _print_json(report)
        except (OSError, StorageError):
            _silence_stdout()
    print_error(error_message(error))
    return int(error.exit_code)


def _print_json(value: dict[str, Any]) -> None:
    # ASCII, so that names that are no UTF-8 survive any terminal or pipe as \udc80 to \udcff.
    print_text(json.dumps(value, indent=2) + "\n", sys.stdout)


def print_text(text: str, stream: TextIO | None) -> None:
    """Print text as the stream's encoding allows, at once.

    Raises BrokenPipeError when nobody reads any more, StorageError when it can't be written.
    """
    if stream is None:  # closed by whoever started this
        return
    try:
        stream.write(for_encoding(text, stream.encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence_stdout()
        raise StorageError(f"the output can't be written: {error.strerror or error}") from error


def binary_stdout() -> BinaryIO:
    """Give stdout for bytes. Raises PlanError if it is closed."""
    if sys.stdout is None:
        raise PlanError("stdout is closed; send it to a file or a program")
    return sys.stdout.buffer


def _silence_stdout() -> None:
    """Keep the interpreter from complaining when it flushes a broken stdout at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _width(stream: TextIO | None) -> int:
    if stream is None or not stream.isatty():
        return _WIDTH_OF_FILES
    return min(shutil.get_terminal_size((_WIDTH_OF_FILES, 24)).columns, _WIDEST)
