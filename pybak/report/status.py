"""How a run ended, in a word, and the exit code that tells the same."""

from __future__ import annotations

from typing import Final

from pybak.errors import ExitCode

SUCCESS: Final = "success"
UNCHANGED: Final = "unchanged"
PARTIAL: Final = "partial"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

EXIT_CODES: Final = {
    SUCCESS: ExitCode.DONE,
    UNCHANGED: ExitCode.DONE,
    PARTIAL: ExitCode.PARTIAL,
    FAILED: ExitCode.FAILED,
    CANCELLED: ExitCode.INTERRUPTED,
}
