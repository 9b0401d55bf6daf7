"""What of a backup a helper process does while the command imports Prefect: walk, and plan.

It plans where all that is found will be saved, as for a full backup, and the run takes the plan if
it turns out to want just that.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from pybak.backup.discover import Discovery, discover
from pybak.backup.filter import Filtered, filter_entries
from pybak.backup.markers import IGNORE_FILE, IgnoreChain, ignored_by, marked, with_ignore_file
from pybak.backup.open_folder import open_folder
from pybak.backup.plan import BackupPlan, PlanOrder, plan_backup
from pybak.backup.rules import Rules
from pybak.entries import Root
from pybak.errors import Interrupted, PlanError
from pybak.staging import is_cancelled
from pybak.workers.ahead import CallAhead

_FUNCTION: Final = f"{__name__}:walk_order"
_TELL_EVERY: Final = 0.1
_COUNTS: Final = struct.Struct("<QQ")


@dataclass(frozen=True)
class Sieve:
    """What `filter_entries` is to do with, but for what was found."""

    roots: tuple[Root, ...]
    rules: Rules
    out: Path
    problems: Path
    unsupported: frozenset[str]
    format_name: str

    def filter(self, found: Discovery) -> Filtered:
        """Keep what the rules keep and the format can hold."""
        return filter_entries(
            found, self.roots, self.rules, self.out, self.problems,
            unsupported=self.unsupported, format_name=self.format_name,
        )  # fmt: skip


class Made(NamedTuple):
    """What a helper made ahead: what it found, and what of it would be kept, and the plan."""

    found: Discovery
    kept: Filtered | None = None
    order: PlanOrder | None = None
    plan: BackupPlan | None = None


@dataclass(frozen=True)
class Walk:
    """What `discover` is to do with; its files and the counts go to `staging`."""

    roots: tuple[Root, ...]
    rules: Rules
    staging: Path
    found: Path
    problems: Path
    sieve: Sieve | None = None
    """With one, what is found is filtered and planned, too."""
    order: PlanOrder | None = None
    """Of this plan; `kept` and `total_bytes` are known only after the walk."""

    @property
    def counts(self) -> Path:
        """The file that tells how far it is: entries, and bytes of files."""
        return self.staging / "walked"


class WalkAhead:
    """A walk by one helper process, from now on until `finish` or `close`."""

    def __init__(self, walk: Walk, then: Callable[[Made], object] = lambda _: None) -> None:
        """Begin it. Raises HelpersUnavailableError if no helper can be started.

        `then` is called, in another thread, when it has come to its end.
        """
        self._walk = walk
        self._seen = 0, 0
        self._call = CallAhead(
            _FUNCTION, pickle.dumps(walk), then=lambda answer: then(_made(answer))
        )

    def finish(self, on_progress: Callable[[int, int], object]) -> Made | None:
        """Wait for it; give what it made, or None where the helper could not do it.

        `on_progress` is called meanwhile, with entries and bytes; what it raises ends the waiting.
        Raises what `discover` does.
        """
        answer = self._call.finish(lambda: on_progress(*self._walked()))
        return None if answer is None else _made(answer)

    def _walked(self) -> tuple[int, int]:
        with contextlib.suppress(OSError, struct.error):  # not there, or being written right now
            entries, size = _COUNTS.unpack(self._walk.counts.read_bytes())
            self._seen = entries, size
        return self._seen

    def close(self) -> None:
        """End it, wherever it is; fine the second time."""
        self._call.close()


def _made(answer: bytes) -> Made:
    made: Made = pickle.loads(answer)  # noqa: S301 - our own process made it
    return made


def walk_order(argument: bytes) -> bytes:
    """Walk as the pickled `Walk` says; gives a pickled `Made`. For helpers."""
    walk: Walk = pickle.loads(argument)  # noqa: S301 - the run's own
    told_at = 0.0

    def tell(entries: int, size: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now - told_at >= _TELL_EVERY:
            told_at = now
            walk.counts.write_bytes(_COUNTS.pack(entries, size))
            if is_cancelled(walk.staging):
                raise Interrupted("stopped on request")

    found = discover(walk.roots, walk.rules, walk.found, walk.problems, on_progress=tell)
    return pickle.dumps(_planned(walk, found))


def _planned(walk: Walk, found: Discovery) -> Made:
    if walk.sieve is None or walk.order is None:
        return Made(found)
    try:
        kept = walk.sieve.filter(found)
        order = walk.order._replace(kept=kept.entries, total_bytes=kept.total_bytes)
        return Made(found, kept, order, plan_backup(order))
    except Exception:
        return Made(found)


def is_large(roots: Iterable[Root], rules: Rules, *, entries: int) -> bool:
    """Whether there are so many entries where the walk will look, whatever a run takes of them.

    What the walk keeps out of is not opened, lest a mount there never answers.
    """
    left = entries
    for root in roots:
        with contextlib.suppress(OSError):
            info = os.lstat(root.source)
            top = _Folder(b"", info.st_dev, info.st_ino)
            left -= _count(root, top, rules, left)
        if left <= 0:
            return True
    return False


class _Folder(NamedTuple):
    """A folder of a root, and the ignore files in force."""

    path: bytes
    device: int
    inode: int
    chain: IgnoreChain = ()


def _count(root: Root, top: _Folder, rules: Rules, most: int) -> int:
    """Count what is below `top`, the folder of a root, until it is `most`."""
    stack = [top]
    seen = 0
    while stack and seen < most:
        folder = stack.pop()
        with contextlib.suppress(OSError):
            fd = open_folder(root.source, folder.path, folder.device, folder.inode)
            try:
                with os.scandir(fd) as found:
                    listing = list(islice(found, most - seen))
                seen += len(listing)
                if seen < most:
                    stack += _folders(root, top.device, rules, folder, fd, listing)
            finally:
                os.close(fd)
    return seen


def _folders(
    root: Root, device: int, rules: Rules, above: _Folder, fd: int, listing: list[os.DirEntry[str]]
) -> Iterator[_Folder]:
    """Give those folders of a listing that the walk will enter."""
    path, _, _, chain = above
    folders = [item for item in listing if item.is_dir(follow_symlinks=False)]
    if folders and rules.use_markers:
        names = {item.name for item in listing}
        found = marked(fd, names) if path else None
        if found is not None:
            folders = [item for item in folders if item.name in found[0]]
        elif IGNORE_FILE in names:
            with contextlib.suppress(OSError, PlanError):  # told by the walk
                chain = with_ignore_file(fd, root.disk_path(path), path, chain)
    prefix = path + b"/" if path else b""
    for item in folders:
        child = prefix + os.fsencode(item.name)
        hit = rules.exclude.last_match(os.fsdecode(child) + "/")
        if rules.exclude.takes[hit] if hit >= 0 else ignored_by(child, chain, "/"):
            continue
        with contextlib.suppress(OSError):
            info = item.stat(follow_symlinks=False)
            if (info.st_dev, info.st_ino) not in rules.left_out and (
                not rules.one_file_system or info.st_dev == device
            ):
                yield _Folder(child, info.st_dev, info.st_ino, chain)
