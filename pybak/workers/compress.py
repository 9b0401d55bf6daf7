"""Compress a hand of batches where it is best done: by a helper process, or here."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pybak.backup.compress import compress_batches
from pybak.backup.hands import Hand
from pybak.progress import WorkerProgress
from pybak.workers.messages import Order
from pybak.workers.pool import HelpersUnavailableError, current_pool


def compress_hand(folder: Path, hand: Hand, progress: Path, *, password: bytes | None) -> int:
    """Compress the batches of `hand` in the staging folder; give how many.

    One of the run's helpers does it, if it has any that work; `progress` is the file that tells
    how far it is. Raises what `compress_batches` does, and HelperError.
    """
    pool = current_pool()
    if pool is not None:
        order = Order(
            folder=os.fsencode(folder), progress=os.fsencode(progress),
            start=hand.start, stop=hand.stop, step=hand.step, password=password,
        )  # fmt: skip
        with contextlib.suppress(HelpersUnavailableError):  # it has said so
            return pool.compress(order)
    with WorkerProgress(progress) as record:
        return compress_batches(folder, hand.batches(), password=password, advance=record.advance)
