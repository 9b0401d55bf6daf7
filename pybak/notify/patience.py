"""Try again what may work a moment later, a few times and not for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from pybak.notify.failures import NoticeError

_T = TypeVar("_T")

FIRST_WAIT_SECONDS: Final = 1.0
_MOST_WAIT_SECONDS: Final = 5.0


def patiently(
    do: Callable[[], _T],
    *,
    attempts: int,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    first_wait: float = FIRST_WAIT_SECONDS,
) -> _T:
    """Give what `do` gives; a retryable NoticeError has it done again.

    At most `attempts` times in all, and not again once `seconds` have passed. Raises the last
    NoticeError.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        wait_exponential,
        wait_random,
    )

    def again(error: BaseException) -> bool:
        return isinstance(error, NoticeError) and error.retryable

    trying = Retrying(
        retry=retry_if_exception(again),
        stop=stop_after_attempt(attempts) | stop_before_delay(seconds),
        wait=wait_exponential(first_wait, max=_MOST_WAIT_SECONDS) + wait_random(0, first_wait),
        sleep=sleep,
        reraise=True,
    )
    return trying(do)
