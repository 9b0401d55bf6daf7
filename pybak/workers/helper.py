"""The helper process: takes orders from its standard input, one after the other.

It imports what its work needs and no more, so that it starts in a fifth of a second. When its
input ends, because the run has closed the pipe or was killed, it ends at once, whatever it is at:
a batch that is half done leaves a file that nobody takes for a segment.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import msgspec

from pybak.garbage import collect_seldom
from pybak.progress import WorkerProgress
from pybak.workers.messages import Answer, Call, Order, answer_of, line_of


def main(module: str) -> None:
    """Work until the standard input ends; `module` is imported first, for what is to come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's business
    collect_seldom()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    importlib.import_module(module)
    os.dup2(2, 1)  # what anything prints must not get between the answers
    answers.write(line_of(Answer()))
    serve(sys.stdin.buffer, answers, leave=os._exit)


def serve(orders: BinaryIO, answers: BinaryIO, leave: Callable[[int], object]) -> None:
    """Answer the lines of `orders`; `leave` is called at their end, from another thread."""
    waiting: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        while line := orders.readline():
            waiting.put(line)
        leave(0)

    threading.Thread(target=listen, name="listen", daemon=True).start()
    while True:
        line = waiting.get()
        if not line:
            return
        answers.write(line_of(_answer(line)))


def _answer(line: bytes) -> Answer:
    try:
        order = msgspec.json.decode(line, type=Order | Call)
        if isinstance(order, Call):
            return Answer(result=_call(order))
        return Answer(done=_compress(order))
    except BaseException as error:  # told to whoever gave the order
        return answer_of(error)


def _call(call: Call) -> bytes:
    module, _, name = call.function.partition(":")
    result: bytes = getattr(importlib.import_module(module), name)(call.argument)
    return result


def _compress(order: Order) -> int:
    from pybak.backup.compress import compress_batches

    with WorkerProgress(order.progress) as progress:
        return compress_batches(
            Path(os.fsdecode(order.folder)),
            range(order.start, order.stop, order.step),
            password=order.password,
            advance=progress.advance,
        )
