"""Paths as text that survives JSON: Prefect's parameters can't hold bytes that are not UTF-8.

Such a path travels as a `file://` URI (RFC 8089), all others as they are, and so do addresses of
files in storages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from pybak.storage.opening import check_address

_SCHEME: Final = "file://"


def to_portable(path: str) -> str:
    """Give `path`, or its URI if its name is no UTF-8; an address stays as it is.

    Raises PlanError for what is neither; see `check_address`.
    """
    check_address(path)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return Path(os.path.expanduser(path)).absolute().as_uri()
    return path


def from_portable(text: str) -> str:
    """Give back the path that `to_portable` took, with surrogate escapes (PEP 383).

    All but the URI of a local path stays as it is.
    """
    if not text.startswith(f"{_SCHEME}/"):  # of this host
        return text
    return os.fsdecode(unquote_to_bytes(text[len(_SCHEME) :]))
