"""Each file is done or untouched after a kill at any moment: never lost, never done twice."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inboxes import Inbox, die_in_round, files_in

from pybak.catalog import engine

MOST_STEPS = 400


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: a process that is killed loses nothing that it wrote."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(engine, "_PRAGMAS", (*engine._PRAGMAS, "synchronous=OFF"))


def contents(folder: Path) -> Counter[bytes]:
    """What the whole files of a folder hold, hidden work folders left out."""
    found: Counter[bytes] = Counter()
    for name in files_in(folder):
        if not any(part.startswith(".pybak-work-") for part in Path(name).parts):
            data = (folder / name).read_bytes()
            found[gzip.decompress(data) if name.endswith(".gz") else data] += 1
    return found


def every_kill(
    tmp_path: Path,
    fill: Callable[[Inbox], object],
    after: Callable[[Inbox], object],
    *,
    between: Callable[[Inbox], object] = lambda _inbox: None,
    **options: Any,
) -> int:
    """Kill a round before each of its changes in turn, and call `after` once another round ran.

    `between` is called between kill and round. Gives how many kills there were.
    """
    for step in range(MOST_STEPS):
        inbox = Inbox(Path(tempfile.mkdtemp(dir=tmp_path)))
        fill(inbox)
        if not die_in_round(inbox, step, partial(inbox.round, **options)):
            return step
        between(inbox)
        inbox.round(**options)
        after(inbox)
    raise AssertionError("the round never came to its end")


def assert_settled(inbox: Inbox) -> None:
    """Nothing is half-way: no hidden files, no open rows."""
    assert not [name for name in (*inbox.stored, *inbox.left) if ".pybak" in name]
    assert {state for _, state in inbox.rows()} <= {"done", "duplicate"}


def test_a_kill_at_any_moment_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    """(case 94)"""

    def fill(inbox: Inbox) -> None:
        inbox.put("a", b"first")
        inbox.put("sub/b", b"second")
        inbox.put("sub/c", b"first")

    def between(inbox: Inbox) -> None:
        assert {b"first", b"second"} <= set(contents(inbox.source) + contents(inbox.target))

    def after(inbox: Inbox) -> None:
        assert inbox.left == []
        assert contents(inbox.target) == {b"first": 1, b"second": 1}
        assert_settled(inbox)

    assert every_kill(tmp_path, fill, after, between=between) > 20


def test_kept_files_are_done_once_whatever_is_killed(tmp_path: Path) -> None:
    def after(inbox: Inbox) -> None:
        assert contents(inbox.source) == contents(inbox.target) == {b"first": 1, b"second": 1}
        assert inbox.round(keep=True).files.known == 2
        assert_settled(inbox)

    def fill(inbox: Inbox) -> None:
        inbox.put("a", b"first")
        inbox.put("b", b"second")

    assert every_kill(tmp_path, fill, after, keep=True) > 10


def test_all_places_or_none_have_a_file_after_a_kill(tmp_path: Path) -> None:
    also = tmp_path / "also"

    def fill(inbox: Inbox) -> None:
        for path in sorted(also.rglob("*"), reverse=True) if also.exists() else ():
            path.unlink() if path.is_file() else path.rmdir()
        inbox.put("sub/a", b"first")

    def after(inbox: Inbox) -> None:
        assert inbox.left == []
        assert contents(inbox.target) == contents(also) == {b"first": 1}
        assert [name for name in files_in(also) if ".pybak" in name] == []
        assert_settled(inbox)

    assert every_kill(tmp_path, fill, after, also_to=[str(also)]) > 15


def test_a_source_that_changes_after_the_kill_is_stored_as_it_is_then(tmp_path: Path) -> None:
    def change(inbox: Inbox) -> None:
        for name in inbox.left:
            if "pybak" not in name:
                with (inbox.source / name).open("ab") as file:
                    file.write(b" and more")

    def after(inbox: Inbox) -> None:
        assert inbox.left == []
        found = contents(inbox.target)
        assert found[b"first and more"] == 1 or found == {b"first": 1}
        assert_settled(inbox)

    every_kill(tmp_path, lambda inbox: inbox.put("a", b"first"), after, between=change)


def test_a_source_that_is_gone_after_the_kill_stays_stored_if_it_was(tmp_path: Path) -> None:
    def remove(inbox: Inbox) -> None:
        seen = contents(inbox.target)
        for name in inbox.left:
            (inbox.source / name).unlink()
        inbox.round()
        assert contents(inbox.target) == seen
        assert_settled(inbox)

    every_kill(
        tmp_path, lambda inbox: inbox.put("a", b"first"), lambda _inbox: None, between=remove
    )


def test_a_duplicate_that_is_put_aside_is_there_once_after_a_kill(tmp_path: Path) -> None:
    aside = tmp_path / "aside"

    def fill(inbox: Inbox) -> None:
        for name in files_in(aside):
            (aside / name).unlink()
        inbox.put("a", b"first")
        inbox.put("b", b"first")

    def after(inbox: Inbox) -> None:
        assert (inbox.left, contents(inbox.target)) == ([], {b"first": 1})
        assert contents(aside) == {b"first": 1}
        assert_settled(inbox)

    every_kill(tmp_path, fill, after, duplicates_to=str(aside))


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    rounds=st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.sampled_from("abc"), st.sampled_from([b"1", b"22", b"33", b""])),
                max_size=4,
            ),
            st.none() | st.integers(0, 45),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_ten_random_rounds_with_kills_store_every_content_once(
    tmp_path: Path, rounds: list[tuple[list[tuple[str, bytes]], int | None]]
) -> None:
    """(case 94)"""
    inbox = Inbox(Path(tempfile.mkdtemp(dir=tmp_path)))
    given: set[bytes] = set()
    for files, step in rounds:
        for name, content in files:
            if not (inbox.source / name).exists():
                inbox.put(name, content)
                given.add(content)
        if step is None:
            inbox.round()
        else:
            die_in_round(inbox, step)
        assert set(contents(inbox.source) + contents(inbox.target)) == given
    inbox.round()
    assert inbox.left == []
    assert contents(inbox.target) == dict.fromkeys(given, 1)
    assert_settled(inbox)
