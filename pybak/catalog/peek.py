"""What can be told of a catalog at a glance, before what reads catalogs properly is imported."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final
from urllib.parse import quote

_FILE: Final = "sqlite:///"
_NEEDS_READING: Final = frozenset("?%")
"""What the path in such a URL may mean something else by."""


def is_first_run(url: str, job: str) -> bool:
    """Whether a catalog surely has no snapshot of `job` yet; False where that is in doubt.

    Only a file is looked at. Nothing is made beside it but what SQLite needs to read, and nobody is
    waited for. A name of a job that is stored in another form than its own counts as a doubt.
    """
    if not url.startswith(_FILE) or _NEEDS_READING & set(url) or not _is_stored_so(job):
        return False
    try:
        path = os.path.realpath(url.removeprefix(_FILE))
        return not os.stat(path).st_size or _has_none(path, job)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # a NUL
        return False


def _is_stored_so(job: str) -> bool:
    return job.isascii() and "\\" not in job


def _has_none(path: str, job: str) -> bool:
    try:
        address = f"file:{quote(os.fsencode(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0)) as database:
            query = "SELECT 1 FROM run WHERE job = ? AND is_snapshot LIMIT 1"
            return database.execute(query, (job,)).fetchone() is None
    except sqlite3.Error:
        return False
