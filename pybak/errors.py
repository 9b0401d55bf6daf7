"""The four error families, by who can act on them, and the exit codes they end in.

A message says what, where and what to do next, in one line. Foreign exceptions are
translated once, at the edge, with `from`.
"""

from __future__ import annotations

import os
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    NOT_FOUND = 10
    LOCKED = 11
    WRONG_PASSWORD = 12
    INTERRUPTED = 130


class PyBakError(Exception):
    """Anything PyBak stops for on purpose; `exit_code` is what the command ends with.

    `job` and `mode` are those of the backup that it ended, set by whoever knows, for its report.
    """

    exit_code: ExitCode = ExitCode.FAILED
    job: str | None = None
    mode: str | None = None


class PlanError(PyBakError):
    """The caller asked for something that can't be done: usage, configuration."""

    exit_code = ExitCode.USAGE


class NotFoundError(PlanError):
    """A source or an archive that was named does not exist."""

    exit_code = ExitCode.NOT_FOUND


class SourceError(PyBakError):
    """One file can't be read or written; it is recorded and the run goes on as partial.

    `code` is one of the codes of `pybak.problems`.
    """

    exit_code = ExitCode.PARTIAL

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class ArchiveError(PyBakError):
    """The bytes of an archive are not what they should be."""


class WrongPasswordError(ArchiveError):
    """An encrypted archive was opened with a wrong password, or with none."""

    exit_code = ExitCode.WRONG_PASSWORD


class StorageError(PyBakError):
    """The place that holds archives failed; `retryable` tells whether trying again can help.

    `is_denied` tells that the storage did nothing because these credentials may not do it.
    """

    def __init__(self, message: str, *, retryable: bool = False, is_denied: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.is_denied = is_denied


class ExistsError(StorageError):
    """What was to be written has a name that is taken; nothing was changed."""


class LockedError(PyBakError):
    """Another run holds what this one needs."""

    exit_code = ExitCode.LOCKED


class Interrupted(PyBakError):  # noqa: N818 - a request that was honoured, not an error
    """Someone asked the run to stop."""

    exit_code = ExitCode.INTERRUPTED


def reason(error: Exception) -> str:
    """Give an operating system's reason in a few words."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
