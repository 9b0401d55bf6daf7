"""Paths as text that survives JSON: Prefect's parameters can't hold bytes that are not UTF-8.

Such a path travels as a `file://` URI (RFC 8089), all others as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

_SCHEME: Final = "file://"


def to_portable(path: str) -> str:
    """Give `path`, or its URI if its name is no UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return Path(path).absolute().as_uri()
    return path


def from_portable(text: str) -> str:
    """Give back the path that `to_portable` took, with surrogate escapes (PEP 383)."""
    if not text.startswith(_SCHEME):
        return text
    return os.fsdecode(unquote_to_bytes(text[len(_SCHEME) :]))
