"""See that all who encrypt a run's archive have its password.

A worker on another machine has an environment of its own. What it would encrypt with another
password, or not at all, could not be opened with the rest.
"""

from __future__ import annotations

from pathlib import Path

from pybak import aes
from pybak.errors import PlanError


def leave_check(folder: Path, password: bytes) -> None:
    """Leave in a run's folder what its password can be told by. Raises OSError."""
    _path(folder).write_bytes(aes.password_check(password))


def needed(password: bytes | None) -> bytes:
    """Give the password. Raises PlanError without one."""
    if password is None:
        raise PlanError(
            "a password is needed to encrypt, and this worker has none; set PYBAK_PASSWORD there, "
            "or name a password block"
        )
    return password


def check_password(folder: Path, password: bytes | None) -> bytes:
    """Give the password. Raises PlanError if it is none, or not the one of the run in `folder`."""
    given = needed(password)
    if not aes.is_password(given, _path(folder).read_bytes()):
        raise PlanError(
            "this worker has another password than the run; set the same PYBAK_PASSWORD there, or "
            "name a password block"
        )
    return given


def _path(folder: Path) -> Path:
    return folder / "password-check"
