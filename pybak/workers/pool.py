"""Helper processes for the threads of a run: a thread hands its order over and waits.

Compressing many small files holds the interpreter lock most of the time, so that threads stand in
each other's way. Helpers are interpreters of their own; unlike the worker processes of a cluster
they import nothing but the engine. An order that a helper does not live to answer is given to a
new one: what is done already is not done again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Final, NoReturn, Self

import msgspec

from pybak.errors import Interrupted, PyBakError
from pybak.password import PASSWORD_VARIABLE
from pybak.workers.messages import Answer, Call, HelperError, Order, good_or_raise, line_of

COMPRESSING: Final = "pybak.backup.compress"
"""The module that helpers import which are to compress."""

_ATTEMPTS: Final = 3
_END_SECONDS: Final = 1.0
_KILL_SECONDS: Final = 0.3
_CODE: Final = (
    "import os, sys; "
    "sys.path[:] = os.fsdecode(sys.stdin.buffer.readline()[:-1]).split(os.pathsep); "
    "from pybak.workers.helper import main; main(sys.argv[1])"
)
_log = logging.getLogger("pybak.helpers")


class HelpersUnavailableError(PyBakError):
    """No helper process can be started here."""


class _DiedError(Exception):
    """A helper ended before it had answered; `status` is its exit status."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class HelperPool:
    """Helper processes, at most as many as threads ask at once; a context manager that ends them.

    Its methods may be called from any thread.
    """

    def __init__(
        self, count: int, *, module: str = COMPRESSING, python: str = sys.executable
    ) -> None:
        """Start `count` helpers at once, which import `module` while they wait.

        Raises HelpersUnavailableError if none can be started.
        """
        self.kind = count, module
        self._python = python
        self._module = module
        self._lock = threading.Lock()
        self._idle: list[_Helper] = []
        self._all: set[_Helper] = set()
        self._is_closed = False
        self.is_useless = False
        try:
            for _ in range(count):
                self._idle.append(self._start())
        except HelpersUnavailableError:
            if not self._idle:
                raise

    def compress(self, order: Order) -> int:
        """Have an order done by a helper; give how many batches it was.

        Raises what `pybak.backup.compress.compress_batches` does, HelperError if helper after
        helper dies of it, HelpersUnavailableError if none can be started (any more), Interrupted
        once the pool is closed.
        """
        return self._ask(order).done

    def call(self, function: str, argument: bytes) -> bytes:
        """Have a helper call a function, see `Call`; what was done in vain must do no harm.

        Raises as `compress`, and what the function does.
        """
        return self._ask(Call(function=function, argument=argument)).result

    def _ask(self, order: Order | Call) -> Answer:
        for attempt in range(1, _ATTEMPTS + 1):
            helper = self._take()
            try:
                answer = helper.ask(order)
            except _DiedError as error:
                self._drop(helper)
                if not helper.has_begun:
                    self._give_up(f"a helper process ended at its start ({_how(error.status)})")
                last = error
                _log.info("a helper process ended (%s), attempt %d", _how(error.status), attempt)
                continue
            except BaseException:
                self._drop(helper)
                raise
            with self._lock:
                self._idle.append(helper)
            return good_or_raise(answer)
        raise HelperError(
            f"helper processes ended {_ATTEMPTS} times over the same files ({_how(last.status)}), "
            "as where memory is short; try fewer --workers or --cluster threads"
        ) from last

    def _give_up(self, why: str) -> NoReturn:
        """Start no more helpers, and warn once."""
        with self._lock:
            is_news, self.is_useless = not self.is_useless, True
        if is_news:
            _log.warning("%s; using threads", why)
        raise HelpersUnavailableError(why)

    def _take(self) -> _Helper:
        with self._lock:
            if self._is_closed:
                raise Interrupted("stopped on request")
            if self.is_useless:
                raise HelpersUnavailableError("helper processes do not work here")
            if self._idle:
                return self._idle.pop()
        try:
            return self._start()
        except HelpersUnavailableError as error:
            self._give_up(str(error))

    def _start(self) -> _Helper:
        try:
            helper = _Helper(self._python, self._module)
        except (OSError, ValueError) as error:
            raise HelpersUnavailableError(f"no helper process can be started: {error}") from error
        with self._lock:
            if not self._is_closed:
                self._all.add(helper)
                return helper
        helper.end(_END_SECONDS)
        raise Interrupted("stopped on request")

    def _drop(self, helper: _Helper) -> None:
        helper.end(_END_SECONDS)
        with self._lock:
            self._all.discard(helper)
            if self._is_closed:
                raise Interrupted("stopped on request")

    def close(self) -> None:
        """End all helpers, those that are at work too; does nothing the second time."""
        with self._lock:
            self._is_closed = True
            helpers, self._all = self._all, set()
        for helper in helpers:
            helper.hang_up()
        deadline = time.monotonic() + _END_SECONDS
        for helper in helpers:
            helper.end(deadline - time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Helper:
    """One process. It has begun once it has said that it can."""

    def __init__(self, python: str, module: str) -> None:
        self.has_begun = False
        self._process = subprocess.Popen(  # noqa: S603 - our own code
            [python, "-P", "-c", _CODE, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE},
            process_group=0,  # Ctrl-C in a terminal goes to the run alone, which then tells all
        )
        path = os.pathsep.join(entry for entry in sys.path if "\n" not in entry)
        try:
            self._send(os.fsencode(path) + b"\n")
        except (OSError, ValueError):
            self.end(_END_SECONDS)
            raise

    def ask(self, order: Order | Call) -> Answer:
        """Give an order and wait for the answer. Raises _DiedError if there is none."""
        if not self.has_begun:
            self._read()
            self.has_begun = True
        try:
            self._send(line_of(order))
        except (OSError, ValueError) as error:
            raise _DiedError(self._status(_END_SECONDS)) from error
        return self._read()

    def _send(self, line: bytes) -> None:
        orders = _open(self._process.stdin)
        orders.write(line)
        orders.flush()

    def _read(self) -> Answer:
        try:
            line = _open(self._process.stdout).readline()
            return msgspec.json.decode(line, type=Answer)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise _DiedError(self._status(_END_SECONDS)) from error

    def _status(self, patience: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(patience, 0))
        return None

    def hang_up(self) -> None:
        """Have it end by itself, at once."""
        with contextlib.suppress(OSError, ValueError):
            _open(self._process.stdin).close()

    def end(self, patience: float) -> None:
        """See that it is gone, by itself within `patience` seconds or by force.

        One that hangs in the system is left behind; it goes when the system lets it.
        """
        self.hang_up()
        if self._status(patience) is None:
            self._process.kill()
            if self._status(_KILL_SECONDS) is None:
                return
        _open(self._process.stdout).close()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _how(status: int | None) -> str:
    if status is None:
        return "no answer"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


_current: HelperPool | None = None
_ready: HelperPool | None = None


def current_pool() -> HelperPool | None:
    """Give the helpers of the run in this process, None where there are none."""
    return _current


def helping(count: int, *, module: str = COMPRESSING) -> AbstractContextManager[HelperPool]:
    """Have `count` helpers that `current_pool` gives to all threads of this process.

    `module` is what they import at their start. Raises HelpersUnavailableError at once if none can
    be started.
    """
    global _ready
    pool, _ready = _ready, None
    if pool is not None and (pool.kind != (count, module) or pool.is_useless):
        pool.close()
        pool = None
    return _being_current(pool or HelperPool(count, module=module))


def make_ready(count: int, *, module: str = COMPRESSING) -> HelperPool | None:
    """Start helpers that the next `helping` of this process takes over, if it asks for such.

    Whoever calls this calls `end_ready` in the end. Gives None where none can be started, which
    `helping` will tell.
    """
    global _ready
    with contextlib.suppress(HelpersUnavailableError):
        _ready = HelperPool(count, module=module)
        return _ready
    return None


def end_ready() -> None:
    """End helpers that nobody has taken over, if there are any."""
    global _ready
    pool, _ready = _ready, None
    if pool is not None:
        pool.close()


@contextmanager
def _being_current(pool: HelperPool) -> Iterator[HelperPool]:
    global _current  # threads of a cluster share nothing else with the flow
    with pool:
        before, _current = _current, pool
        try:
            yield pool
        finally:
            _current = before
