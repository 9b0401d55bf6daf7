"""What became of a file that an inbox took, as the catalog's rows say it.

A row goes PLANNED → MADE → STORED → DONE, one commit a step. Beside that way lie PLANNED →
DISCARDING → DUPLICATE, and MADE or STORED → WITHDRAWN, after which the row is deleted, as it is
when a file is left as it was. `pybak.inbox.recover` tells what each state means to a run that finds
it after a kill.
"""

from __future__ import annotations

from typing import Final

PLANNED: Final = "planned"
"""It is about to be compressed: nothing is at the destination."""
MADE: Final = "made"
"""The bytes that are to be stored are known; some may be stored already."""
STORED: Final = "stored"
"""It is at all its places, checked; the source may be removed."""
DONE: Final = "done"
"""The source is gone, or stays because it was to be kept."""
WITHDRAWN: Final = "withdrawn"
"""The source changed, so what was stored is to be taken back."""
DISCARDING: Final = "discarding"
"""A duplicate whose source is about to go."""
DUPLICATE: Final = "duplicate"
"""A duplicate whose source is gone, or stays because it was to be kept."""

OPEN: Final = (PLANNED, MADE, STORED, WITHDRAWN, DISCARDING)
"""States in which only a killed run leaves a row."""
THERE: Final = (DONE,)
"""States in which a copy lies at the destination to stay; one of a STORED row may be taken back."""
