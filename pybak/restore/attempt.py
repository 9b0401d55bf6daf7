"""One try at a batch: names of its own for what it writes, and a mark for as long as it lives.

A batch can be done twice, even at the same time: a scheduler that loses sight of a worker gives
its batch to another one. Whoever does it shares no unfinished file with anybody. The mark, a file
beside the batch file, tells at the end whether someone was killed and left temporary files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pybak.folders import Folders
from pybak.restore import hard_links, taken_attributes

_MARK = ".started"
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attempt(NamedTuple):
    """`temporary` is the name of unfinished files; the others are files of the try's own.

    Problems go to `problems_file`, what links may stand for to `linked_file`, and attributes of
    folders and links, for the last step, to `attributes_file`.
    """

    temporary: bytes
    problems_file: Path
    linked_file: Path
    attributes_file: Path


@contextmanager
def attempt(batch: Path, token: str) -> Iterator[Attempt]:
    """Begin a try at the batch file `batch`; its mark goes when the block ends."""
    name = f"{batch.name}-{os.urandom(8).hex()}"
    mark = batch.with_name(name + _MARK)
    mark.touch()
    try:
        yield Attempt(
            temporary=_prefix(token) + f"{name}.tmp".encode(),
            problems_file=batch.with_name(name + ".problems"),
            linked_file=batch.with_name(name + hard_links.SUFFIX),
            attributes_file=batch.with_name(name + taken_attributes.SUFFIX),
        )
    finally:
        mark.unlink(missing_ok=True)


def _prefix(token: str) -> bytes:
    return f".pybak-{token}-".encode()


def is_any_unfinished(work_dir: Path) -> bool:
    """Whether a try was killed, or still goes on."""
    return any(work_dir.glob(f"*{_MARK}"))


def remove_temporaries(folders: Folders, paths: Iterable[bytes], token: str) -> None:
    """Delete what tries of the run `token` left in the folders `paths`, as far as it can be."""
    prefix = _prefix(token)
    for path in paths:
        with contextlib.suppress(OSError):
            fd = os.open(b".", _LIST, dir_fd=folders.fd(path))
            try:
                for name in map(os.fsencode, os.listdir(fd)):
                    if name.startswith(prefix):
                        with contextlib.suppress(OSError):
                            os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
