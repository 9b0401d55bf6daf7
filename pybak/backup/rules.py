"""Which paths a run takes: patterns, sizes, markers, and the reason for each "no".

Patterns are gitignore's (https://git-scm.com/docs/gitignore), turned into regular expressions
by `pathspec`. They are matched against the path below the source, as text (`os.fsdecode`),
a folder's with a slash at its end. Names are compared as they are typed, byte by byte: a
composed `é` does not match a decomposed one.

Departures from git, on purpose: a pattern that can't be read is an error, where git drops it;
`?` and `[…]` stand for one character, not for one byte; a pattern given as an option is never
a comment and keeps its trailing blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import fsdecode
from pathlib import Path
from typing import Final

from pybak.errors import PlanError
from pybak.units import format_size, parse_size

IGNORE_FILE: Final = ".pybakignore"
"""A file that holds gitignore patterns for what lies below its folder."""
NO_BACKUP: Final = ".nobackup"
"""A folder that holds this keeps itself and this."""
CACHE_TAG: Final = "CACHEDIR.TAG"
CACHE_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"
"""What a `CACHE_TAG` starts with (https://bford.info/cachedir/)."""

EARLIER_ARCHIVE: Final = "earlier archive of this job"
OTHER_FILE_SYSTEM: Final = "other file system"
NOT_INCLUDED: Final = "not included"

_CACHED_FOLDERS: Final = 20_000
_BOM: Final = "\ufeff"
_NAMED_GROUP = re.compile(r"\(\?P<\w+>/\)")
_SET: Final = "\0"
"""Stands for a set of characters while pathspec reads a pattern."""
_CLASSES: Final = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \t", "cntrl": "\0-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~",
    "space": "\t-\r ", "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip


@dataclass(frozen=True)
class Patterns:
    """A list of gitignore patterns as two regular expressions; empty ones match nothing.

    Patterns without a slash look at the last name only, the others at the whole path. In each
    expression the alternatives stand in reverse, so the last pattern that matches wins.
    """

    texts: tuple[str, ...] = ()
    takes: tuple[bool, ...] = ()
    """False for a pattern that begins with `!`."""
    _by_name: re.Pattern[str] | None = None
    _names: tuple[int, ...] = ()
    _by_path: re.Pattern[str] | None = None
    _paths: tuple[int, ...] = ()
    _sources: tuple[str, ...] = ()

    @classmethod
    def of_options(cls, patterns: Iterable[str]) -> Patterns:
        """Read patterns that were given one by one; PlanError quotes one that can't be read."""
        return cls._build([_Line(text, "") for text in patterns])

    @classmethod
    def of_file(cls, data: bytes, origin: str) -> Patterns:
        """Read the content of a file of patterns, with comments and blank lines.

        PlanError quotes a pattern that can't be read, with `origin` and its line.
        """
        return cls._build(_file_lines(data, origin))

    @classmethod
    def joined(cls, groups: Iterable[Patterns]) -> Patterns:
        """Put lists together, the later ones over the earlier ones."""
        texts: list[str] = []
        takes: list[bool] = []
        sources: list[str] = []
        for group in groups:
            texts += group.texts
            takes += group.takes
            sources += group._sources
        return cls._compile(texts, takes, sources)

    @classmethod
    def _build(cls, lines: Iterable[_Line]) -> Patterns:
        texts: list[str] = []
        takes: list[bool] = []
        sources: list[str] = []
        for line in lines:
            source, take = _translate(line)
            texts.append(line.text)
            takes.append(take)
            sources.append(source)
        return cls._compile(texts, takes, sources)

    @classmethod
    def _compile(
        cls, texts: Sequence[str], takes: Sequence[bool], sources: Sequence[str]
    ) -> Patterns:
        """A source that begins with a slash is matched by name, see `_translate`."""
        latest_first = range(len(sources) - 1, -1, -1)
        names = tuple(i for i in latest_first if sources[i].startswith("/"))
        paths = tuple(i for i in latest_first if not sources[i].startswith("/"))
        by_name = "|".join(f"({sources[i][1:]})" for i in names)
        by_path = "|".join(f"({sources[i]})" for i in paths)
        return cls(
            texts=tuple(texts),
            takes=tuple(takes),
            _by_name=_regex(by_name) if names else None,
            _names=names,
            _by_path=_regex(by_path) if paths else None,
            _paths=paths,
            _sources=tuple(sources),
        )

    def __bool__(self) -> bool:
        return bool(self.texts)

    def last_match(self, path: str) -> int:
        """Give the index of the last pattern that matches `path` itself, or -1.

        A folder's path ends in a slash. Its parents are not looked at.
        """
        found = -1
        if self._by_name is not None:
            name = path[path.rfind("/", 0, -1) + 1 :]
            match = self._by_name.fullmatch(name)
            if match is not None:
                found = self._names[match.lastindex - 1]  # type: ignore[operator]
        if self._by_path is not None:
            match = self._by_path.fullmatch(path)
            if match is not None:
                found = max(found, self._paths[match.lastindex - 1])  # type: ignore[operator]
        return found

    def single(self, index: int) -> Patterns:
        """Give the pattern at `index` alone."""
        only = slice(index, index + 1)
        return self._compile(self.texts[only], self.takes[only], self._sources[only])


@dataclass(frozen=True)
class Rules:
    """Everything that decides what a run takes. Built once; can be pickled."""

    include: Patterns = Patterns()
    exclude: Patterns = Patterns()
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


@dataclass(frozen=True)
class _Line:
    """One pattern as it was written, and where: empty for an option, else `file:line`."""

    text: str
    where: str


def _file_lines(data: bytes, origin: str) -> list[_Line]:
    """Cut a file into patterns as git does.

    Comments, carriage returns and blanks at the end that no backslash keeps are dropped.
    """
    lines = []
    for number, raw in enumerate(fsdecode(data).removeprefix(_BOM).split("\n"), 1):
        text = raw.removesuffix("\r")
        if text.startswith("#"):
            continue
        bare = text.rstrip(" ")
        if (len(bare) - len(bare.rstrip("\\"))) % 2 and bare != text:
            bare += " "
        if bare:
            lines.append(_Line(bare, f"{origin}:{number}"))
    return lines


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"{name}: can't read this file of exclude patterns ({why}); check its path"
        raise PlanError(message) from error


def _translate(line: _Line) -> tuple[str, bool]:
    """Turn a pattern into a regular expression for a full match, and whether it takes.

    The result begins with a slash where it is for the last name, not the whole path.
    """
    # Not at the top: a run without patterns never needs it.
    from pathspec.patterns.gitignore import GitIgnorePatternError
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    take = not line.text.startswith("!")
    try:
        body, sets = _lift_sets(line.text if take else line.text[1:])
        by_name = "/" not in body[:-1]
        body = _itself(body)
        source, kind = GitIgnoreSpecPattern.pattern_to_regex("/" + body if by_name else body)
    except GitIgnorePatternError as error:
        raise _refused(line, "it ends in a backslash or names nothing") from error
    except ValueError as error:
        raise _refused(line, str(error)) from error
    if source is None or kind is None or not body.strip("/"):
        raise _refused(line, "it names nothing")
    # Each expression marks the folder's slash with a group of the same name; only the number of
    # the alternative may remain as a group.
    source = _NAMED_GROUP.sub("/", source)
    first, *rest = source.split(_SET)
    source = first + "".join(found + text for found, text in zip(sets, rest, strict=True))
    if not source.startswith("^"):
        source = f".*{source}"
    return "/" + source if by_name else source, take


def _itself(body: str) -> str:
    """Write a pattern so that pathspec's expression for it matches a path itself.

    pathspec reads `a/**` as `a/` and what is below; git means only what is below.
    """
    if body.endswith("/**"):
        body += "/*"
    elif body.endswith("/**/"):
        body += "*/"
    elif body in ("**", "**/"):
        body = body.replace("**", "*")
    return "\\" + body if body.startswith(("#", "!")) else body


def _lift_sets(text: str) -> tuple[str, list[str]]:
    """Take each `[…]` out of a pattern, leaving `_SET`, and give them as regular expressions.

    pathspec hands sets on as they are: it knows no `[[:digit:]]`, no backslash in them, and lets
    `[!a]` match a slash. It also drops a blank at the end, so one becomes a set.
    """
    parts: list[str] = []
    sets: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        step = 1
        if char == _SET:
            raise ValueError("it holds a NUL character")
        if char == "\\":
            step = 2
        elif char == "[":
            expression, end = _read_set(text, at + 1)
            sets.append(expression)
            parts.append(_SET)
            at = end
            continue
        parts.append(text[at : at + step])
        at += step
    if parts and parts[-1][-1].isspace():
        sets.append(re.escape(parts.pop()[-1]))
        parts.append(_SET)
    return "".join(parts), sets


def _read_set(text: str, start: int) -> tuple[str, int]:
    """Read a set from behind its `[`; give its expression and the place behind its `]`."""
    at = start
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    first = at
    items: list[str] = []
    while at < len(text) and (text[at] != "]" or at == first):
        if text.startswith("[:", at) and (end := text.find(":]", at + 2)) > 0:
            name = text[at + 2 : end]
            if name not in _CLASSES:
                raise ValueError(f"[:{name}:] is no class; there are {', '.join(_CLASSES)}")
            items.append(_CLASSES[name])
            at = end + 2
            continue
        low, at = _set_char(text, at)
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] not in ("", "]"):
            high, at = _set_char(text, at + 1)
            if high < low:
                raise ValueError(f"{low}-{high} runs backwards")
            items.append(f"{_in_set(low)}-{_in_set(high)}")
        else:
            items.append(_in_set(low))
    if at >= len(text):
        raise ValueError("a [ has no ]")
    return f"(?!/)[{'^' if negated else ''}{''.join(items)}]", at + 1


def _set_char(text: str, at: int) -> tuple[str, int]:
    at += text[at] == "\\"
    if at >= len(text) or text[at] in ("/", _SET):
        raise ValueError("a [ has no ]")
    return text[at], at + 1


def _in_set(char: str) -> str:
    return "\\" + char if char in "\\[]^-&~|" else char


def _refused(line: _Line, why: str) -> PlanError:
    where = f"{line.where}: " if line.where else ""
    return PlanError(f"{where}the pattern {line.text!r} can't be read: {why}")


def _regex(source: str) -> re.Pattern[str]:
    return re.compile(source, re.DOTALL)
