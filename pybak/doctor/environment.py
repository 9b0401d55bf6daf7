"""What PyBak stands on here: Python, its packages, its folder, the clock."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from pybak.display import printable, shell_word
from pybak.doctor.finding import Finding, Findings, about
from pybak.home import can_write, home

SUBJECT: Final = "environment"
_CLOCK_PROBLEM: Final = 60.0
_CLOCK_NOTE: Final = 5.0
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def check_environment(environ: Mapping[str, str]) -> list[Finding]:
    """Look at Python, the packages that PyBak needs, and PYBAK_HOME."""
    found = Findings(SUBJECT)
    wrong = misfits(requires("pybak") or ())
    for text, advice in wrong:
        found.problem(text, "install it", advice)
    if not wrong:
        found.ok(
            f"PyBak {version('pybak')}, Python {platform.python_version()}, Prefect "
            f"{version('prefect')}, and packages that fit"
        )
    _home(found, home(environ))
    return found.found


def misfits(wanted: Iterable[str]) -> list[tuple[str, str]]:
    """Tell what is not installed as a package's requirements say, and how to mend it.

    With some newer packages Prefect's server looks healthy and plans no runs.
    """
    from packaging.requirements import Requirement

    found = []
    for line in wanted:
        one = Requirement(line)
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        advice = f"pip install '{one.name}{one.specifier}'"
        try:
            there = version(one.name)
        except PackageNotFoundError:
            found.append((f"{one.name} is not installed", advice))
            continue
        if not one.specifier.contains(there, prereleases=True):
            found.append((f"{one.name} {there} is installed, PyBak needs {one.specifier}", advice))
    return found


def _home(found: Findings, folder: os.PathLike[str]) -> None:
    shown = printable(os.fspath(folder))
    try:
        about_it = os.stat(folder)
    except FileNotFoundError:
        if can_write(Path(folder)):
            found.note(f"PYBAK_HOME {shown} is not there yet", "the first run makes it")
        else:
            what = f"PYBAK_HOME {shown} can't be made, so no history is kept"
            found.problem(what, "set it to a folder that you can write")
        return
    except OSError as error:
        found.problem(f"PYBAK_HOME {shown}: {error.strerror}", "set it to a folder of yours")
        return
    if not stat.S_ISDIR(about_it.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        found.problem(
            f"PYBAK_HOME {shown} can't be written, so no history is kept",
            "set it to a folder that you can write",
        )
    elif about_it.st_uid == os.geteuid() and about_it.st_mode & _OTHERS:
        found.note(
            f"PYBAK_HOME {shown} can be changed by others",
            "forbid it",
            f"chmod go-w {shell_word(shown)}",
        )
    else:
        found.ok(f"PYBAK_HOME {shown} can be written")


def check_clock(server_time: datetime | None, now: datetime) -> list[Finding]:
    """Compare this machine's clock with the server's, as its last answer told it."""
    found = Findings(SUBJECT)
    if server_time is None:
        return []
    difference = (now - server_time).total_seconds()
    if abs(difference) >= _CLOCK_NOTE:
        side = "ahead of" if difference > 0 else "behind"
        text = f"this machine's clock is {about(abs(difference))} {side} the server's"
        tell = found.problem if abs(difference) >= _CLOCK_PROBLEM else found.note
        tell(text, "set both by NTP: schedules and names of archives go by them")
    return found.found
