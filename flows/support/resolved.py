"""Paths of runs that somebody asked for over HTTP are used as they were judged, or not at all.

The REST API limits requests to folders, and resolves links when it is asked. Until the run begins
a link may have come into the way, as another request's restore may make one, and lead elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from pybak.display import printable
from pybak.errors import PlanError
from pybak.portable import from_portable
from pybak.storage.opening import is_remote

_PREFIX: Final = "resolved:"
_PATHS: Final = ("sources", "source", "to", "output", "destination")


def resolved_tags(parameters: Mapping[str, Any]) -> list[str]:
    """Give the tags that say which of these parameters were resolved."""
    return [_PREFIX + name for name in _PATHS if parameters.get(name)]


def check_resolved(
    tags: Collection[str] | None, parameters: Mapping[str, str | Iterable[str] | None]
) -> None:
    """Raise PlanError where a path that was resolved, by a run's tags, leads elsewhere by now."""
    for name, given in parameters.items():
        if not given or _PREFIX + name not in (tags or ()):
            continue
        for place in [given] if isinstance(given, str) else given:
            path = from_portable(place)
            if not is_remote(path) and os.path.realpath(path) != path:
                raise PlanError(
                    f"{printable(path)}: a link has come into its way since it was asked for; ask "
                    "again"
                )
