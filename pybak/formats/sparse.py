"""Where a sparse file has data: what lies between is a hole that reads as zeros."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

Run: TypeAlias = tuple[int, int]
"""Offset and length in bytes."""

_UNIT: Final = 512
"""What tar counts in; only the run that ends with the file may have another length."""
_MOST_RUNS: Final = 100_000
"""A file in more pieces than this is stored in full: its list would be larger than its holes."""
_BLOCK: Final = 512
"""The unit of `st_blocks`, whatever the file system's own is (POSIX `sys/stat.h`)."""


def may_have_holes(status: os.stat_result) -> bool:
    """Whether a file takes less room on its disk than it has bytes.

    So do files on file systems that compress; `data_runs` tells them from sparse ones.
    """
    return status.st_blocks * _BLOCK < status.st_size


def data_runs(fd: int, size: int) -> list[Run] | None:
    """List where the first `size` bytes of an open file have data; None where there is no hole.

    Runs are in order, apart from each other, and start and end at multiples of 512 or at `size`.
    """
    if not hasattr(os, "SEEK_DATA"):
        return None
    runs: list[Run] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            return None  # this file system can't tell
        at = max(stop, at + 1)  # whatever is done to the file meanwhile, this ends
        start, stop = start // _UNIT * _UNIT, min(-(-stop // _UNIT) * _UNIT, size)
        if start >= stop:  # it has become a hole since
            continue
        if runs and start <= runs[-1][0] + runs[-1][1]:
            start = runs.pop()[0]
        runs.append((start, stop - start))
        if len(runs) > _MOST_RUNS:
            return None
    return None if runs == [(0, size)] or not size else runs


def data_size(runs: Iterable[Run]) -> int:
    """Count the bytes of all runs."""
    return sum(length for _, length in runs)


def cut_runs(runs: Sequence[Run], length: int) -> Iterator[list[Run]]:
    """Cut runs into groups that hold `length` bytes each, the last one what is left."""
    group: list[Run] = []
    room = length
    for start, left in runs:
        at, rest = start, left
        while rest:
            taken = min(rest, room)
            group.append((at, taken))
            at, rest, room = at + taken, rest - taken, room - taken
            if not room:
                yield group
                group, room = [], length
    if group:
        yield group
