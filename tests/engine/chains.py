"""Chains of archives for restores: a tree backed up state by state, and shares of its snapshots."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backing_up import FORMATS, PASSWORD, Outcome, back_up, noise
from walker import Found, walk

from pybak.restore.snapshot import Share, find_shares

Tree = dict[bytes, Found]

HOW: dict[str, dict[str, Any]] = FORMATS | {
    "volumes": {"format": "tar.gz", "split": "64KiB"},
    "wrapped": {"format": "tar.zst", "password": PASSWORD, "split": "64KiB"},
}
"""What `Chain` takes for each kind of archive."""
ALL = [*HOW]


def write(path: Path, content: bytes | str) -> None:
    """Make a file and the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def share(made: Outcome, *names: str) -> Share:
    """Give what a snapshot takes from an archive."""
    (found,) = find_shares([(os.fspath(made.path), map(os.fsencode, names))])
    return found


def alone(tree: Mapping[bytes, Found]) -> Tree:
    """Forget which names share an inode: a snapshot of several archives keeps it in part only."""
    return {path: found._replace(names=()) for path, found in tree.items()}


def below(tree: Mapping[bytes, Found], folder: str) -> Tree:
    """Give what lies in a folder, called as its archive calls it, and the folder itself."""
    top = os.fsencode(folder)
    return {path: found for path, found in tree.items() if (path + b"/").startswith(top + b"/")}


class Chain:
    """States of the folder `source`, each in an archive of its own that holds all of it."""

    def __init__(self, source: Path, to: Path, **options: Any) -> None:
        self.source = source
        self.states: list[Tree] = []
        self.archives: list[Outcome] = []
        self._to = to
        self._options = options

    def save(self, **options: Any) -> Outcome:
        """Remember the present state, and back it up."""
        found = below(alone(walk(self.source.parent)), self.source.name)
        self.states.append(found)
        made = back_up(self.source, to=self._to, **(self._options | options))
        self.archives.append(made)
        return made

    def snapshot(
        self, number: int = -1, *, pick: Callable[[Sequence[int]], int] = min
    ) -> list[Share]:
        """Give the shares of a state: each path from one of the archives that hold it as it was.

        `pick` chooses among their numbers; without it, it is the oldest one.
        """
        number %= len(self.states)
        names: dict[int, list[bytes]] = {}
        for path, found in self.states[number].items():
            same = [number]
            while same[-1] and self.states[same[-1] - 1].get(path) == found:
                same.append(same[-1] - 1)
            names.setdefault(pick(same), []).append(path)
        return self.shares(names)

    def shares(self, names: Mapping[int, Iterable[bytes]]) -> list[Share]:
        """Give shares of archives by their numbers, the oldest first."""
        return find_shares(
            (os.fspath(self.archives[number].path), names[number]) for number in sorted(names)
        )


def sample(docs: Path) -> Path:
    """Make a folder with a bit of everything."""
    for name in ("a", "b", "sub/c", "sub/deep/d"):
        write(docs / f"{name}.txt", f"first {name}")
    write(docs / "noise", noise(100_000))
    (docs / "link").symlink_to("a.txt")
    (docs / "empty").mkdir()
    (docs / "sub/deep").chmod(0o750)
    return docs


def edited(chain: Chain, *formats: dict[str, Any]) -> Chain:
    """Save three states of a `sample`, each in its format."""
    docs = chain.source
    how = [*formats, {}, {}, {}]
    chain.save(**how[0])
    write(docs / "a.txt", "second a, longer")
    write(docs / "sub/new.txt", "new")
    (docs / "b.txt").unlink()
    chain.save(**how[1])
    (docs / "link").unlink()
    (docs / "link").symlink_to("sub/new.txt")
    (docs / "noise").unlink()
    write(docs / "noise/file", "a folder now")
    (docs / "sub/deep/d.txt").chmod(0o600)
    (docs / "empty").rmdir()
    write(docs / "empty", "a file now")
    chain.save(**how[2])
    return chain
