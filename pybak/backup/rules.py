"""Which paths a run takes: patterns, sizes, and the reason for each "no".

Patterns are gitignore's (`pybak.backup.gitignore`), matched against the path below the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pybak.backup.gitignore import Patterns
from pybak.errors import PlanError
from pybak.units import format_size, parse_size

EARLIER_ARCHIVE: Final = "earlier archive of this job"
OTHER_FILE_SYSTEM: Final = "other file system"
UNFINISHED_WORK: Final = "unfinished work of a run"
NOT_INCLUDED: Final = "not included"

_CACHED_FOLDERS: Final = 20_000


@dataclass(frozen=True)
class Rules:
    """Everything that decides what a run takes. Built once; can be pickled."""

    include: Patterns = field(default_factory=Patterns)
    exclude: Patterns = field(default_factory=Patterns)
    max_file_size: int | None = None
    """In bytes; a file of this size is still taken."""
    one_file_system: bool = False
    use_markers: bool = True
    left_out: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(device, inode) of what is left out without a word: the run's own outputs."""
    earlier: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(device, inode) of what is left out and counted: what earlier runs of the job made."""

    @classmethod
    def build(
        cls,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        exclude_from: Sequence[str] = (),
        max_file_size: int | str | None = None,
        one_file_system: bool = False,
        use_markers: bool = True,
        left_out: Iterable[tuple[int, int]] = (),
    ) -> Rules:
        """Read the options of a run.

        Patterns of `exclude` come after those of the files in `exclude_from`, so `!name` on the
        command line takes back what a file leaves out. Raises PlanError for a pattern that can't
        be read (it is quoted), a file that can't be read, or a text that is no size.
        """
        files = [Patterns.of_file(_read(name), name) for name in exclude_from]
        try:
            limit = None if max_file_size is None else parse_size(max_file_size)
        except ValueError as error:
            raise PlanError(f"largest file: {error}") from error
        return cls(
            include=Patterns.of_options(include),
            exclude=Patterns.joined([*files, Patterns.of_options(exclude)]),
            max_file_size=limit,
            one_file_system=one_file_system,
            use_markers=use_markers,
            left_out=frozenset(left_out),
        )

    @property
    def size_reason(self) -> str:
        """Why a file is too large, as `larger than 500 MB`."""
        return f"larger than {format_size(self.max_file_size or 0)}"


class Chooser:
    """Decides about paths by include and exclude patterns, parents considered, in any order.

    As git does it, nothing below an excluded folder can be taken back. An include pattern that
    matches a folder takes what is below it, unless a `!` pattern matches further down. What is
    included and not excluded is kept. Verdicts on folders are remembered, a bounded number.
    """

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self._include = include
        self._exclude = exclude
        self._folders: dict[str, tuple[str | None, bool]] = {}
        self._top = (None, not include)
        self._unseen = {
            index: include.single(index) for index, take in enumerate(include.takes) if take
        }

    def reason(self, path: str) -> str | None:
        """Tell why `path` is left out, or None if it is kept. A folder's ends in a slash."""
        cut = path.rfind("/", 0, -1) + 1
        above = self._folder(path[:cut]) if cut else self._top
        excluded, included = self._verdict(path, above)
        if path.endswith("/"):
            self._remember(path, (excluded, included))
        return excluded if excluded is not None else None if included else NOT_INCLUDED

    def note(self, path: str) -> None:
        """Mark the include patterns that match `path` as matched."""
        seen = [i for i, pattern in self._unseen.items() if pattern.last_match(path) >= 0]
        for index in seen:
            del self._unseen[index]

    def unmatched(self) -> list[str]:
        """Give the include patterns that matched none of the paths so far, `!` ones apart."""
        return [self._include.texts[index] for index in self._unseen]

    def _verdict(self, path: str, above: tuple[str | None, bool]) -> tuple[str | None, bool]:
        excluded, included = above
        if self._include:
            hit = self._include.last_match(path)
            if hit >= 0:
                included = self._include.takes[hit]
            if self._unseen:
                self.note(path)
        if excluded is None and self._exclude:
            hit = self._exclude.last_match(path)
            if hit >= 0 and self._exclude.takes[hit]:
                excluded = pattern_reason(self._exclude.texts[hit])
        return excluded, included

    def _folder(self, path: str) -> tuple[str | None, bool]:
        """Look down from the nearest folder above that is remembered; paths may be very deep."""
        end = len(path)
        while end and path[:end] not in self._folders:
            end = path.rfind("/", 0, end - 1) + 1
        verdict = self._folders[path[:end]] if end else self._top
        while end < len(path):
            end = path.find("/", end) + 1
            verdict = self._verdict(path[:end], verdict)
            self._remember(path[:end], verdict)
        return verdict

    def _remember(self, path: str, verdict: tuple[str | None, bool]) -> None:
        if len(self._folders) >= _CACHED_FOLDERS:
            self._folders.clear()
        self._folders[path] = verdict


def pattern_reason(text: str, origin: str = "") -> str:
    """Name a pattern as a reason: `pattern *.tmp`, `pattern *.tmp (.pybakignore)`."""
    return f"pattern {text} ({origin})" if origin else f"pattern {text}"


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{name}: can't read this file of exclude patterns ({why}); check its path"
        raise PlanError(message) from error
