"""Where an assembler's segments come from: workers who leave them, workers who send them, itself.

Who waits for a batch gets it here, whoever makes it. Where the archive is sent from this process,
a window says which batches may be begun; see `pybak.backup.window`. Where workers send by
themselves their stretches come as wholes; see `pybak.backup.stretches`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from pybak.backup.batches import Batch, Job, index_path, segment_path
from pybak.backup.segments import Segment, SegmentIndex, read_index
from pybak.backup.sending import SendingOutput
from pybak.backup.stretches import (
    Stretch,
    StretchRecord,
    read_record,
    read_stretches,
    record_path,
)
from pybak.backup.window import Window
from pybak.stages import UPLOAD, current

_POLL_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 5.0

Stopped = Callable[[], bool]
"""Whether no more segments will come."""


class StoppedError(Exception):
    """No more segments will come."""


class Arrivals:
    """Gives the batches in `folder` as they come.

    `compress` does a worker's work for the batch of a number, with the batch itself where it is
    none of the plan's. `stop_if_asked` raises what ends the waiting. With `is_alone` nobody else
    makes what no worker sends by itself. Raises OSError.

    `began_at` is when the first batch came, by `time.monotonic`, and `idle_seconds` how long it was
    waited since.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        *,
        compress: Callable[[int, Batch | None], None],
        stop_if_asked: Callable[[], None],
        sending: SendingOutput | None = None,
        staging_limit: int = 1 << 30,
        is_alone: bool = False,
    ) -> None:
        self._folder = folder
        self._job = job
        self._compress = compress
        self._stop_if_asked = stop_if_asked
        self._sending = sending
        self._is_alone = is_alone
        self._again: dict[int, Batch] = {}
        self._stages = current()
        self._made_at = time.monotonic()
        self.began_at: float | None = None
        self.idle_seconds = 0.0
        self._window: Window | None = None
        self._stretches: dict[int, Stretch] = {}
        if sending is not None:
            known = read_stretches(folder)
            self._stretches = {one.start: one for one in known.all} if known else {}
            if known:  # workers have the rest
                staging_limit //= 3
            self._window = Window(
                folder, job, staging_limit, last=job.parts if known else job.batches,
                staged=lambda: sending.staged_bytes,
                will_shrink=lambda: sending.is_waiting_for_storage,
            )  # fmt: skip

    def stretch(self, number: int) -> Stretch | None:
        """Give the stretch that begins with this batch."""
        return self._stretches.get(number)

    def wait_for(self, number: int, stopped: Stopped, *, is_folder: bool = False) -> None:
        """Wait until a batch has its index. Raises StoppedError if it never will.

        `is_folder` tells of one that only has folders above a large file.
        """
        path = index_path(self._folder, number)
        if number in self._again:
            self._make_again(number)
        elif number < self._job.batches and (self._is_alone or (is_folder and self._stretches)):
            self._compress(number, None)  # nobody else has it
        waited = 0.0
        while True:
            if self._window is not None and number < self._job.batches:
                self._window.update(number)
            if path.exists():
                self._has_come()
                return
            self._stop_if_asked()
            # Ask first, look again after: what was finished last must not be missed.
            if stopped() and not path.exists():
                raise StoppedError
            if self._window is not None and self._window.is_shut and waited > _PATIENCE_SECONDS:
                # It may be in the hand of a task that waits for others to end, which wait for it.
                self._compress(number, None)
                continue
            self._pause()
            waited += _POLL_SECONDS

    def record_of(self, stretch: Stretch, stopped: Stopped) -> StretchRecord:
        """Wait until a stretch is sent. Raises StoppedError if it never will be."""
        path = record_path(self._folder, stretch.start)
        while not path.exists():
            self._stop_if_asked()
            if stopped() and not path.exists():
                raise StoppedError
            self._pause()
        self._has_come()
        record = read_record(self._folder, stretch.start)
        self._measure(record)
        return record

    def _pause(self) -> None:
        start = time.monotonic()
        time.sleep(_POLL_SECONDS)
        if self.began_at is not None:
            self.idle_seconds += time.monotonic() - start

    def _has_come(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()

    def _measure(self, record: StretchRecord) -> None:
        """Tell when a worker sent what it did; the clock of its host may be another one."""
        if self._stages is None or record.sent is None:
            return
        first, last, busy = record.sent
        now = time.monotonic()
        shift = now - time.time()
        end = max(min(last + shift, now), self._made_at)
        self._stages.add(UPLOAD, min(max(first + shift, self._made_at), end), end, busy=busy)

    def lay(self, stretch: Stretch, record: StretchRecord) -> None:
        """Lay down what was sent."""
        assert self._sending is not None
        self._sending.append_sent(
            range(stretch.first, stretch.end), record.held, record.parts, record.tail,
            is_last=stretch.stop == self._job.batches,
        )  # fmt: skip

    def in_order(self, numbers: range, stopped: Stopped) -> Iterator[tuple[SegmentIndex, Segment]]:
        """Yield batches as they come, whoever sends them."""
        number = numbers.start
        while number < numbers.stop:
            if (stretch := self.stretch(number)) is not None:
                record = self.record_of(stretch, stopped)
                yield record.indexes[0], Segment(Path(), partial(self.lay, stretch, record))
                for index in record.indexes[1:]:
                    yield index, Segment(Path(), _nothing)
                number = stretch.stop
                continue
            self.wait_for(number, stopped)
            index = read_index(self._folder, number)
            yield index, Segment(segment_path(self._folder, index.segment))
            number += 1

    def make_again(self, batches: Mapping[int, Batch]) -> None:
        """Have these made here: at once, or one after the other where staging is bounded.

        Read close together they are more likely to be of one state.
        """
        self._again = dict(batches)
        if self._window is None:
            for number in batches:
                self._make_again(number)

    def _make_again(self, number: int) -> None:
        batch = self._again.pop(number)
        self._stop_if_asked()
        while self._window is not None and self._window.has_no_room(batch):
            self._stop_if_asked()
            self._pause()
        self._compress(number, batch)

    def close(self) -> None:
        """Let workers that wait go on; fine the second time."""
        if self._window is not None:
            self._window.close()


def _nothing() -> None:
    """Do nothing: it is laid down already."""
