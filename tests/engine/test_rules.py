"""Patterns: what they match, which are refused, and git as the judge."""

import pickle
import subprocess
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybak.backup.discover import discover
from pybak.backup.filter import filter_entries
from pybak.backup.gitignore import Patterns
from pybak.backup.rules import NOT_INCLUDED, Chooser, Rules
from pybak.entries import FOLDER, Root, read_entries
from pybak.errors import PlanError


def takes(pattern, path):
    return Patterns.of_options([pattern]).last_match(path) >= 0


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.tmp", ["a.tmp", "x/y/a.tmp", ".tmp", "d.tmp/", "a\nb/c\n.tmp"], ["a.tmpx", "a.tmp\n"]),
        ("/docs", ["docs", "docs/"], ["x/docs", "docs/a"]),
        ("docs/", ["docs/", "x/docs/"], ["docs", "docs/a"]),
        ("a/b", ["a/b", "a/b/"], ["x/a/b", "a/b/c"]),
        ("a/**", ["a/b", "a/b/c", "a/b/"], ["a/", "a", "x/a/b"]),
        ("a/**/", ["a/b/", "a/b/c/"], ["a/", "a/b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["b", "a/bb"]),
        ("**/cache/", ["cache/", "x/cache/"], ["cache", "cache/a"]),
        ("**/x/y", ["x/y", "a\nb/x/y", "c/x/y/"], ["x/y/z", "ax/y"]),
        ("**", ["a", "a/b", "a/"], []),
        ("*/", ["a/", "a/b/"], ["a", "a/b"]),
        ("a?c", ["abc", "aéc"], ["ac", "a/c"]),
        ("[[:digit:]x]", ["1", "x"], ["a", "12"]),
        ("a[!b]", ["ac", "a\n"], ["ab", "a/"]),
        ("a[^b]/c", ["ax/c"], ["ab/c"]),
        ("[]-]", ["]", "-"], ["a"]),
        (r"[\]a]", ["]", "a"], ["\\"]),
        (r"\*", ["*"], ["a"]),
        (r"\!x", ["!x"], ["x"]),
        ("#x#", ["#x#"], ["x"]),
        ("#a/b", ["#a/b"], ["b"]),
        ("end ", ["end "], ["end"]),
        ("a b", ["a b"], ["ab"]),
        ("(a|b).+", ["(a|b).+"], ["a.b"]),
        ("caf\udce9", ["caf\udce9"], ["café"]),
        ("[[a]", ["[", "a"], ["b"]),
    ],
)
def test_a_pattern_matches_as_git_says(pattern, yes, no):
    assert [path for path in yes if not takes(pattern, path)] == []
    assert [path for path in no if takes(pattern, path)] == []


def test_names_compare_as_they_are_typed():
    """(case 5)"""
    composed, decomposed = "\u00e9", "e\u0301"
    assert takes(composed, composed)
    assert takes(decomposed, decomposed)
    assert not takes(composed, decomposed)
    assert not takes(decomposed, composed)


def test_the_last_pattern_that_matches_wins():
    patterns = Patterns.of_options(["*.log", "/x/*.log", "!keep.log"])
    assert patterns.last_match("x/a.log") == 1
    assert patterns.last_match("x/keep.log") == 2
    assert patterns.last_match("a.log") == 0
    assert patterns.takes == (True, True, False)


def test_a_file_of_patterns_has_comments_blank_lines_and_blanks_at_the_end():
    data = b"\xef\xbb\xbf# comment\r\n\r\n*.tmp  \r\n\\#x\nkeep\\ \nb\\\\ \ncaf\xe9\n   \n"
    assert Patterns.of_file(data, "f").texts == (
        "*.tmp", "\\#x", "keep\\ ", "b\\\\", "caf\udce9"
    )  # fmt: skip
    assert Patterns.of_file(b"keep\\ \n", "f").last_match("keep ") == 0


BAD = ["[abc", "a[", "[z-a]", "ends\\", "!", "/", "//", "", "!/", "[[:word:]]", "a[b/c]", "nul\0"]


@pytest.mark.parametrize("pattern", BAD)
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_can_not_be_read_is_quoted(option, pattern):
    """(case 42)"""
    with pytest.raises(PlanError) as caught:
        Rules.build(**{option: ["*.ok", pattern]})
    assert repr(pattern) in str(caught.value)


def test_a_bad_pattern_in_a_file_is_named_with_its_line(tmp_path):
    """(case 42)"""
    listing = tmp_path / "patterns"
    listing.write_text("*.ok\n\n[abc\n")
    with pytest.raises(PlanError, match=r"patterns:3: .*'\[abc'"):
        Rules.build(exclude_from=[str(listing)])
    with pytest.raises(PlanError, match="gone"):
        Rules.build(exclude_from=[str(tmp_path / "gone")])


def test_the_command_line_comes_after_the_files(tmp_path):
    listing = tmp_path / "patterns"
    listing.write_text("*.log\n")
    rules = Rules.build(exclude=["!keep.log"], exclude_from=[str(listing)])
    assert rules.exclude.texts == ("*.log", "!keep.log")


def test_rules_survive_pickling():
    rules = Rules.build(["*.py"], ["*.tmp", "!a/b.tmp"], max_file_size="500MB", left_out=[(1, 2)])
    again = pickle.loads(pickle.dumps(rules))
    assert again == rules
    assert again.exclude.last_match("a/b.tmp") == 1
    assert again.size_reason == "larger than 500 MB"


def test_a_size_that_is_none_is_refused():
    with pytest.raises(PlanError, match="largest file"):
        Rules.build(max_file_size="huge")


@given(st.text(max_size=12), st.text(alphabet="ab/.\n", min_size=1, max_size=8))
def test_any_text_is_a_pattern_or_refused(text, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            patterns = Patterns.of_options([text])
        except PlanError:
            return
        patterns.last_match(path)


def test_include_takes_what_is_below_and_exclude_drops_it():
    """(case 89)"""
    chooser = Chooser(
        Patterns.of_options(["/docs/", "*.py", "!secret.*", "*.none"]),
        Patterns.of_options(["*.tmp", "build/", "!build/keep.py"]),
    )
    verdicts = {
        "docs/": None,
        "docs/a": None,
        "docs/a.tmp": "pattern *.tmp",
        "docs/secret.txt": NOT_INCLUDED,
        "x/": NOT_INCLUDED,
        "x/y/m.py": None,
        "build/keep.py": "pattern build/",
        "docs/build/deep/m.py": "pattern build/",
    }
    for _ in range(2):
        assert {path: chooser.reason(path) for path in verdicts} == verdicts
    assert chooser.unmatched() == ["*.none"]


def test_a_very_deep_path_is_decided():
    chooser = Chooser(Patterns(), Patterns.of_options(["x/"]))
    assert chooser.reason("a/" * 5000 + "f") is None
    assert chooser.reason("a/" * 5000 + "x/f") == "pattern x/"


TREE = [
    "a", "b.tmp", "c/a", "c/b.tmp", "c/d/a", "c/d/keep", "ab/ab", "d/c/b", "d/c/a.tmp",
    "keep/keep", "a b/x", "[x]/!a", "#h", "!b", "d/\\",
]  # fmt: skip
SEGMENT = st.sampled_from(
    ["a", "b", "c", "d", "ab", "*", "a*", "?", "[ab]", "[!a]", "[^c-e]", "*.tmp", "**", "keep",
     "c*d", "[[:alpha:]]", "\\a", "[]x]", "a\\ b", "**b", "\\!*", "[[]x]"]
)  # fmt: skip
PATTERN = st.builds(
    lambda no, top, parts, end: no + top + "/".join(parts) + end,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(SEGMENT, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**", "/*"]),
)
PATTERNS = st.lists(PATTERN, max_size=4)


@pytest.fixture(scope="module")
def judged_tree(tmp_path_factory):
    top = tmp_path_factory.mktemp("judged")
    for name in TREE:
        path = top / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("x")
    subprocess.run(["git", "init", "-q", "--bare", top / "git"], check=True)
    return top


def git_keeps(top: Path, exclude: list[str]) -> set[str]:
    options = [f"--exclude={pattern}" for pattern in exclude]
    command = [
        "git", f"--git-dir={top}/git", f"--work-tree={top}/tree", "-c", "core.bare=false",
        "ls-files", "--others", "-z", "--exclude-per-directory=.pybakignore", *options,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=top / "tree")
    return set(done.stdout.decode().split("\0")) - {""}


@pytest.mark.needs_tool("git")
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(exclude=PATTERNS, outer=PATTERNS, inner=PATTERNS)
def test_what_is_kept_is_what_git_would_not_ignore(judged_tree, exclude, outer, inner):
    """(cases 41, 42)"""
    tree = judged_tree / "tree"
    (tree / ".pybakignore").write_text("\n".join(outer))
    (tree / "c/.pybakignore").write_text("\n".join(inner))
    roots = [Root(str(tree).encode(), b"tree")]
    rules = Rules.build(exclude=exclude)
    found = discover(roots, rules, judged_tree / "found", judged_tree / "p1")
    assert found.problem_count == 0
    kept = filter_entries(found, roots, rules, judged_tree / "kept", judged_tree / "p2")
    files = {x.path.decode() for x in read_entries(kept.entries) if x.kind != FOLDER}
    assert files == git_keeps(judged_tree, exclude)
