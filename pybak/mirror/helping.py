"""What helper processes of a mirror do, and how they are asked.

They import this while they wait for their first order, so it must be light.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pybak.errors import StorageError, reason
from pybak.mirror.account import Outcome
from pybak.mirror.copy import copy_hand
from pybak.mirror.walk import Order, compared
from pybak.progress import following
from pybak.staging import is_cancelled
from pybak.workers.pool import HelpersUnavailableError, current_pool

_FUNCTION: Final = "pybak.mirror.helping:copy_order"


def compare_order(argument: bytes) -> bytes:
    """Compare the piece that an `Order` names; gives a `Compared`. For helpers."""
    return msgspec.msgpack.encode(compared(msgspec.msgpack.decode(argument, type=Order)))


class HandOrder(msgspec.Struct, frozen=True):
    """A hand for a helper to copy."""

    work_dir: str
    name: str
    hand: str


def mirror_hand(work_dir: Path, name: str, hand: Path) -> Outcome:
    """Copy a hand where it is best done: by a helper of the run, or here.

    Raises StorageError if source or target can't be opened any more.
    """
    order = HandOrder(str(work_dir), name, str(hand))
    pool = current_pool()
    if pool is not None:
        try:
            answer = pool.call(_FUNCTION, msgspec.msgpack.encode(order))
        except HelpersUnavailableError:  # it has said so
            pass
        else:
            return msgspec.msgpack.decode(answer, type=Outcome)
    return _copied(order)


def copy_order(argument: bytes) -> bytes:
    """Copy the hand that a `HandOrder` names; gives an `Outcome`. For helpers."""
    return msgspec.msgpack.encode(_copied(msgspec.msgpack.decode(argument, type=HandOrder)))


def _copied(order: HandOrder) -> Outcome:
    work_dir = Path(order.work_dir)
    with following(work_dir / "progress" / order.name) as progress:
        try:
            return copy_hand(
                work_dir, Path(order.hand), should_stop=lambda: is_cancelled(work_dir),
                progress=progress,
            )  # fmt: skip
        except OSError as error:
            message = f"source or destination can't be opened any more: {reason(error).lower()}"
            raise StorageError(message) from error
