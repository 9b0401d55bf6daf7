"""Compare a restored file with what the catalog recorded, reading it from the disk anew."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from pybak.catalog.facts import Version
from pybak.entries import FILE, FOLDER, HARD_LINK, KIND_NAMES, LINK
from pybak.looks import SET_ID, without_set_id

_READ_BYTES: Final = 1 << 20
_TYPES: Final = {
    FILE: stat.S_ISREG,
    HARD_LINK: stat.S_ISREG,
    FOLDER: stat.S_ISDIR,
    LINK: stat.S_ISLNK,
}
_PROBE_NS: Final = 1_234_567_891_123_456_789

DataMap = Sequence[tuple[int, int]]
"""Where a sparse file has data: offset and length of each run, in bytes."""


def difference(
    path: bytes,
    version: Version,
    *,
    time_step_ns: int = 1,
    data_map: Callable[[], DataMap | None] = lambda: None,
) -> str | None:
    """Say in what the file at `path` is not what `version` says; None if it is.

    Times are compared as exactly as the file system keeps them (`time_step`). `data_map` is asked
    for a file whose content differs: digests of sparse files may be of their data alone.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"was not restored ({(error.strerror or str(error)).lower()})"
    if not _TYPES[version.kind](status.st_mode):
        return f"came back as another kind of file than a {KIND_NAMES[version.kind]}"
    if version.kind == LINK:
        return None  # its target is not in the catalog
    if version.kind == FILE:
        if status.st_size != version.size:
            return f"has {status.st_size} bytes, {version.size} were saved"
        try:
            with _opened(path, status) as file:
                is_same = _has_content(file.fileno(), version, data_map)
            if not is_same:
                return "has another content than was saved: its SHA-256 differs"
        except OSError as error:
            return f"can't be read back ({(error.strerror or str(error)).lower()})"
    expected = version.mode & 0o7777
    if expected & SET_ID and os.geteuid() != 0:
        expected = without_set_id(expected, status, version.uid, version.gid)
    if stat.S_IMODE(status.st_mode) != expected:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}, {expected:04o} was saved"
    if version.kind == FILE and abs(status.st_mtime_ns - version.mtime_ns) >= time_step_ns:
        return f"has the time {status.st_mtime_ns} ns, {version.mtime_ns} ns was saved"
    return None


def time_step(folder: Path) -> int:
    """Give by how many ns times of files may be off in a folder that can be written."""
    probe = folder / ".time-probe"
    probe.touch()
    try:
        os.utime(probe, ns=(_PROBE_NS, _PROBE_NS))
        return abs(probe.stat().st_mtime_ns - _PROBE_NS) + 1
    finally:
        probe.unlink()


def _opened(path: bytes, status: os.stat_result) -> FileIO:
    """Open a file that was restored; its own mode may forbid that, though the file is ours."""
    try:
        return FileIO(path)
    except PermissionError:
        os.chmod(path, stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
        return FileIO(path)


def _has_content(fd: int, version: Version, data_map: Callable[[], DataMap | None]) -> bool:
    recorded = version.parts or ((version.size, version.sha256 or ""),)
    is_all = sum(size for size, _ in recorded) == version.size
    if is_all and _matches(_pieces(fd, [(0, version.size)]), recorded):
        return True
    runs = data_map()
    return (
        runs is not None
        and _matches(_pieces(fd, runs), recorded)
        and _is_empty_between(fd, runs, version.size)
    )


def _pieces(fd: int, runs: DataMap) -> Iterator[bytes]:
    for offset, length in runs:
        end = offset + length
        while offset < end:
            block = os.pread(fd, min(_READ_BYTES, end - offset), offset)
            if not block:
                return
            offset += len(block)
            yield block


def _matches(blocks: Iterator[bytes], recorded: Sequence[tuple[int, str]]) -> bool:
    """Whether blocks are what was recorded: one digest, or one for each part."""
    rest = memoryview(b"")
    for size, sha256 in recorded:
        digest = hashlib.sha256()
        left = size
        # A file without a part list has its size here; of a sparse one it is not that of its data.
        while left:
            if not rest:
                rest = memoryview(next(blocks, b""))
                if not rest:
                    break
            taken = rest[:left]
            digest.update(taken)
            left -= len(taken)
            rest = rest[len(taken) :]
        if digest.hexdigest() != sha256:
            return False
    return not rest and next(blocks, None) is None


def _is_empty_between(fd: int, runs: DataMap, size: int) -> bool:
    """Whether all bytes outside of `runs` are zero; holes are not read."""
    at = 0
    for offset, length in [*runs, (size, 0)]:
        while at < offset:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                return True
            if at >= offset:
                break
            block = os.pread(fd, min(_READ_BYTES, offset - at), at)
            if any(block):
                return False
            at += max(len(block), 1)
        at = max(at, offset + length)
    return True
