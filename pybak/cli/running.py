"""Runs a command as a program: usage errors become one line and exit code 2."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from pybak.cli.output import View, run_guarded
from pybak.cli.passwords import follows_password, shielded
from pybak.cli.settings import did_you_mean, shown
from pybak.errors import PlanError
from pybak.garbage import collect_seldom


def main(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` on `argv` (the process's own without it) and give the exit code."""
    _open_standard_descriptors()
    collect_seldom()
    with contextlib.suppress(ValueError):  # not in the main thread: whoever is there decides
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    options = words[: words.index("--")] if "--" in words else words
    view = View(json="--json" in options, quiet="--quiet" in options, debug="--debug" in options)
    return run_guarded(lambda: _run(command, words), command=command.name or "backup", view=view)


def _open_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    Files and sockets of ours would get their numbers, which mean something else to child processes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    if sys.stderr is None:  # stdout stays none, which `binary_stdout` tells
        with contextlib.suppress(OSError):
            sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def _run(command: click.Command, words: list[str]) -> int:
    program = getattr(command, "program", command.name or "")
    try:
        # Not command.main: it prints a line of its own for Ctrl-C and for a broken pipe.
        with command.make_context(program, shielded(words), obj=words) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.NoSuchOption as error:
        if follows_password(words, error.option_name):
            raise PlanError(
                "--password: what follows it begins with -; write it as --password=PASSWORD"
            ) from None
        hint = did_you_mean(error.option_name, _long_names(command))
        raise PlanError(
            f"no option {shown(error.option_name)}{hint or f'; see {program} --help'}"
        ) from error
    except click.BadOptionUsage as error:
        raise PlanError(_misused(command, error)) from error
    except click.UsageError as error:
        raise PlanError(f"{error.format_message().rstrip('.')}; see {program} --help") from error
    return int(code or 0)


def _long_names(command: click.Command) -> list[str]:
    return [
        name
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--")
    ]


def _misused(command: click.Command, error: click.BadOptionUsage) -> str:
    name = error.option_name
    for param in command.params:
        if isinstance(param, click.Option) and name in (*param.opts, *param.secondary_opts):
            if param.is_flag:
                return f"{name}: takes no value; leave out what stands after the ="
            record = param.get_help_record(click.Context(command))
            metavar = record[0].split()[-1] if record else "a value"
            return f"{name}: needs a value; write {name} {metavar}"
    return error.format_message()
