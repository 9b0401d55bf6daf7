"""Compare the trees side by side: here at first, by helper processes where there is much.

A piece is a number of entries, not of folders: whoever has looked at so many gives back the folders
that are left, for others to take. A comparison may begin while its process does something else, and
gets more hands later.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pybak.errors import Interrupted, StorageError, reason
from pybak.folders import Folders
from pybak.mirror.compare import compare_piece
from pybak.mirror.compared import Compared, Tally, Todo
from pybak.mirror.likeness import Likeness
from pybak.mirror.rows import LOOKS, NEW, SAME, MirrorJob
from pybak.problems import Problem, unpack_problems
from pybak.staging import is_cancelled
from pybak.workers.pool import HelpersUnavailableError, current_pool

_FIRST_PIECE: Final = 12_000
_FIRST_AHEAD: Final = 4_000
_PIECE: Final = 20_000
_ALL: Final = 1 << 62
_ASK_EVERY: Final = 0.05
_FUNCTION: Final = "pybak.mirror.helping:compare_order"
_HANDS: Final = 2
"""A worker takes its share of what waits so many times."""

Progress = Callable[[int, int], object]


class Order(msgspec.Struct, frozen=True):
    """A piece for a helper; `out` is what the names of its files begin with."""

    work_dir: str
    todos: list[Todo]
    out: str
    most: int


class Comparison(msgspec.Struct):
    """What all pieces came to; the lists are as in `Compared`."""

    total: Compared
    problems: list[Problem]

    @property
    def tally(self) -> Tally:
        """The counts."""
        return self.total.tally


def compared(order: Order, on_progress: Progress = lambda _files, _size: None) -> Compared:
    """Compare a piece. Raises StorageError and Interrupted."""
    work_dir = Path(order.work_dir)
    asked_at = 0.0

    def progress(files: int, size: int) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if now - asked_at < _ASK_EVERY:
            return
        asked_at = now
        if is_cancelled(work_dir):
            raise Interrupted("stopped on request")
        on_progress(files, size)

    try:
        return compare_piece(
            MirrorJob.load(work_dir), order.todos, Path(order.out), most=order.most,
            on_progress=progress,
        )  # fmt: skip
    except OSError as error:
        raise StorageError(f"can't be opened any more: {reason(error)}") from error


def compare_trees(
    work_dir: Path,
    *,
    workers: int,
    start_helpers: Callable[[], bool],
    on_progress: Progress = lambda _files, _size: None,
) -> Comparison:
    """Compare source and target as the job in `work_dir` says.

    `start_helpers` is called when there is much to compare, and tells whether there are any.
    `on_progress` is called with the files and bytes so far, from any thread. Raises StorageError
    and Interrupted.
    """
    walk = _Walk(work_dir, workers)
    walk.on_progress = on_progress
    pending = walk.first(_FIRST_PIECE)
    if pending and workers > 1 and start_helpers():
        walk.side_by_side(pending, workers)
    elif pending:
        walk.piece(pending, _ALL, by_helper=False)
    return walk.comparison


class Ahead:
    """A comparison that goes on by itself, done by one helper process, until it is asked for."""

    def __init__(self, work_dir: Path, *, workers: int, start_helper: Callable[[], bool]) -> None:
        """Begin it. A small tree is compared at once, and one without helpers when it is asked for.

        `start_helper` is as in `compare_trees`. Raises StorageError and Interrupted.
        """
        self._walk = _Walk(work_dir, workers)
        self._rest = self._walk.first(_FIRST_AHEAD)
        self._thread: threading.Thread | None = None
        if self._rest and workers > 1 and start_helper():
            # It does nothing but wait: whatever needs the interpreter lock would wait for others.
            self._thread = threading.Thread(target=self._work, name="compare-ahead", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        with suppress(BaseException):  # `finish` raises it
            self._walk.side_by_side(self._rest, 1)

    def finish(self, on_progress: Progress) -> Comparison:
        """Take part in it until it is done; give what came of it.

        Raises as `compare_trees`.
        """
        walk = self._walk
        walk.on_progress = on_progress
        walk.tell()
        if self._thread is not None:
            walk.side_by_side([], max(walk.workers - 1, 1))
            self._thread.join()
        elif self._rest:
            walk.piece(self._rest, _ALL, by_helper=False)
        return walk.comparison

    @property
    def is_at_work(self) -> bool:
        """Whether something goes on beside."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait until nothing does, so long at most."""
        if self._thread is not None:
            self._thread.join(seconds)


def _state_of_root(job: MirrorJob) -> str:
    if job.target_root is None:
        return NEW
    if job.only is not None:
        return SAME  # not the source's own folder
    try:
        with (
            Folders(job.source, inode=job.source_root) as source,
            Folders(job.target, inode=job.target_root) as target,
        ):
            fds = (source.fd(b""), target.fd(b""))
            likeness, here, there = Likeness(job), os.fstat(fds[0]), os.fstat(fds[1])
            is_same = likeness.has_time(here, there) and likeness.has_looks(here, there, fds, b".")
    except OSError as error:
        raise StorageError(f"source or destination can't be opened: {reason(error)}") from error
    return SAME if is_same else LOOKS


class _Walk:
    def __init__(self, work_dir: Path, workers: int) -> None:
        self._work_dir = work_dir
        self.workers = workers
        self.on_progress: Progress = lambda _files, _size: None
        self._changed = threading.Condition()
        self._pending: list[Todo] = []
        self._busy = 0
        self._failure: BaseException | None = None
        self._unmatched: set[str] | None = None
        self.comparison = Comparison(Compared(rest=[], tally=Tally()), [])

    def tell(self) -> None:
        """Tell how far it is; raises what ends it."""
        tally = self.comparison.tally
        self.on_progress(tally.found, tally.size)

    def first(self, most: int) -> list[Todo]:
        """Compare the first piece here; give what is left."""
        state = _state_of_root(MirrorJob.load(self._work_dir))
        return self.piece([Todo(b"", state)], most, by_helper=False)

    def piece(self, todos: list[Todo], most: int, *, by_helper: bool) -> list[Todo]:
        """Compare a piece; give what is left of it."""
        out = self._work_dir / f"rows-{os.urandom(6).hex()}"
        order = Order(str(self._work_dir), todos, str(out), most)
        got = self._by_helper(order) if by_helper else None
        if got is None:
            base = self.comparison.tally
            files, size = base.found, base.size
            got = compared(
                order, lambda more, bytes_more: self.on_progress(files + more, size + bytes_more)
            )
        with self._changed:
            self._take(got)
            self.tell()
        return got.rest

    def _by_helper(self, order: Order) -> Compared | None:
        pool = current_pool()
        if pool is None:
            return None
        try:
            answer = pool.call(_FUNCTION, msgspec.msgpack.encode(order))
        except HelpersUnavailableError:  # it has said so
            return None
        return msgspec.msgpack.decode(answer, type=Compared)

    def _take(self, got: Compared) -> None:
        total = self.comparison.total
        total.tally.add(got.tally)
        for name in ("batches", "late", "folders", "linked", "surplus", "temporaries"):
            getattr(total, name).extend(getattr(got, name))
        total.surplus_count += got.surplus_count
        self.comparison.problems += unpack_problems(got.problems)
        unmatched = set(got.unmatched)
        self._unmatched = unmatched if self._unmatched is None else self._unmatched & unmatched
        total.unmatched = sorted(self._unmatched)

    def side_by_side(self, todos: list[Todo], hands: int) -> None:
        """Have `hands` helpers compare these and all that is left. Raises what ended any of them.

        It may be called by several threads, and each comes back when all is done.
        """
        with self._changed:
            self._pending += todos
        with ThreadPoolExecutor(hands, thread_name_prefix="compare") as threads:
            for _ in range(hands):
                threads.submit(self._work)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while todos := self._next():
            try:
                rest = self.piece(todos, _PIECE, by_helper=True)
            except BaseException as error:
                with self._changed:
                    self._failure = self._failure or error
                    self._pending.clear()
                rest = []
            with self._changed:
                self._busy -= 1
                if self._failure is None:
                    self._pending += rest
                self._changed.notify_all()

    def _next(self) -> list[Todo]:
        """Take a share of what waits; nothing once nobody can give any more back."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or not self._busy)
            count = -(-len(self._pending) // (_HANDS * self.workers))
            # The last ones lie nearest to the root.
            taken, self._pending = self._pending[:count], self._pending[count:]
            self._busy += bool(taken)
            return taken
