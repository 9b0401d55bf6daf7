"""What a file is called at the destination: `report.csv` → `report.csv_20261121_101500.gz`.

The time is the local one at which the round started. A taken name gets a number behind the time:
`report.csv_20261121_101500_2.gz`. Subfolders are kept.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final

from pybak.storage.naming import NAME_BYTES

GZ: Final = "gz"
ZIP: Final = "zip"
FORMATS: Final = (GZ, ZIP, "tar.gz", "tar.bz2", "tar.zst")
WRAPPER: Final = ".zip"
"""What the names of encrypted files end with, for formats that have no encryption."""


def is_wrapped(file_format: str, *, encrypted: bool) -> bool:
    """Whether the file lies in an encrypted ZIP of its own."""
    return encrypted and file_format != ZIP


def stored_name(
    path: bytes, moment: datetime, file_format: str, *, encrypted: bool, number: int = 1
) -> str:
    """Give the name, with its folders, below the destination; `path` is that below the source.

    `moment` is in local time. `number` tells names apart that would be the same.
    """
    again = f"_{number}" if number > 1 else ""
    wrapper = WRAPPER if is_wrapped(file_format, encrypted=encrypted) else ""
    return f"{os.fsdecode(path)}_{moment:%Y%m%d_%H%M%S}{again}.{file_format}{wrapper}"


def inner_name(name: str, file_format: str, *, encrypted: bool) -> bytes:
    """Give what a wrapped file is called inside: its name without the wrapper's ending."""
    base = os.path.basename(name)
    if is_wrapped(file_format, encrypted=encrypted):
        base = base.removesuffix(WRAPPER)
    return os.fsencode(base)


def trouble(name: str, *, in_storage: bool) -> str | None:
    """Say why no file can be called so, in a storage or at all."""
    if len(os.fsencode(os.path.basename(name))) > NAME_BYTES:
        return "its name is too long for time and ending to be added; shorten it"
    try:
        if in_storage:
            name.encode("utf-8")
    except UnicodeEncodeError:
        return "its name is no UTF-8, as names in storages are; rename it"
    return None


def numbered(name: str, number: int) -> str:
    """Give another name for a file that is put aside: `report.csv_2`."""
    return f"{name}_{number}" if number > 1 else name
