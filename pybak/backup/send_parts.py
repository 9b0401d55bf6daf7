"""A file of a storage that is sent in parts while it grows.

Parts all have one size until the numbers run low. A part goes as soon as it is full and all of its
bytes are known; one that begins before a mark and ends behind it stays here until the mark is
settled, for then its first bytes may be needed again. What is dropped is simply not named when the
file is completed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Final

from pybak.backup.part_sizes import PartSizes
from pybak.backup.send_pieces import Piece
from pybak.backup.sender import Sender, unreadable
from pybak.errors import ExistsError
from pybak.storage.body import ExtentsBody
from pybak.storage.protocol import SentPart, Storage, Stored, Upload
from pybak.storage.unfinished import may_be
from pybak.volumes.model import VolumePart

_MIB: Final = 1 << 20
_POLL_SECONDS: Final = 0.2


class _Part:
    """A full part: waits to be sent, is being sent, was sent, or was dropped."""

    def __init__(self, number: int, start: int, pieces: list[Piece]) -> None:
        self.number = number
        self.start = start
        self.size = sum(piece.size for piece in pieces)
        self.pieces = pieces
        self.sending: Future[SentPart] | None = None
        self.is_dropped = False

    def is_needed(self) -> bool:
        return not self.is_dropped

    @property
    def end(self) -> int:
        return self.start + self.size


class PartedFile:
    """The file `name`, sent while bytes are added. Its methods are called by one thread.

    With `is_alone` a file of no more than one part is kept, and written at once by `complete`.
    `on_begin` is told the upload before anything is sent.
    """

    def __init__(
        self,
        name: str,
        sender: Sender,
        sizes: PartSizes,
        *,
        is_alone: bool = False,
        on_begin: Callable[[Upload], None] = lambda _upload: None,
    ) -> None:
        self.name = name
        self.size = 0
        self.stored: Stored | None = None
        self._sender = sender
        self._sizes = sizes
        self._is_alone = is_alone
        self._on_begin = on_begin
        self._upload: Upload | None = None
        self._parts: list[_Part] = []
        self._waiting: list[_Part] = []  # of these, what is not being sent
        self._dropped: list[Future[SentPart]] = []
        self._pending: list[Piece] = []
        self._pending_size = 0
        self._number = 1
        self._next_number = 2
        self._last_number: int | None = None
        self._has_kept = False
        self._wanted = sizes.size(1)
        self._mark: int | None = None
        self._whole_sha256: str | None = None
        self._completing_ns: int | None = None

    def add(self, piece: Piece) -> None:
        """Lay a piece behind what is there. Raises StorageError."""
        self.size += piece.size
        while self._pending_size + piece.size > self._wanted and not self._is_last_number:
            if room := self._wanted - self._pending_size:
                first, piece = self._sender.files.cut(piece, room)
                self._append(first)
            self._close_part()
        self._append(piece)

    @property
    def _is_last_number(self) -> bool:
        """Whether all that comes goes into one part, until others' parts follow."""
        return self._last_number is not None and self._number >= self._last_number

    def _append(self, piece: Piece) -> None:
        self._pending.append(piece)
        self._pending_size += piece.size

    def _close_part(self) -> None:
        self._wanted = self._sizes.size(self._next_number)
        self._close_last_part()

    def _close_last_part(self) -> None:
        part = _Part(self._number, self._closed, self._pending)
        self._parts.append(part)
        self._pending, self._pending_size = [], 0
        self._number, self._next_number = self._next_number, self._next_number + 1
        self._waiting.append(part)
        self.filled()

    @property
    def _closed(self) -> int:
        """Bytes that are in full parts."""
        return self._parts[-1].end if self._parts else 0

    @property
    def is_waiting(self) -> bool:
        """Whether a full part waits for a room to be filled, or for a mark to be settled."""
        return bool(self._waiting)

    def filled(self) -> None:
        """Look again whether parts can go, because a room was filled."""
        for part in self._waiting:
            if all(piece.is_ready for piece in part.pieces) and not self._is_around_mark(part):
                self._send(part)
        self._waiting = [part for part in self._waiting if part.sending is None]

    def _is_around_mark(self, part: _Part) -> bool:
        return self._mark is not None and part.start < self._mark < part.end

    def begin(self) -> Upload:
        """Begin the upload, if that is not done. Raises StorageError."""
        if self._upload is None:
            self._upload = self._sender.storage.begin(self.name)
            self._on_begin(self._upload)
        return self._upload

    def _send(self, part: _Part) -> None:
        storage, files = self._sender.storage, self._sender.files
        upload, pieces, number = self.begin(), part.pieces, part.number

        def send() -> SentPart:
            try:
                return storage.send(upload, number, self._sender.body(pieces, part.is_needed))
            finally:
                for piece in pieces:
                    files.drop(piece)
                pieces.clear()

        part.sending = self._sender.submit(send, part.is_needed)

    def keep_numbers(self, last: int | None) -> None:
        """Leave the numbers from `last` on to others; none, once nothing more comes from them."""
        self._last_number = last
        self._has_kept = True

    def add_sent(
        self, numbers: range, held: Sequence[Piece], parts: Sequence[SentPart],
        tail: Sequence[Piece],
    ) -> None:  # fmt: skip
        """Lay down what others have sent as `parts`, between `held` and `tail`.

        `numbers` are theirs; the first one is for what lies before the parts.
        """
        if parts:
            for piece in held:
                self.size += piece.size
                self._append(piece)
            assert self._number <= numbers[0]
            self._number, self._next_number = numbers[0], numbers[-1] + 1
            if self._pending:
                self._close_last_part()
            else:
                self._number, self._next_number = self._next_number, self._next_number + 1
            self._wanted = self._sizes.size(self._number)
            for sent in parts:
                part = _Part(sent.number, self._closed, [])
                part.size = sent.size
                part.sending = Future()
                part.sending.set_result(sent)
                self._parts.append(part)
                self.size += sent.size
        for piece in (*(() if parts else held), *tail):
            self.add(piece)

    def mark(self) -> None:
        """Keep what is needed to go back to here."""
        self._mark = self.size

    def settle(self) -> None:
        """Forget the mark."""
        self._mark = None
        self.filled()

    def go_back(self, size: int) -> None:
        """Drop all bytes from `size` on; a mark was set there, or before anything was added."""
        kept = self._closed
        number = self._number
        while self._parts and self._parts[-1].start >= size:
            number = self._parts[-1].number
            kept = self._drop_last()
        if self._has_kept:
            # Numbers are used again: nothing must come late under them.
            wait(self._dropped)
            self._number, self._next_number = number, number + 1
        if self._parts and self._parts[-1].end > size:
            part = self._pop_part()
            assert part.sending is None, "what lies around a mark is not sent"
            self._forget_pending()
            self._pending = part.pieces
            self._number, kept = part.number, part.start
            if self._has_kept:
                self._next_number = part.number + 1
            self._wanted = self._sizes.size(self._number)
        elif kept >= size:
            self._forget_pending()
            kept = size
        self._cut_pending(size - kept)
        self.size = size

    def _drop_last(self) -> int:
        """Drop the last full part, sent or not; give where it began. Its number is used up."""
        part = self._pop_part()
        part.is_dropped = True
        if part.sending is None or part.sending.cancel():
            for piece in part.pieces:
                self._sender.files.drop(piece)
        else:
            self._dropped.append(part.sending)
        self._forget_pending()
        return part.start

    def _pop_part(self) -> _Part:
        part = self._parts.pop()
        if self._waiting and self._waiting[-1] is part:
            self._waiting.pop()
        return part

    def _forget_pending(self) -> None:
        for piece in self._pending:
            self._sender.files.drop(piece)
        self._pending, self._pending_size = [], 0

    def _cut_pending(self, size: int) -> None:
        """Keep the first `size` bytes of what is not a full part."""
        pieces, self._pending, self._pending_size = self._pending, [], 0
        for piece in pieces:
            left = size - self._pending_size
            if piece.size <= left:
                self._append(piece)
            elif left:
                first, other = self._sender.files.cut(piece, left)
                self._append(first)
                self._sender.files.drop(other)
            else:
                self._sender.files.drop(piece)
        assert self._pending_size == size

    def finish(self) -> None:
        """Send the last part; nothing more is added, unless `go_back` comes first."""
        if self._pending and (self._parts or self._upload is not None or not self._is_alone):
            self._close_last_part()

    def wait(self, stop_if_asked: Callable[[], None] = lambda: None) -> None:
        """Wait until all parts are sent, and what was dropped is out of the way.

        Raises what went wrong first, or what `stop_if_asked` does.
        """
        assert not self._waiting, "all rooms are filled and all marks are settled"
        sending = [part.sending for part in self._parts if part.sending is not None]
        try:
            for future in [*sending, *self._dropped]:
                while not future.done():
                    self._sender.check()
                    stop_if_asked()
                    wait([future], timeout=_POLL_SECONDS)
            for future in sending:
                future.result()
        except BaseException:
            self._sender.check()
            raise

    def hash_whole(self, kinds: Sequence[str]) -> dict[str, str] | None:
        """Give digests of the whole, if all of it is here. Raises StorageError."""
        if self._parts:
            return None
        digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
        try:
            with ExtentsBody([piece.extent for piece in self._pending]).open() as source:
                while block := source.read(_MIB):
                    for digest in digests.values():
                        digest.update(block)
        except OSError as error:
            raise unreadable(error) from error
        return {kind: digest.hexdigest() for kind, digest in digests.items()}

    def complete(self) -> Stored:
        """Have the file appear. Raises ExistsError if there is one, and StorageError."""
        storage = self._sender.storage
        self._completing_ns = time.time_ns()
        try:
            self._complete(storage)
        except ExistsError:
            self._completing_ns = None
            raise
        assert self.stored is not None
        return self.stored

    def _complete(self, storage: Storage) -> None:
        if self._parts:
            assert self._upload is not None
            sent = [part.sending.result() for part in self._parts if part.sending is not None]
            self.stored = storage.complete(self._upload, sent)
            self._upload = None
            return
        body = self._sender.body(self._pending)
        try:
            self._whole_sha256 = body.sha256
            self.stored = storage.put(self.name, body)
        except OSError as error:
            raise unreadable(error) from error
        self._forget_pending()

    @property
    def whole_sha256(self) -> str | None:
        """The digest of a file that was written at once."""
        if len(self._parts) == 1 and (sending := self._parts[0].sending) is not None:
            return sending.result().sha256
        return self._whole_sha256

    @property
    def parts(self) -> tuple[VolumePart, ...]:
        """The digests of the parts, once they are sent."""
        sent = [part.sending.result() for part in self._parts if part.sending is not None]
        return tuple(VolumePart(size=part.size, sha256=part.sha256) for part in sent)

    def drop(self) -> None:
        """Drop all of it, but for what is under way at this moment: see `abort`."""
        while self._parts:
            self._drop_last()
        self._forget_pending()
        self.size = 0

    def abort(self) -> None:
        """Drop the upload, and delete the file if it was completed. Raises StorageError."""
        storage = self._sender.storage
        if self._upload is not None:
            storage.abort(self._upload)
            self._upload = None
        if self.stored is None and self._completing_ns is not None:
            # Nobody knows whether it was made: what did it had no answer.
            found = storage.stat(self.name)
            if found is not None and may_be(found, self.size, self._completing_ns):
                self.stored = found
        if self.stored is not None:
            storage.delete(self.name, version=self.stored.version)
            self.stored = None
        self._completing_ns = None
