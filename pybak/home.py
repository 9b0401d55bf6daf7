"""Where PyBak keeps what belongs to it on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "PYBAK_HOME"
CATALOG_VARIABLE: Final = "PYBAK_CATALOG_URL"


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Give the folder of all local state: `PYBAK_HOME`, or the platform's data folder."""
    if value := environ.get(HOME_VARIABLE):
        return Path(value).absolute()
    from platformdirs import user_data_path

    return user_data_path("pybak")


def can_write(folder: Path) -> bool:
    """Whether a folder can be written, or made if it is missing."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def catalog_url(environ: Mapping[str, str] = os.environ) -> str:
    """Give the catalog's database URL: `PYBAK_CATALOG_URL`, or an SQLite file in the home."""
    return environ.get(CATALOG_VARIABLE) or f"sqlite:///{home(environ) / 'catalog.db'}"
