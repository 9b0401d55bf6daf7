"""Copy what a hand of batches names, each file whole before it has its name.

A file is written under a temporary name in its folder, given its owner, attributes, mode and time
through the descriptor, and renamed. Where the source changed meanwhile it is copied again. No link
in source or target is followed, neither one that was there nor one that appears. Trouble with one
file is recorded and the hand goes on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pybak.backup.read_source import open_error
from pybak.entries import FILE
from pybak.errors import SourceError, reason
from pybak.folders import Folders
from pybak.mirror.account import Account, Outcome, Progress, ShouldStop, StoppedError
from pybak.mirror.destination import Destination
from pybak.mirror.files import FileCopier
from pybak.mirror.namesakes import Namesakes
from pybak.mirror.nodes import Linker, NodeMaker
from pybak.mirror.rows import LOOKS, MirrorJob, Row, SurplusRow, hand_of, read_batch
from pybak.mirror.surplus import delete_surplus
from pybak.problems import STORAGE

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_FULL_ENOUGH: Final = 3
"""Files in a row that found no room before the rest is given up."""


class Copier:
    """Copies one row after the other; a context manager that closes what it opened."""

    def __init__(
        self,
        job: MirrorJob,
        *,
        own: str | None = None,
        should_stop: ShouldStop = lambda: False,
        progress: Progress = lambda _files, _size, _path: None,
    ) -> None:
        """Open source and target. Raises OSError if that can't be done.

        `own` is as in `Destination`; without it nobody else has the same.
        """
        self.sources = Folders(job.source, inode=job.source_root)
        try:
            self.destination = Destination(job, own or os.urandom(6).hex())
        except BaseException:
            self.sources.close()
            raise
        self._job = job
        self.account = Account(should_stop, progress)
        self._files = FileCopier(job, self.destination, self.account)
        self._nodes = NodeMaker(job, self.destination, self.account)
        self.link = Linker(job, self.sources, self.destination).link
        self._full = 0

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self.sources.close()
        self.destination.close()

    @property
    def outcome(self) -> Outcome:
        """The counts so far."""
        return self.account.outcome

    def finish(self) -> Outcome:
        """Give the counts and what is to be told."""
        self.outcome.folders = self.destination.made
        return self.account.close()

    def copy(self, row: Row) -> bool:
        """Make or change what a row names. False if it was asked to stop."""
        account = self.account
        try:
            account.begin(row.path)
            if self._full >= _FULL_ENOUGH:
                account.fail(STORAGE, "not written: the destination is full or read-only")
                return True
            if self._place(row):
                account.count(row)
            self._full = 0
        except StoppedError:
            account.outcome.stopped = True
            return False
        except SourceError as error:
            account.fail(error.code, str(error))
        except OSError as error:
            self._full = self._full + 1 if error.errno in _FULL else 0
            account.fail(STORAGE, f"can't be written: {_explain(error)}")
        return True

    def _place(self, row: Row) -> bool:
        """Do it; False if that was told of already."""
        folder, _, name = row.path.rpartition(b"/")
        try:
            source_fd = self.sources.fd(folder)
        except OSError as error:
            raise open_error(error) from error
        target_fd = self.destination.folder(folder)
        is_file = row.kind == FILE
        if row.what == LOOKS and is_file and self._files.touch_up(row, source_fd, target_fd, name):
            return True
        make = self._files.write if is_file else self._nodes.make
        try:
            if not make(row, source_fd, target_fd, name):
                return False
            self.destination.put(target_fd, name)
        except BaseException:
            self.destination.remove_temporary(target_fd)
            raise
        return True

    def delete(self, rows: Iterable[SurplusRow]) -> None:
        """Remove what the source does not hold, unless it is asked to stop."""
        deleted = delete_surplus(
            rows, self.destination.folders, self.account.should_stop,
            Namesakes(self.sources, self.destination.folders), keeps_inodes=self._job.keeps_inodes,
        )  # fmt: skip
        self.outcome.deleted += deleted.files
        self.outcome.folders_deleted += deleted.folders
        self.account.problems += deleted.problems


def copy_hand(
    work_dir: Path,
    hand: Path,
    *,
    should_stop: ShouldStop = lambda: False,
    progress: Progress = lambda _files, _size, _path: None,
) -> Outcome:
    """Copy all rows of a hand; doing it again does no harm.

    Raises OSError if source or target can't be opened any more.
    """
    job, own = MirrorJob.load(work_dir), hand.name.rpartition("-")[2].rjust(12, "0")
    with Copier(job, own=own, should_stop=should_stop, progress=progress) as copier:
        for batch in hand_of(hand):
            if not all(map(copier.copy, read_batch(batch))):
                break
        return copier.finish()


def _explain(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where its folder must be"
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return "a folder that is not empty stands in its place; --delete removes what is in it"
    return reason(error)
