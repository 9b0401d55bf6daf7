"""Where programs lie that the tests need and that have an environment of their own.

`.ci/install-components` makes each in a folder of its name below `PYBAK_COMPONENTS`, by default
`~/.cache/pybak-components`.
"""

from __future__ import annotations

import os
from pathlib import Path

# Read once: the tests' own environment has no variables of PyBak.
_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
_FOLDER = Path(os.environ.get("PYBAK_COMPONENTS") or Path(_CACHE) / "pybak-components")
_PROGRAMS = {
    "swift": "swift-proxy-server",
    "linters": "checkov",
    "oidc": "oidc-provider",
}


def find_component(name: str) -> Path | None:
    """Give the folder of a component's programs, such as that of `swift`; None without it."""
    programs = _FOLDER / name / "bin"
    return programs if (programs / _PROGRAMS[name]).exists() else None
