"""The filter: what is kept of a walk, why the rest is not, and that nothing counts twice."""

import os

import pytest

from pybak.backup.discover import discover
from pybak.backup.filter import filter_entries
from pybak.backup.rules import Rules
from pybak.backup.sources import resolve_sources
from pybak.entries import FIFO, FILE, SOCKET, read_entries
from pybak.problems import NO_MATCH, UNSUPPORTED, read_problems


class Kept:
    """One walk and the filter after it."""

    def __init__(self, work, *sources, unsupported=frozenset(), **rules):
        roots = resolve_sources([str(s) for s in sources]).roots
        built = Rules.build(**rules)
        self.found = discover(roots, built, work / "found", work / "problems-1")
        self.kept = filter_entries(
            self.found, roots, built, work / "kept", work / "problems-2", unsupported=unsupported
        )
        self.entries = list(read_entries(self.kept.entries))
        self.names = [os.fsdecode(roots[e.root].member_name(e.path)) for e in self.entries]
        self.problems = [p for path in self.kept.problems for p in read_problems(path)]
        assert self.kept.problem_count == len(self.problems)
        files = [e for e in self.entries if e.kind != "d"]
        assert self.kept.files == len(files)
        assert self.kept.folders == len(self.entries) - len(files)
        assert self.kept.total_bytes == sum(e.size for e in files if e.kind == FILE)


@pytest.fixture
def src(tmp_path):
    for name in ("a.py", "b.txt", "docs/c.py", "docs/d.tmp", "docs/deep/e.py", "empty/f.txt"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 10)
    return tmp_path / "src"


def test_without_rules_the_walk_s_file_is_taken_as_it_is(tmp_path, src):
    kept = Kept(tmp_path, src)
    assert len(kept.entries) == 10
    assert os.path.samefile(kept.kept.entries, kept.found.entries)


def test_a_second_try_leaves_the_same(tmp_path, src):
    first = Kept(tmp_path, src).names
    assert Kept(tmp_path, src).names == first
    assert Kept(tmp_path, src, exclude=["*.nothing"]).names == first
    assert Kept(tmp_path, src).names == first


def test_another_try_leaves_the_walk_s_file_alone(tmp_path, src):
    walk = Kept(tmp_path, src)
    roots = resolve_sources([str(src)]).roots
    again = filter_entries(
        walk.found, roots, Rules.build(exclude=["*.py"]), walk.kept.entries, tmp_path / "p"
    )
    assert again.files == 3
    assert len(list(read_entries(walk.found.entries))) == 10


def test_excluded_files_are_dropped_with_a_reason(tmp_path, src):
    kept = Kept(tmp_path, src, exclude=["*.tmp", "*.txt", "!b.txt", "deep/"])
    assert kept.names == [
        "src", "src/a.py", "src/b.txt", "src/docs", "src/docs/c.py", "src/empty"
    ]  # fmt: skip
    assert kept.kept.excluded == {"pattern *.tmp": 1, "pattern *.txt": 1, "pattern deep/": 1}


def test_a_folder_with_only_excluded_children_stays(tmp_path, src):
    """(case 15)"""
    assert "src/empty" in Kept(tmp_path, src, exclude=["f.txt"]).names


def test_excluding_everything_leaves_the_root(tmp_path, src):
    """(case 42)"""
    kept = Kept(tmp_path, src, src / "b.txt", exclude=["**"])
    assert kept.names == ["src", "b.txt"]
    assert kept.kept.excluded == {"pattern **": 4}


def test_included_files_bring_only_the_folders_they_need(tmp_path, src):
    kept = Kept(tmp_path, src, include=["e.py", "b.txt"])
    assert kept.names == ["src", "src/b.txt", "src/docs", "src/docs/deep", "src/docs/deep/e.py"]
    assert kept.kept.excluded == {"not included": 4}
    assert kept.problems == []


def test_an_included_folder_brings_all_below_it(tmp_path, src):
    kept = Kept(tmp_path, src, include=["/docs/", "!*.tmp"])
    assert kept.names == ["src", "src/docs", "src/docs/c.py", "src/docs/deep", "src/docs/deep/e.py"]


def test_what_is_included_and_not_excluded_is_kept(tmp_path, src):
    """(case 89)"""
    kept = Kept(tmp_path, src, include=["*.py"], exclude=["/docs/deep", "a.*"])
    assert kept.names == ["src", "src/docs", "src/docs/c.py"]
    assert kept.kept.excluded == {"pattern a.*": 1, "pattern /docs/deep": 1, "not included": 3}


def test_an_include_that_matches_nothing_is_a_problem(tmp_path, src):
    """(case 89)"""
    kept = Kept(tmp_path, src, include=["*.py", "a.py", "*.rs", "!*.go"])
    assert [(p.path, p.code) for p in kept.problems] == [("*.rs", NO_MATCH)]
    nothing = Kept(tmp_path, src, include=["*.rs"])
    assert (nothing.names, nothing.kept.files) == (["src"], 0)


def test_a_file_that_is_a_source_is_kept_and_can_match(tmp_path, src):
    kept = Kept(tmp_path, src / "a.py", src / "b.txt", include=["*.py"], max_file_size=1)
    assert kept.names == ["a.py", "b.txt"]
    assert kept.problems == []


def test_the_size_limit_drops_larger_files_only(tmp_path, src):
    (src / "big").write_bytes(b"x" * 1001)
    (src / "fits").write_bytes(b"x" * 1000)
    kept = Kept(tmp_path, src, max_file_size="1kB")
    assert "src/fits" in kept.names
    assert "src/big" not in kept.names
    assert kept.kept.excluded == {"larger than 1.00 kB": 1}


def test_what_the_format_can_not_hold_is_named(tmp_path, src):
    """(cases 32, 33, 34)"""
    os.mkfifo(src / "fifo")
    os.mkfifo(src / "fifo.tmp")
    kept = Kept(tmp_path, src, unsupported=frozenset({FIFO, SOCKET}), exclude=["*.tmp"])
    assert "src/fifo" not in kept.names
    assert [(p.path, p.code, p.message) for p in kept.problems] == [
        (str(src / "fifo"), UNSUPPORTED, "a FIFO; zip can't hold it")
    ]
    assert kept.kept.excluded == {"pattern *.tmp": 2}
    assert "src/fifo" in Kept(tmp_path, src).names


def test_every_entry_is_counted_once(tmp_path, src):
    """(case 110) What is kept and what is excluded add up to what lies there."""
    (src / "cache").mkdir()
    (src / "cache/x").write_text("x")
    (src / ".pybakignore").write_text("cache/\nb.txt\n")
    total = 8  # files, with the excluded folder as one
    kept = Kept(tmp_path, src, exclude=["*.tmp", "b.txt"], max_file_size=70)
    assert kept.kept.files + sum(kept.kept.excluded.values()) == total
    assert kept.kept.excluded == {
        "pattern cache/ (.pybakignore)": 1,
        "pattern *.tmp": 1,
        "pattern b.txt": 1,
        "larger than 70 B": 3,
    }
