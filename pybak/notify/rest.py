"""Whole reports on disk, for mails that can't name every file.

Each is what `--json` would have printed, in `PYBAK_HOME/reports`, for the owner's eyes only. The
newest few are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

KEPT: Final = 20


def leave_report(folder: Path, name: str, report: dict[str, Any]) -> Path | None:
    """Write a report under the name of its run; give where, or None if it can't be written."""
    path = folder / f"{''.join(c for c in name if c.isalnum() or c in '-_')}.json"
    unfinished = path.with_suffix(".new")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(report, file, indent=1)
        unfinished.rename(path)
        _drop_old(folder)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        return None
    return path


def _drop_old(folder: Path) -> None:
    def age(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:  # another run was quicker
            return 0.0

    for path in sorted(folder.glob("*.json"), key=age)[:-KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()
