"""What goes wrong with notices."""

from __future__ import annotations

from pybak.errors import PyBakError


class NoticeError(PyBakError):
    """A notice could not be sent; `retryable` tells whether trying again soon can help.

    `is_refused` tells that the other side took the connection, but not this message. A message
    never holds a secret.
    """

    def __init__(self, message: str, *, retryable: bool = False, is_refused: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.is_refused = is_refused
