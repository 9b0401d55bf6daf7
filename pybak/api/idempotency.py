"""The same request twice is one run (draft-ietf-httpapi-idempotency-key-header).

A key belongs to its caller. With the same body it gives the run that it gave the first time; with
another it is refused. The orchestrator keeps keys with its runs, so they outlive this process;
what is remembered here tells a key that was used for something else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pybak.api.problems import Problem

HEADER: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_MOST: Final = 10_000


class Idempotency:
    """What keys were used for."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, str] = OrderedDict()

    @contextmanager
    def used(self, key: str | None, fingerprint: str) -> Iterator[None]:
        """Use a key for what the block starts; one that fails leaves the key as it was.

        Raises Problem if it was used for another request, also one that is just being started.
        """
        if key is None:
            yield
            return
        is_new = key not in self._used
        if self._used.setdefault(key, fingerprint) != fingerprint:
            raise reused()
        self._used.move_to_end(key)
        if len(self._used) > _MOST:
            self._used.popitem(last=False)
        try:
            yield
        except BaseException:
            if is_new:
                self._used.pop(key, None)
            raise


def scoped_key(caller: str, header: str | None) -> str | None:
    """Give a key that no other caller has; None without a header. Raises Problem for a bad one."""
    if header is None:
        return None
    if not _KEY.fullmatch(header):
        raise Problem(
            400, "bad-idempotency-key",
            f"{HEADER} must be 1 to 255 visible ASCII characters, such as a UUID",
        )  # fmt: skip
    return "pybak-api-" + hashlib.sha256(f"{caller}\0{header}".encode()).hexdigest()


def fingerprint(kind: str, body: Mapping[str, Any]) -> str:
    """Give what is the same for requests that ask for the same."""
    text = json.dumps([kind, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def reused() -> Problem:
    """Say that a key was used before, for something else."""
    return Problem(
        422, "idempotency-key-reused",
        f"this {HEADER} was used for another request; take a new one",
    )  # fmt: skip
