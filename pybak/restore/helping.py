"""What helper processes of a restore do, and how they are asked.

They import this while they wait for their first order, so it must be light. They know no storage
but folders: what reads an archive elsewhere has its credentials in the run alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from pybak.progress import following
from pybak.restore.extract import extract_batch
from pybak.restore.outcome import Outcome
from pybak.staging import is_cancelled
from pybak.workers.pool import HelpersUnavailableError, current_pool

MODULE: Final = __name__
"""What helpers import which are to restore."""

_FUNCTION: Final = f"{__name__}:extract_order"


class BatchOrder(msgspec.Struct, frozen=True):
    """A batch for a helper to unpack: the file of that name, with progress told as `name`."""

    staging: bytes
    name: str
    batch: bytes
    password: bytes | None = None

    def __repr__(self) -> str:
        """Say what it is about, without the password."""
        return f"BatchOrder({self.staging!r}, {self.name!r}, {self.batch!r})"


def extract_hand(staging: Path, name: str, batch: Path, *, password: bytes | None) -> Outcome:
    """Unpack a batch where it is best done: by a helper of the run, or here.

    Raises what `extract_batch` does, and HelperError.
    """
    order = BatchOrder(os.fsencode(staging), name, os.fsencode(batch), password)
    pool = current_pool()
    if pool is not None:
        try:
            answer = pool.call(_FUNCTION, msgspec.msgpack.encode(order))
        except HelpersUnavailableError:  # it has said so
            pass
        else:
            return msgspec.msgpack.decode(answer, type=Outcome, dec_hook=_path)
    return _extracted(order)


def extract_order(argument: bytes) -> bytes:
    """Unpack the batch that a `BatchOrder` names; gives an `Outcome`. For helpers."""
    outcome = _extracted(msgspec.msgpack.decode(argument, type=BatchOrder))
    return msgspec.msgpack.encode(outcome, enc_hook=os.fsencode)


def _extracted(order: BatchOrder) -> Outcome:
    staging = Path(os.fsdecode(order.staging))
    with following(staging / "progress" / order.name) as progress:
        return extract_batch(
            Path(os.fsdecode(order.batch)), password=order.password,
            should_stop=lambda: is_cancelled(staging), progress=progress,
        )  # fmt: skip


def _path(_type: type, value: Any) -> Path:
    return Path(os.fsdecode(value))
