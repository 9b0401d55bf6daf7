"""Passwords of archives: where they come from, and which ones are refused or warned about.

A password is bytes: what was typed, as UTF-8, and nothing else is done to it (no normal form, no
blanks cut off). That is what 7-Zip on Linux and macOS, bsdtar and pyzipper do too. Bytes of an
environment or command line that are not UTF-8 go through as they are. No message holds one.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Final

from pybak.errors import PlanError

PASSWORD_VARIABLE: Final = "PYBAK_PASSWORD"  # noqa: S105 - a name
LONGEST: Final = 99
"""Bytes; 7-Zip opens no ZIP member with a longer password."""

_TRIES = 3
_SHORT = 8
_ONE_KIND_SHORT = 12
# The heads of all lists of leaked passwords, lower case, digits at the end cut off.
_COMMON = frozenset(
    b"abc admin administrator asdf asdfgh backup baseball batman changeme default dragon football"
    b" guest hello iloveyou jordan letmein login love master michael monkey mustang pass passw0rd"
    b" passwd password p@ssw0rd princess pybak qazwsx qwer qwert qwerty qwertz qwertyuiop root"
    b" secret shadow starwars sunshine superman test testtest trustno welcome whatever zaq1zaq"
    b" zxcvbn zxcvbnm".split()
)
_KINDS = tuple(map(re.compile, (rb"[a-z]+", rb"[A-Z]+", rb"[0-9]+")))


def from_environment(environ: Mapping[str, str]) -> bytes | None:
    """Give the password in PYBAK_PASSWORD, None if it is not set. Raises PlanError if empty."""
    text = environ.get(PASSWORD_VARIABLE)
    if text is None:
        return None
    return checked(encode(text), PASSWORD_VARIABLE)


def encode(text: str) -> bytes:
    """Give a password's bytes: UTF-8, and the system's own bytes where it was not."""
    return text.encode("utf-8", "surrogateescape")


def checked(password: bytes, origin: str) -> bytes:
    """Give the password back; raise PlanError if it is empty. `origin` is who gave it."""
    if not password:
        raise PlanError(f"{origin}: the password is empty; give one, or none at all")
    return password


def judge(password: bytes) -> str | None:
    """Say in one line what speaks against a password for an archive, or None if nothing does."""
    if len(password) > LONGEST:
        return (
            f"the password is {len(password)} bytes long; 7-Zip opens archives with at most "
            f"{LONGEST}, so choose a shorter one"
        )
    characters = len(password.decode("utf-8", "surrogateescape"))
    if password.lower().rstrip(b"0123456789!.") in _COMMON or len(set(password)) < 4:
        weakness = "is among the first that anyone would try"
    elif characters < _SHORT:
        weakness = f"is shorter than {_SHORT} characters"
    elif characters < _ONE_KIND_SHORT and any(kind.fullmatch(password) for kind in _KINDS):
        weakness = "is short and has one kind of characters only"
    else:
        return None
    return f"the password {weakness}; a few random words make a better one"


def looks_like_path(value: str) -> bool:
    """Whether what was given as a password is there on disk, so that a path was meant."""
    try:
        return os.path.lexists(value)
    except ValueError:  # a NUL
        return False


def prompt(*, confirm: bool, ask: Callable[[str], str] | None = None) -> bytes:
    """Ask for the password on the terminal without showing it; with `confirm`, twice.

    Three tries. Raises PlanError where there is no terminal, or no usable answer; Ctrl-C goes
    through.
    """
    ask = ask or _ask_terminal
    for _ in range(_TRIES):
        try:
            text = ask("Password: ")
            again = ask("Password again: ") if text and confirm else text
        except EOFError:
            break
        except UnicodeError as error:
            raise PlanError(
                f"the password is not UTF-8; set {PASSWORD_VARIABLE} to give its bytes"
            ) from error
        if text and text == again:
            return encode(text)
        # On the terminal, where the questions are; there is nothing secret in it.
        print("It is empty." if not text else "They differ.", file=sys.stderr)  # noqa: T201
    raise PlanError(f"no password was given; try again, or set {PASSWORD_VARIABLE}")


def _ask_terminal(question: str) -> str:
    from getpass import GetPassWarning, getpass

    if not _has_terminal():
        raise PlanError(
            f"-p: there is no terminal to ask for the password on; set {PASSWORD_VARIABLE}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)
        try:
            return getpass(question)
        except GetPassWarning as error:
            raise PlanError(
                f"-p: the terminal would show the password; set {PASSWORD_VARIABLE}"
            ) from error


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return sys.stdin is not None and sys.stdin.isatty()
    return True
