"""Sources that change, vanish or fail while they are read: staged, not waited for.

Things happen between the listing and the first read, or in the `read` that the engine is given.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backing_up import TARS, Outcome, judge_outcome, prose, shrink

WHOLE = 20_000
PIECE = 8_000
PART = 60_000

OTHERS = {"src/before": prose(500, 1), "src/zlast": prose(500, 3)}
SIZES = [
    pytest.param(10_000, id="small"),
    pytest.param(40_000, id="in-pieces"),
    pytest.param(200_000, id="in-parts"),
]
KINDS = ["zip", "aes", "tar", "tar.gz", "tar.zst"]
"""Of `backing_up.FORMATS`; bzip2 differs from zstd in its compressor alone."""


def small_borders(patch: pytest.MonkeyPatch) -> None:
    """Have files of some kB go the ways of large ones."""
    shrink(patch, part=PART, whole=WHOLE, piece=PIECE)


def make_source(folder: Path) -> Path:
    """Make a folder with a file `victim` between others."""
    folder.mkdir()
    (folder / "before").write_bytes(OTHERS["src/before"])
    (folder / "victim").write_bytes(prose(10_000, 2))
    (folder / "zlast").write_bytes(OTHERS["src/zlast"])
    return folder


def others_are_there(done: Outcome) -> None:
    """See that the archive is good, and holds all but the victim for certain."""
    judge_outcome(done, ["tar"] if done.report.format in TARS else ["unzip"])
    contents = done.contents
    assert {name: contents.get(name) for name in OTHERS} == OTHERS
    assert set(done.records) == {name.rstrip("/") for name in contents}


class Moving:
    """A `read` that does something to a file on the disk, `times` at most, after reading it."""

    def __init__(self, victim: Path, act: Callable[[Path, int], object], times: int) -> None:
        self.inode = victim.stat().st_ino
        self.victim, self.act, self.times = victim, act, times
        self.done = 0
        self._lock = threading.Lock()  # two who cut at once would make the file longer again

    def __call__(self, fd: int, length: int, offset: int) -> bytes:
        data = os.pread(fd, length, offset)
        with self._lock:
            if os.fstat(fd).st_ino == self.inode and self.done < self.times:
                self.done += 1
                self.act(self.victim, self.done)
        return data


class Script:
    """A `read` that answers by a script: `r` reads, `E` fails with EIO; then it reads on."""

    def __init__(self, victim: Path, script: str) -> None:
        self.inode = victim.stat().st_ino
        self.script: Iterator[str] = iter(script)
        self.failures = 0

    def __call__(self, fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == self.inode and next(self.script, "r") == "E":
            self.failures += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pread(fd, length, offset)


def append(path: Path, _time: int) -> None:
    with path.open("ab") as file:
        file.write(b"more" * 100)


def cut(path: Path, _time: int) -> None:
    os.truncate(path, max(1, path.stat().st_size - 1000))


def rewrite(path: Path, time: int) -> None:
    with path.open("r+b") as file:
        file.write(b"%03d" % time)
    os.utime(path, ns=(10**18 + time, 10**18 + time))


def rewrite_in_secret(path: Path, time: int) -> None:
    """Write the same number of bytes and put the time back: only the ctime tells."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"%03d" % time)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(b"do not follow me")
    path.unlink()
    path.symlink_to(secret)


def to_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
