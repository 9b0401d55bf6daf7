"""Patterns of gitignore (https://git-scm.com/docs/gitignore) as regular expressions.

`pathspec` turns most of a pattern into an expression; what it reads otherwise than git is done
here. Patterns are matched against a path as text (`os.fsdecode`), a folder's with a slash at its
end. Names are compared as they are typed, byte by byte: a composed `é` does not match a decomposed
one.

Departures from git, on purpose: a pattern that can't be read is an error, where git drops it;
`?` and `[…]` stand for one character, not for one byte; a pattern given as an option is never
a comment and keeps its trailing blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import fsdecode
from typing import Final

from pybak.errors import PlanError

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
