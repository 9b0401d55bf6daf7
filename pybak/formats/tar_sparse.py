"""Maps of sparse files in tar headers: the old one of GNU tar, and its pax forms 0.0, 0.1 and 1.0.

After the GNU tar manual's appendix "Tar Internals". A map is a list of runs of data, as (offset,
length). A ValueError says why one can't be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from pybak.errors import ArchiveError
from pybak.formats.tar_fields import octal
from pybak.formats.tar_records import BLOCK

MAX_RUNS: Final = 1_000_000
"""The most runs of data that the map of a sparse file may list."""

RUN_KEYS: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
"""Records of the form 0.0, which come in pairs, again and again."""

_MAX_DIGITS = 20

Runs: TypeAlias = list[tuple[int, int]]
Read = Callable[[int], bytes]
"""Gives just that many bytes of the stream, or raises."""


def old_map(block: bytes, read: Read, taken: int) -> tuple[int, Runs]:
    """Give a file's size and map from a header of the type S and the blocks that go on with it.

    `taken` is how many bytes the member's headers took so far. Raises ArchiveError for a map that
    does not end.
    """
    real_size = octal(block[483:495])
    if real_size is None:
        raise ValueError("no size")
    runs: Runs = []
    fields, more = block[386:482], block[482]
    is_bad = False
    while True:
        for at in range(0, len(fields), 24):
            if not fields[at]:
                break
            offset, length = octal(fields[at : at + 12]), octal(fields[at + 12 : at + 24])
            if offset is None or length is None:
                is_bad = True  # the blocks that go on with it must be read all the same
                break
            runs.append((offset, length))
        if not more:
            break
        if len(runs) > MAX_RUNS or taken > 32 * MAX_RUNS:
            raise ArchiveError("holds a sparse file with an endless map")
        extension = read(BLOCK)
        taken += BLOCK
        fields, more = extension[:504], extension[504]
    if is_bad:
        raise ValueError("an entry is no number")
    return real_size, runs


def told_map(
    records: Mapping[bytes, bytes], pairs: Sequence[tuple[bytes, bytes]]
) -> tuple[int, Runs]:
    """Give a file's size and map from an extended header of the form 0.0 or 0.1.

    `pairs` are the records called as in RUN_KEYS, in their order.
    """
    if b"GNU.sparse.map" in records:
        numbers = records[b"GNU.sparse.map"].split(b",")
        if numbers == [b""]:
            numbers = []
    else:
        numbers = _paired(pairs)
    key = b"GNU.sparse.size" if b"GNU.sparse.size" in records else b"GNU.sparse.realsize"
    real_size = _count(records.get(key, b""))
    if len(numbers) % 2 or len(numbers) > 2 * MAX_RUNS:
        raise ValueError("it has an odd number of entries")
    values = [_count(number) for number in numbers]
    return real_size, list(zip(values[::2], values[1::2], strict=True))


def _paired(pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    for number, (key, _) in enumerate(pairs):
        if key != RUN_KEYS[number % 2]:
            raise ValueError("its entries come in no order")
    return [value for _, value in pairs]


def leading_map(records: Mapping[bytes, bytes], read: Read, size: int) -> tuple[int, Runs, int]:
    """Give a file's size and map from the first of its `size` bytes, and how many these are.

    So it is in the form 1.0. The map is decimal numbers, a line each, in blocks of their own.
    """
    real_size = _count(records.get(b"GNU.sparse.realsize", b""))
    taken = 0
    text = b""
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        if taken >= size:
            raise ValueError("it does not end")
        text += read(BLOCK)
        taken += BLOCK
        *lines, text = text.split(b"\n")
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(_count(line))
                if len(numbers) == 1:
                    if numbers[0] > MAX_RUNS:
                        raise ValueError("it is endless")
                    wanted += 2 * numbers[0]
        if len(numbers) < wanted and len(text) > _MAX_DIGITS:
            raise ValueError("an entry is no number")
    return real_size, list(zip(numbers[1::2], numbers[2::2], strict=True)), taken


def checked_map(runs: Runs, real_size: int, content: int) -> Runs:
    """Give the runs that hold something; raise ValueError unless they fit file and content."""
    end = 0
    for offset, length in runs:
        if offset < end:
            raise ValueError("its runs overlap")
        end = offset + length
    if end > real_size:
        raise ValueError("it goes beyond the file's end")
    runs = [run for run in runs if run[1]]
    if sum(length for _, length in runs) != content:
        raise ValueError("it does not fit the content")
    return runs


def _count(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError("an entry is no number")
    return int(digits)
