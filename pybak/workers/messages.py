"""What a run and its helper processes say to each other: lines of JSON through two pipes.

A helper answers each order with one line, and says a first one when it can begin. Bytes are
written as base64, so that paths and passwords of any kind go through. Nothing of it is ever on
disk or in a command line.
"""

from __future__ import annotations

import os
import traceback
from typing import Final

import msgspec

from pybak import errors
from pybak.errors import PyBakError, StorageError


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="compress"):
    """Batches `range(start, stop, step)` of the staging folder `folder` to be compressed.

    `progress` is the file that tells how far it is.
    """

    folder: bytes
    progress: bytes
    start: int
    stop: int
    step: int
    password: bytes | None = None

    def __repr__(self) -> str:
        """Say what it is about, without the password."""
        return f"Order({self.folder!r}, {self.start}, {self.stop}, {self.step})"


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """A function of the engine to be called, as `module:name`; it takes bytes and gives bytes."""

    function: str
    argument: bytes

    def __repr__(self) -> str:
        """Say what it is about; there may be a password in the argument."""
        return f"Call({self.function!r})"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How an order went: the number of batches `done`, a call's `result`, or what was raised.

    `error` is the name of the exception's class, and of what is none of ours there is a
    `traceback`. Text is in the bytes of the file system, for it may name paths.
    """

    done: int = 0
    result: bytes = b""
    error: str = ""
    message: bytes = b""
    retryable: bool = False
    traceback: bytes = b""


class HelperError(PyBakError):
    """A helper process failed in a way that is no answer of ours: a bug, or it was killed."""


class _RemoteTraceback(Exception):  # noqa: N818 - a text to be shown above another exception
    """Where in the helper it was raised."""


_FAMILIES: Final[dict[str, type[PyBakError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, PyBakError) and kind is not errors.SourceError
}
_encoder = msgspec.json.Encoder()


def line_of(message: Order | Call | Answer) -> bytes:
    """Give a message as a line."""
    return _encoder.encode(message) + b"\n"


def answer_of(error: BaseException) -> Answer:
    """Give the answer that tells of an exception."""
    name = type(error).__name__
    message = os.fsencode(str(error))
    if isinstance(error, PyBakError) and name in _FAMILIES:
        retryable = isinstance(error, StorageError) and error.retryable
        return Answer(error=name, message=message, retryable=retryable)
    text = "".join(traceback.format_exception(error))
    return Answer(error=name, message=message, traceback=text.encode("utf-8", "replace"))


def good_or_raise(answer: Answer) -> Answer:
    """Give the answer, or raise what the helper raised.

    Errors of ours come back as they were, all others as HelperError.
    """
    if not answer.error:
        return answer
    message = os.fsdecode(answer.message)
    family = _FAMILIES.get(answer.error)
    if family is StorageError:
        raise StorageError(message, retryable=answer.retryable)
    if family is not None:
        raise family(message)
    first = message.splitlines()[0] if message else "no message"
    raise HelperError(f"a helper process failed: {answer.error}: {first}") from _RemoteTraceback(
        answer.traceback.decode("utf-8", "replace")
    )
