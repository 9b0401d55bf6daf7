"""Patterns to search by: what they mean, and that none takes long."""

from __future__ import annotations

import re
import sys
import time
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pybak.errors import PlanError
from pybak.overview.globs import SPECIAL, Glob, _folded
from pybak.overview.matching import matcher

PIECES = st.sampled_from([
    "*", "**", "**/", "***", "?", "/", "a", "b", "B", "ab", "-", "[", "]", "[ab]", "[!a]", "[^a-c]",
    "[]a]", "[!]]", "[a-", "[+-9]", "[\\]", "[[b]", "[!]", "[a&&b]", "\\", ".", "~", "\n", "\u017f",
    "s", "\u0130", "[i]", "\u00df", "\udc80",
])  # fmt: skip
NAMES = st.text("aabB/c-]~\\.\nsS\u017fiI\u0130\u0131\u1e9e\udc80", max_size=12)
LONG = 4000


def by_regex(pieces: list[str]) -> re.Pattern[str] | None:
    """Give a pattern as one regular expression, which may take for ever; None if it can't be."""
    simple = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = []
    for piece in filter(None, pieces):
        part = simple.get(piece) or re.escape(piece)
        if piece not in simple and SPECIAL.fullmatch(piece):
            negated = "^/" if piece[1] in "!^" else ""
            body = piece[2 if negated else 1 : -1].replace("\\", r"\\").replace("[", r"\[")
            body = body.replace("]", r"\]").replace("&&", r"&\&")
            part = f"[{negated}{body}]"
        try:
            re.compile(part)
        except re.error:
            return None
        parts.append(part)
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def seconds(glob: Glob, *names: str) -> float:
    start = time.process_time()
    for name in names:
        glob.matches(name)
    return time.process_time() - start


@settings(max_examples=1000)
@given(st.lists(PIECES, min_size=1, max_size=8), st.lists(NAMES, min_size=1, max_size=8))
@example(["a", "**/", "b"], ["ab", "a/b", "aaxb", "aa/b", "a/x/b", "axb"])
@example(["**", "a", "**/", "b"], ["aab", "aa/b", "xa/y/b", "xay/b", "xayb"])
@example(["**", "a", "*", "b", "/", "c"], ["a/ab/c", "a/abb/c", "ab/x/axb/c", "ab/xc"])
@example(["[+-9]", "*", "b"], ["/b", "-/b", "-ab"])
def test_a_pattern_means_what_its_regular_expression_does(
    pattern: list[str], names: list[str]
) -> None:
    pieces = SPECIAL.split("".join(pattern))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reference = by_regex(pieces)
        if reference is None:
            with pytest.raises(re.error):
                Glob(pieces)
            return
        glob = Glob(pieces)
    for name in names:
        assert glob.matches(name) == (reference.fullmatch(name) is not None), name
        assert glob.matches(name) == (reference.fullmatch(name) is not None), name


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("*.odt", ["a.odt", "x/y/.ODT"], ["a.odt/b", "odt"]),
        ("docs/**/*.odt", ["docs/a.odt", "docs/x/y/a.odt"], ["docs.odt", "x/docs/a.odt"]),
        ("docs/*/a?", ["docs/x/ab"], ["docs/ab", "docs/x/y/ab", "docs/x/a"]),
        ("docs/**", ["docs/", "docs/x/y"], ["docs", "x/docs/y"]),
        ("[!a-c]x/[k]", ["dx/K", "dx/\u212a"], ["ax/k", "//k", "x/k"]),
        ("2026/re", ["2026/report", "x/2026/Readme"], ["2026/x/re"]),
        ("report", ["my Report", "reports/report"], ["report/x"]),
    ],
)
def test_names_and_paths_are_matched(text: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(text).matches
    assert [one for one in yes + no if matches(one)] == yes


@pytest.mark.parametrize("text", ["[]", "[z-a]", "a/[]/[x]", "*[]"])
def test_a_set_that_cannot_be_is_told(text: str) -> None:
    with pytest.raises(PlanError, match="this is no pattern"):
        matcher(text)


@pytest.mark.parametrize(
    ("text", "char"),
    [
        ("*?" * 498 + "[~]", "a"), ("*a" * 499 + "b", "a"), ("**a" * 333 + "b", "a"),
        ("**/" * 333 + "b", "/"), ("**/a" * 249 + "b", "a"), ("*/" * 499 + "b", "/"),
        ("*" * 999 + "b", "a"), ("**/**" * 199 + "b", "/"), ("**a*" + "a" * 900 + "b", "a"),
        ("**/*a/" * 166 + "b", "a/"), ("[a-b]*" * 166 + "~", "a"), ("*[!b]" * 199 + "~", "a"),
        ("**a?" * 249 + "b", "ab/a"),
    ],
)  # fmt: skip
def test_no_pattern_takes_long(text: str, char: str) -> None:
    name = (char * LONG)[:LONG]
    glob = Glob(SPECIAL.split(text))
    assert seconds(glob, name, name + "c") < 1
    assert not glob.matches(name + "c")


@pytest.mark.parametrize("kind", ["{}*", "[{}]*"])
def test_many_different_characters_do_not_take_long_either(kind: str) -> None:
    letters = [chr(0x4E00 + number) for number in range(LONG)]
    glob = Glob(SPECIAL.split("".join(kind.format(one) for one in letters[:: 2 * len(kind)][:250])))
    assert seconds(glob, "".join(letters)) < 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from(["*", "**/", "**", "?", "a", "b", "/", "[ab]"]), min_size=300),
    st.text("ab/", min_size=1, max_size=50),
)
def test_the_work_grows_with_the_length_only(pieces: list[str], part: str) -> None:
    glob = Glob(SPECIAL.split("".join(pieces)[:1000]))
    assert seconds(glob, (part * LONG)[:LONG]) < 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pybak.overview.globs._MOST_KEPT", 3)
    glob = Glob(SPECIAL.split("**/*ab?c/[d]"))
    assert glob.matches("x/yabzabxc/d")
    assert not glob.matches("x/yabzabxc/e")
    assert len(glob._known) <= 3


def test_case_is_as_regular_expressions_have_it() -> None:
    """Of characters of one case or the other."""
    groups: dict[str, list[str]] = {}
    for char in map(chr, range(sys.maxunicode + 1)):
        if len(char.casefold()) > 1 or char.lower() != char.upper():
            groups.setdefault(_folded(char), []).append(char)
    everything = "".join(one for some in groups.values() for one in some)
    for some in groups.values():
        assert sorted(re.findall(f"(?i){re.escape(some[0])}", everything)) == sorted(some)
