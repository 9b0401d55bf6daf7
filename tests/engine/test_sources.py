"""Sources become roots: names, links, doubles, missing ones, lists of sources."""

import io
import os
import socket
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.backup.sources import _Found, _name, resolve_sources
from pybak.errors import NotFoundError, PlanError
from pybak.problems import SOURCE_MISSING, UNREADABLE


def members(*sources, cwd=None):
    found = resolve_sources([os.fsdecode(s) for s in sources], cwd=cwd)
    return [root.member for root in found.roots]


@pytest.fixture
def tree(tmp_path):
    for folder in ("a/x/docs", "b/x/docs", "c/y/docs"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_a_source_is_named_after_itself(tree):
    root = resolve_sources([str(tree / "a/x/docs")]).roots[0]
    assert root.member == b"docs"
    assert root.source == os.fsencode(tree / "a/x/docs")


def test_a_plain_file_is_a_root(tree):
    (tree / "note.txt").write_text("hello")
    assert members(tree / "note.txt") == [b"note.txt"]


def test_sources_of_one_name_take_as_much_of_their_path_as_it_takes(tree):
    assert members(tree / "a/x/docs", tree / "b/x/docs", tree / "a/x") == [
        b"a/x/docs", b"b/x/docs", b"x"
    ]  # fmt: skip
    assert members(tree / "a/x/docs", tree / "c/y/docs") == [b"x/docs", b"y/docs"]


def test_a_prefix_never_lies_below_another_source_of_that_name(tree):
    (tree / "q/x/docs").mkdir(parents=True)
    (tree / "q/y").mkdir()
    found = members(tree / "a/x/docs", tree / "c/y/docs", tree / "q/x")
    assert found == [b"x/docs", b"y/docs", b"q/x"]


def test_the_top_folder_has_an_empty_prefix_and_others_keep_their_whole_path(tree):
    assert members("/") == [b""]
    assert members("/", tree / "a") == [b"", os.fsencode(os.path.realpath(tree / "a"))[1:]]


@pytest.mark.parametrize(
    "spelling",
    ["docs", "./docs", ".//docs/", "../x/docs", "docs/.", "../x/./docs//", "docs/../docs"],
)
def test_every_spelling_gives_the_same_root(tree, spelling):
    """(case 11)"""
    start = os.fsencode(tree / "a/x")
    found = resolve_sources([spelling], cwd=start).roots
    assert found == resolve_sources([str(tree / "a/x/docs")]).roots


@pytest.mark.parametrize(("spelling", "name"), [(".", b"docs"), ("..", b"x"), ("../..", b"a")])
def test_a_relative_folder_has_its_real_name(tree, spelling, name):
    """(case 11)"""
    assert members(spelling, cwd=os.fsencode(tree / "a/x/docs")) == [name]


def test_the_current_folder_counts_when_none_is_given(tree, monkeypatch):
    monkeypatch.chdir(tree / "a")
    assert members(".") == [b"a"]


def test_a_link_is_followed_and_keeps_its_name(tree):
    """(case 27)"""
    (tree / "link").symlink_to(tree / "a/x/docs")
    for spelling in ("link", "link/"):
        root = resolve_sources([spelling], cwd=os.fsencode(tree)).roots[0]
        assert root.member == b"link"
        assert root.source == os.fsencode(os.path.realpath(tree / "a/x/docs"))


def test_dots_behind_a_link_mean_the_folder_above_its_target(tree):
    (tree / "link").symlink_to(tree / "a/x/docs")
    root = resolve_sources(["link/.."], cwd=os.fsencode(tree)).roots[0]
    assert root.member == b"x"
    assert os.path.samefile(root.source, tree / "a/x")


def test_the_same_folder_twice_is_stored_once(tree, monkeypatch):
    """(cases 10, 27)"""
    (tree / "link").symlink_to(tree / "a")
    monkeypatch.chdir(tree)
    assert members(tree / "a", "a", "./a/", "link", "b/../a") == [b"a"]
    assert members("link", "a") == [b"link"]


def test_hard_links_are_two_files(tree):
    (tree / "one").write_text("1")
    os.link(tree / "one", tree / "two")
    assert members(tree / "one", tree / "two", tree / "one") == [b"one", b"two"]


def test_nested_sources_are_both_kept(tree):
    assert members(tree / "a", tree / "a/x") == [b"a", b"x"]


@pytest.mark.parametrize("name", ["-rf", "--exclude=x", " two words ", "new\nline", "*[?]", "é"])
def test_any_name_is_only_a_path(tmp_path, name):
    """(cases 1, 2, 13)"""
    (tmp_path / name).mkdir()
    assert members(name, cwd=os.fsencode(tmp_path)) == [os.fsencode(name)]


def test_a_name_that_is_no_utf8_keeps_its_bytes(tmp_path):
    """(case 3)"""
    name = b"caf\xe9"
    os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    assert members(os.path.join(os.fsencode(tmp_path), name)) == [name]


def test_one_missing_source_of_many_is_a_problem(tree):
    """(case 56)"""
    gone = str(tree / "gone")
    found = resolve_sources([gone, str(tree / "a"), gone])
    assert [root.member for root in found.roots] == [b"a"]
    assert [(p.path, p.code) for p in found.problems] == [(gone, SOURCE_MISSING)]


def test_a_missing_source_keeps_its_name_from_the_others(tmp_path):
    """Or else all files of the others would be new, and the old ones gone (case 56)."""
    for name in ("x", "y"):
        (tmp_path / name / "docs").mkdir(parents=True)
    sources = [str(tmp_path / "x/docs"), str(tmp_path / "y/docs")]
    assert members(*sources) == [b"x/docs", b"y/docs"]
    (tmp_path / "x/docs").rmdir()
    found = resolve_sources(sources)
    assert [root.member for root in found.roots] == [b"y/docs"]
    assert [root.member for root in found.missing] == [b"x/docs"]


@pytest.mark.parametrize("spelling", ["link", "link/", "a/../link"])
def test_a_job_without_a_name_keeps_it_when_the_target_of_its_link_is_gone(tree, spelling):
    """(case 56)"""
    (tree / "link").symlink_to(tree / "a/x/docs")
    start = os.fsencode(tree)
    before = resolve_sources([spelling, "c"], cwd=start)
    (tree / "a/x/docs").rmdir()
    after = resolve_sources([spelling, "c"], cwd=start)
    assert [root.member for root in after.missing] == [b"link"]
    assert after.job(None) == before.job(None)


def test_when_all_are_missing_each_is_named(tree):
    """(case 56)"""
    with pytest.raises(NotFoundError) as caught:
        resolve_sources([str(tree / "gone"), str(tree / "lost")])
    assert str(tree / "gone") in str(caught.value)
    assert str(tree / "lost") in str(caught.value)


def test_broken_and_circular_links_say_so(tree):
    """(case 27)"""
    (tree / "broken").symlink_to("nowhere")
    (tree / "ring").symlink_to("gnir")
    (tree / "gnir").symlink_to("ring")
    found = resolve_sources([str(tree / n) for n in ("a", "broken", "ring")])
    assert [p.code for p in found.problems] == [SOURCE_MISSING] * 2
    assert "link to something that does not exist" in found.problems[0].message
    assert "circle" in found.problems[1].message
    with pytest.raises(NotFoundError, match="circle"):
        resolve_sources([str(tree / "ring")])


def test_a_path_that_is_too_long_or_goes_through_a_file_is_a_problem(tree):
    (tree / "note").write_text("x")
    found = resolve_sources([str(tree / "a"), str(tree / ("x" * 300)), str(tree / "note/b")])
    assert len(found.problems) == 2


def test_a_source_below_a_closed_folder_is_a_problem(tree, monkeypatch):
    real = os.stat

    def closed(path, **kw):
        if os.fsencode(path).endswith(b"/b"):
            raise PermissionError(13, "Permission denied")
        return real(path, **kw)

    monkeypatch.setattr(os, "stat", closed)
    found = resolve_sources([str(tree / "a"), str(tree / "b")])
    assert [(p.code, "above it" in p.message) for p in found.problems] == [(UNREADABLE, True)]


@pytest.mark.parametrize("sources", [[], [""], ["a\0b"], ["\ud800"]])
def test_what_is_no_path_is_refused(sources):
    with pytest.raises(PlanError):
        resolve_sources(sources)


def test_a_fifo_a_socket_or_a_device_is_refused(tree, monkeypatch):
    monkeypatch.chdir(tree)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
    for source, kind in (("fifo", "FIFO"), ("sock", "socket"), ("/dev/null", "device")):
        with pytest.raises(PlanError, match=kind):
            resolve_sources([source, "a"])


def test_a_list_of_lines_names_sources(tree):
    listing = tree / "list"
    listing.write_text("a\n\n  \nb\n")
    found = resolve_sources(["c"], files_from=[str(listing)], cwd=os.fsencode(tree))
    assert [root.member for root in found.roots] == [b"c", b"a", b"b"]


def test_a_list_with_nul_bytes_takes_any_name(tree):
    """(case 12)"""
    (tree / "new\nline").mkdir()
    (tree / " ").mkdir()
    stdin = io.BytesIO(b"new\nline\0 \0a")
    found = resolve_sources([], files_from=["-"], cwd=os.fsencode(tree), stdin=stdin)
    assert [root.member for root in found.roots] == [b"new\nline", b" ", b"a"]


@pytest.mark.parametrize("data", [b"a\0\0b\0", b"\0a", b"\0\0"])
def test_an_empty_name_in_a_nul_list_is_refused(tree, data):
    """(case 12)"""
    with pytest.raises(PlanError, match="is empty"):
        resolve_sources(["a"], files_from=["-"], cwd=os.fsencode(tree), stdin=io.BytesIO(data))


def test_an_empty_list_is_no_source(tree):
    with pytest.raises(PlanError, match="no source"):
        resolve_sources([], files_from=["-"], stdin=io.BytesIO(b"\n"))


def test_a_standard_input_that_is_closed_is_told(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(PlanError, match=r"^-: can't read this list of sources \(it is closed\)"):
        resolve_sources([], files_from=["-"])


def test_a_missing_list_is_named(tree):
    with pytest.raises(PlanError, match="gone"):
        resolve_sources(["a"], files_from=[str(tree / "gone.txt")])


PATHS = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4).map(lambda p: b"/" + b"/".join(p)),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(PATHS)
def test_no_two_roots_can_give_different_files_one_name(paths):
    """Equal names only where one source lies in the other under that very name."""
    roots = _name([_Found(path, path, (path,)) for path in paths])
    assert len({root.member for root in roots}) == len(roots)
    for first, second in combinations(roots, 2):
        for above, below in ((first, second), (second, first)):
            prefix = above.member + b"/" if above.member else b""
            if below.member.startswith(prefix):
                assert above.disk_path(below.member[len(prefix) :]) == below.source
