"""Random trees, edited over several states, come back from the archives of their states."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from chains import HOW, Chain, alone, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from restoring import restore
from walker import walk

from pybak.errors import PlanError
from pybak.restore.select import Selector

NAMES = ["a", "b", "c d", "f\xe9", "\\x", "x"]
FOLDERS = ["", "d", "d/e", "g"]
Edit = st.tuples(
    st.sampled_from(["write", "mkdir", "link", "remove", "chmod", "move", "touch"]),
    st.sampled_from(FOLDERS),
    st.sampled_from(NAMES),
    st.integers(0, 3),
)


def edit(top: Path, what: str, folder: str, name: str, number: int) -> None:
    """Change one thing; does nothing where it can't be."""
    path = top / folder / name
    other = top / FOLDERS[number] / NAMES[number]
    try:
        if what == "write":
            write(path, f"{name} {number} " * (number * 400))
        elif what == "mkdir":
            path.mkdir(parents=True)
        elif what == "link":
            path.symlink_to(f"../{NAMES[number]}")
        elif what == "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif what == "chmod" and not path.is_symlink():
            path.chmod(0o700 + number)
        elif what == "move":
            path.rename(other)
        elif what == "touch":
            os.utime(path, ns=(number, 10**18 + number), follow_symlinks=False)
    except OSError:
        pass


@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    runs=st.lists(st.lists(Edit, max_size=8), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 30),
)
def test_what_was_remembered_comes_back(kind: str, runs: list[Any], seed: int) -> None:
    """Random trees, edited over several states; every path from any archive that has it so."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch) / "source" / "docs"
        top.mkdir(parents=True)
        chain = Chain(top, Path(scratch) / "archives", **HOW[kind])
        for edits in runs:
            for one in edits:
                edit(top, *one)
            chain.save()
        pick = random.Random(seed).choice
        target = Path(scratch) / "target"
        for number, state in enumerate(chain.states):
            restore(chain.snapshot(number, pick=pick), target, deletes=True, overwrite="always")
            assert alone(walk(target)) == state


@pytest.mark.filterwarnings("ignore:Possible nested set")
@given(
    patterns=st.lists(st.text("ab/*?[]!\\# .", min_size=1, max_size=6), min_size=1, max_size=3),
    path=st.text("ab/.", min_size=1, max_size=8).map(lambda text: text.strip("/") or "a"),
)
@settings(max_examples=400, deadline=None)
def test_the_quick_look_at_a_name_never_changes_the_verdict(patterns: list[str], path: str) -> None:
    """What patterns say is judged by the library that defines them."""
    from pathspec import GitIgnoreSpec

    try:
        selector = Selector(patterns)
        spec = GitIgnoreSpec.from_lines(patterns)
    except (PlanError, ValueError):
        return
    name = os.fsencode(path)
    as_file, as_folder = spec.match_file(path), spec.match_file(path + "/")
    assert selector.may_want(name) == (as_file or as_folder)
    assert selector.wants(name, is_folder=False) == as_file
    assert selector.wants(name, is_folder=True) == as_folder
