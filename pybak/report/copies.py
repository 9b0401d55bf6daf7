"""What became of an archive's copies in the further places of a backup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pybak.problems import STORAGE, Problem
from pybak.units import format_count
from pybak.volumes.model import Volume

COPIED: Final = "copied"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


class CopyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One copy. `to` is the folder, `archive` what the copy is, or would have been, called.

    `status` is `copied`, `failed` or `cancelled`; `message` tells why there is no copy, or what one
    that was made lacks, and what to do. `volumes` are those of a copy that was made.
    """

    to: str
    archive: str
    status: str = COPIED
    volumes: tuple[Volume, ...] = ()
    message: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether it is there."""
        return self.status == COPIED

    def to_json(self) -> dict[str, Any]:
        """Give one element of `copies`."""
        return {
            "archive": self.archive,
            "volumes": [volume.to_json() for volume in self.volumes],
            "status": self.status,
            "message": self.message,
        }


def problems_of(copies: Sequence[CopyOutcome]) -> tuple[Problem, ...]:
    """Give an error for each copy that was not made."""
    return tuple(Problem(one.to, STORAGE, one.message or "") for one in copies if not one.is_made)


def missing(copies: Sequence[CopyOutcome]) -> str:
    """Say how many copies were not made; nothing if all were."""
    failed = sum(not one.is_made for one in copies)
    if not failed:
        return ""
    of = f" of {len(copies)}" if len(copies) > 1 else ""
    count = format_count(failed, "copy", "copies") if not of else f"{failed}{of} copies"
    return f"{count} {'was' if failed == 1 else 'were'} not made"
