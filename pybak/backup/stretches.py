"""Workers that send what they compress: a stretch of batches, straight into parts of the archive.

Only for an archive that is one plain file. A stretch is a run of batches that one worker takes:
of small files, or parts of one large file. It sends its output as parts under numbers that are kept
for it, while it compresses. Two small pieces are left for the archive's own process: the first
bytes, because what the stretch before could not fill a part with goes into one part with them, and
the last ones, if they are too few for a part. All else that the archive needs to know stands in the
stretch's record, which appears once, when all is sent. Running a stretch again, after its worker
died, does all of it anew under the same numbers: what is sent again replaces what was sent before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak import staging
from pybak.backup.batches import Job, read_batch, segment_path
from pybak.backup.output import Extent
from pybak.backup.part_sizes import PART_BYTES
from pybak.backup.segments import SegmentIndex
from pybak.backup.send_pieces import Piece, StagedFiles, read_piece
from pybak.backup.sender import Sender
from pybak.backup.window import most_bytes
from pybak.errors import Interrupted
from pybak.stages import UPLOAD, Stages
from pybak.storage.opening import open_storage
from pybak.storage.protocol import PartLimits, SentPart, Upload

_LEAST_PARTS: Final = 4
"""A stretch of fewer parts is not worth a task of its own."""
_LEAST_OF_LARGE: Final = 2
_SHARE: Final = 0.6  # of what is left goes into the next wave
_SPARE_NUMBERS: Final = 3
_USED: Final = 0.5  # of all numbers, so that what comes before and behind has some, too
_USED_AT_MOST: Final = 0.9
_MIB: Final = 1 << 20
_POLL_SECONDS: Final = 0.02


class Stretch(msgspec.Struct, frozen=True):
    """The batches from `start` to before `stop`, and the part numbers `first` to before `end`."""

    start: int
    stop: int
    first: int
    end: int


class Stretches(msgspec.Struct, frozen=True):
    """All of a run; parts of them have `part_bytes`. Smaller numbers than theirs are free.

    A worker sends `threads` parts at once, and compresses no more while `staged_bytes` of its own
    wait to be sent.
    """

    part_bytes: int
    threads: int
    staged_bytes: int
    all: list[Stretch]


class Target(msgspec.Struct, frozen=True):
    """The upload that a run's stretches are parts of."""

    address: str
    upload: Upload


class StretchRecord(msgspec.Struct, frozen=True):
    """What became of a stretch: the indexes of its batches, and where its bytes are, in order.

    `held` and `tail` are in staged files; `parts` are sent. `sent` tells when that began and ended
    (Unix time of the worker's host), and the seconds of all who sent.
    """

    indexes: list[SegmentIndex]
    held: list[Extent]
    parts: list[SentPart]
    tail: list[Extent]
    sent: tuple[float, float, float] | None = None


def plan_stretches(
    folder: Path, job: Job, *, workers: int, limits: PartLimits, staged_bytes: int,
    threads: int = 2, always: bool = False,
) -> Stretches | None:  # fmt: skip
    """Deal the batches out in runs that become shorter, and note it in `folder`.

    `staged_bytes` may wait in all workers together. None, and nothing noted, if that is too little
    or there is too little to send (but not if it is to be done `always`). Parts become larger
    until their numbers suffice; where they never do, large files are left to the archive's own
    process.
    """
    sizes, counts = [], []
    for number in range(job.batches):
        batch = read_batch(folder, number, job.parts)
        sizes.append(most_bytes(batch))
        if number < job.parts:
            counts.append(batch.part.count if batch.part is not None else 0)
    # What is encrypted as one stream can't be made by several; see `assemble_zip`.
    groups = list(_groups([] if job.encrypted else counts))
    of_small = [(job.parts, job.batches)] if job.parts < job.batches else []
    staged_bytes //= workers
    for chosen in (groups + of_small, of_small):
        own = sum(sum(sizes[start:stop]) for start, stop in chosen)
        part_bytes = _least_part_bytes(sum(sizes), limits)
        if not chosen or (not always and own < 2 * _LEAST_PARTS * part_bytes):
            continue
        while part_bytes <= limits.most and (always or part_bytes + max(sizes) <= staged_bytes):
            first = int((sum(sizes) - own) * 1.1) // part_bytes + 51
            found = list(_numbered(sizes, chosen, job.parts, workers, part_bytes, first))
            if found[-1].end <= limits.count * _USED_AT_MOST:
                stretches = Stretches(part_bytes, threads, staged_bytes, found)
                _plan_path(folder).write_bytes(msgspec.msgpack.encode(stretches))
                (folder / "stretches").mkdir(exist_ok=True)
                return stretches
            if part_bytes > own:
                break  # each has one part by now
            part_bytes *= 2
    return None


def _least_part_bytes(size: int, limits: PartLimits) -> int:
    wanted = int(size / (limits.count * _USED))
    return max(PART_BYTES, limits.least, -(-wanted // _MIB) * _MIB if wanted > PART_BYTES else 0)


def _numbered(
    sizes: Sequence[int], groups: Sequence[tuple[int, int]], parts: int, workers: int,
    part_bytes: int, number: int,
) -> Iterator[Stretch]:  # fmt: skip
    """Give the stretches of these groups of batches, with part numbers from `number` on."""
    left = sum(sum(sizes[start:stop]) for start, stop in groups)
    for begin, end in groups:
        own = sizes[begin:end]
        least = (_LEAST_PARTS if begin >= parts else _LEAST_OF_LARGE) * part_bytes
        # There is enough for the others while one worker takes a file that is not among the last.
        is_one = begin < parts and sum(own) <= max(least, left * _SHARE / workers)
        for start, stop in [(0, len(own))] if is_one else _runs(own, workers, least):
            count = -(-sum(own[start:stop]) // part_bytes)
            after = number + 1 + count + min(_SPARE_NUMBERS, count // 2)
            yield Stretch(begin + start, begin + stop, number, after)
            number = after
        left -= sum(own)


def _groups(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give where the batches of each large file begin and end.

    `counts` has for each batch how many parts its file has; none for folders.
    """
    number = 0
    while number < len(counts):
        if counts[number]:
            yield number, number + counts[number]
        number += counts[number] or 1


def _runs(sizes: Sequence[int], workers: int, least: int) -> Iterator[tuple[int, int]]:
    """Cut batches of these sizes into runs: waves of one a worker, each of most of what is left."""
    start, left = 0, sum(sizes)
    while start < len(sizes):
        wanted = max(least, int(left * _SHARE / workers))
        for _ in range(workers):
            stop, taken = start, 0
            while stop < len(sizes) and taken < wanted:
                taken += sizes[stop]
                stop += 1
            if left - taken < least:  # what would be left is no stretch
                stop, taken = len(sizes), left
            if stop > start:
                yield start, stop
            start, left = stop, left - taken


def _plan_path(folder: Path) -> Path:
    return folder / "stretches.plan"


def record_path(folder: Path, start: int) -> Path:
    """Where the record of the stretch that begins with batch `start` appears."""
    return folder / "stretches" / f"{start:07d}"


def read_stretches(folder: Path) -> Stretches | None:
    """Give what was planned; None if workers send nothing."""
    try:
        return msgspec.msgpack.decode(_plan_path(folder).read_bytes(), type=Stretches)
    except FileNotFoundError:
        return None


def read_record(folder: Path, start: int) -> StretchRecord:
    """Read the record of a stretch that is done."""
    return msgspec.msgpack.decode(record_path(folder, start).read_bytes(), type=StretchRecord)


def write_target(folder: Path, target: Target) -> None:
    """Tell workers where their parts go, before any begins."""
    (folder / "stretches.target").write_bytes(msgspec.msgpack.encode(target))


def stretch_from(folder: Path, numbers: Sequence[int]) -> Stretch | None:
    """Give the stretch that these batches are."""
    if not numbers or (known := read_stretches(folder)) is None:
        return None
    return next((one for one in known.all if one.start == numbers[0]), None)


MakeSegment = Callable[[int], SegmentIndex]
"""Compresses one batch into a segment, and gives its index."""


def send_stretch(folder: Path, job: Job, stretch: Stretch, make: MakeSegment) -> None:
    """Compress the batches of a stretch by `make`, and send them; nothing if that is done.

    Raises what `make` does, StorageError, OSError, and Interrupted once a cancel was requested.
    """
    if record_path(folder, stretch.start).exists():
        return
    plan = read_stretches(folder)
    assert plan is not None
    target = msgspec.msgpack.decode((folder / "stretches.target").read_bytes(), type=Target)
    files = StagedFiles()
    stages = Stages()
    sender = Sender(open_storage(target.address), files, threads=plan.threads, stages=stages)
    try:
        sending = _Sending(folder, stretch, plan, sender, target.upload)
        indexes = []
        for number in range(stretch.start, stretch.stop):
            sending.wait_for_room(most_bytes(read_batch(folder, number, job.parts)))
            index = make(number)
            indexes.append(index)
            path = segment_path(folder, index.segment)
            if index.size:
                sending.add(files.add(os.fsencode(path), index.size))
            else:
                path.unlink()
        record = msgspec.structs.replace(sending.finish(indexes), sent=_times(stages))
        if not staging.write_once(
            record_path(folder, stretch.start), msgspec.msgpack.encode(record)
        ):
            for extent in (*record.held, *record.tail):
                os.unlink(extent.path)
    finally:
        sender.stop()


def _times(stages: Stages) -> tuple[float, float, float] | None:
    """Give when parts were sent, as other processes understand it."""
    span = stages.span(UPLOAD)
    if span is None or span[2] is None:
        return None
    shift = time.time() - time.monotonic()
    return span[0] + shift, span[1] + shift, span[2]


def _stop_if_asked(folder: Path) -> None:
    if staging.is_cancelled(folder):
        raise Interrupted("stopped on request")


class _Sending:
    """Cuts a stretch's bytes into what is held, parts, and the tail."""

    def __init__(
        self, folder: Path, stretch: Stretch, plan: Stretches, sender: Sender, upload: Upload
    ) -> None:
        self._folder = folder
        self._stretch = stretch
        self._part_bytes = plan.part_bytes
        self._staged_bytes = plan.staged_bytes
        self._sender = sender
        self._upload = upload
        self._least = sender.storage.limits.least if sender.storage.limits.least > 1 else 0
        self._number = stretch.first + 1
        self._held: list[Extent] = []
        self._held_size = 0
        self._pending: list[Piece] = []
        self._pending_size = 0
        self._parts: list[Callable[[], SentPart]] = []

    def wait_for_room(self, size: int) -> None:
        """Wait until `size` bytes more may be staged, as long as sending makes room."""
        sender = self._sender
        while True:
            _stop_if_asked(self._folder)
            sender.check()
            if sender.files.bytes + size <= self._staged_bytes or not sender.is_busy:
                return
            time.sleep(_POLL_SECONDS)

    def add(self, piece: Piece) -> None:
        """Take the next bytes."""
        files = self._sender.files
        if (missing := self._least - self._held_size) > 0:
            held, rest = files.cut(piece, missing) if piece.size > missing else (piece, None)
            self._held += self._kept([held])
            self._held_size += held.size
            if rest is None:
                return
            piece = rest
        while self._pending_size + piece.size > self._part_bytes and not self._is_last_number:
            if room := self._part_bytes - self._pending_size:
                first, piece = files.cut(piece, room)
                self._append(first)
            self._send()
        self._append(piece)

    @property
    def _is_last_number(self) -> bool:
        """Whether all that comes must go into one part: files have grown much."""
        return self._number == self._stretch.end - 1

    def _append(self, piece: Piece) -> None:
        self._pending.append(piece)
        self._pending_size += piece.size

    def _kept(self, pieces: Sequence[Piece]) -> list[Extent]:
        """Copy few bytes to a file of their own, so that the segments can go."""
        path = self._folder / "segments" / f"kept.{os.urandom(8).hex()}"
        size = 0
        with path.open("xb") as out:
            for piece in pieces:
                for block in read_piece(piece):
                    size += out.write(block)
                self._sender.files.drop(piece)
        return [Extent(size, os.fsencode(path))]

    def _send(self) -> None:
        pieces, number, sender = self._pending, self._number, self._sender
        upload = self._upload
        self._pending, self._pending_size = [], 0
        self._number += 1

        def send() -> SentPart:
            sent = sender.storage.send(upload, number, sender.body(pieces))
            for piece in pieces:
                sender.files.drop(piece)
            return sent

        self._parts.append(sender.submit(send).result)

    def finish(self, indexes: list[SegmentIndex]) -> StretchRecord:
        """Send what is left, wait for all of it, and say what became of it."""
        tail: list[Extent] = []
        if self._pending_size >= max(1, self._least):
            self._send()
        elif self._pending:
            tail = self._kept(self._pending)
        try:
            parts = [sent() for sent in self._parts]
        except BaseException:
            self._sender.check()
            raise
        if self._held_size < self._least and not parts:
            return StretchRecord(indexes, [], [], [*self._held, *tail])
        return StretchRecord(indexes, self._held, parts, tail)
