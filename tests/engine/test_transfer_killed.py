"""Moves that are killed: the archive is whole somewhere, and a later run finishes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from backing_up import noise
from dying import die_at
from recorded import Recorded
from transferring import archives_of, places_of, transfer

from pybak.catalog import copies
from pybak.home import home
from pybak.options import RestoreOptions
from pybak.restore.ask import ask
from pybak.restore.run import RestoreRun
from pybak.storage.local_folder import FolderStorage
from pybak.transfer import run as run_module
from pybak.transfer.streaming import Stream

CHANGES = tuple((FolderStorage, name) for name in ("begin", "send", "complete", "put", "delete"))
WRITERS = tuple((copies, name) for name in ("add_copies", "move_place", "drop_copy"))
STEPS = 17  # the last is the end


class Small(Stream):
    """Works with parts of a size that makes some of a small file."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, window=20_000, part_bytes=40_000, **more)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.setattr(run_module, "Stream", Small)
    tree = tmp_path / "docs"
    tree.mkdir()
    (tree / "large").write_bytes(noise(150_000))
    made = Recorded(f"sqlite:///{tmp_path}/catalog.db", tmp_path / "to")
    made.back_up(tree, split="64KiB", checksum=["sha256"])
    return made


def listed(*folders: Path) -> list[dict[str, bytes]]:
    """Give the files of folders that a person sees."""
    return [
        {path.name: path.read_bytes() for path in folder.glob("[!.]*")} if folder.is_dir() else {}
        for folder in folders
    ]


@contextmanager
def killed(step: int, *words: Any, **how: Any) -> Iterator[None]:
    child = os.fork()
    if not child:
        die_at(step, lambda: transfer(*words, **how), changes=CHANGES, writers=WRITERS)  # type: ignore[arg-type]
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    yield


def is_whole(made: Recorded, folder: Path) -> bool:
    """Whether the newest snapshot can be restored."""
    asked = ask("latest", job="docs", at=None, catalog_url=made.url)
    shares = asked.shares(made.url)
    with RestoreRun(shares, str(folder), RestoreOptions()) as run:
        return run.rehearse().status == "success"


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_kill_at_any_step_leaves_the_archive_whole_and_the_next_run_finishes(
    made: Recorded, tmp_path: Path, step: int, known: bool
) -> None:
    second = tmp_path / "second"
    (before,) = listed(made.to)
    url = made.url if known else f"sqlite:///{tmp_path}/other.db"
    words = (url, made.outcomes[0].path)
    with killed(step, *words, to=second, move=True):
        old, new = listed(made.to, second)
        assert before in (old, new)
        if known:
            assert is_whole(made, tmp_path / "restored")
    if old or (known and archives_of(url)[0].copies):
        report = transfer(*words, to=second, move=True)
        assert report.status == "success"
    assert listed(made.to, second) == [{}, before]
    notes = home() / "uploads"
    assert not notes.is_dir() or not list(notes.iterdir())
    assert not list(second.glob(".*"))
    if known:
        name = str(second / made.outcomes[0].path.name)
        assert places_of(made.url) == [(name,)]
        assert [one.copies for one in archives_of(made.url)] == [()]
        assert is_whole(made, tmp_path / "restored")


def test_all_steps_are_tried(made: Recorded, tmp_path: Path) -> None:
    with killed(STEPS - 1, made.url, made.outcomes[0].path, to=tmp_path / "second", move=True):
        assert listed(made.to) == [{}]
        assert [one.copies for one in archives_of(made.url)] == [()]


def test_what_a_kill_left_of_a_move_is_not_touched_by_a_move_back(
    made: Recorded, tmp_path: Path
) -> None:
    (before,) = listed(made.to)
    for step in range(STEPS):
        second = tmp_path / f"second{step}"
        with killed(step, made.url, made.outcomes[0].path, to=second, move=True):
            (facts,) = archives_of(made.url)
        if facts.copies:
            break
    assert [one.is_leaving for one in facts.copies] == [True]
    assert listed(made.to, second) == [before, before]
    report = transfer(made.url, job="docs", to=made.to, move=True)
    assert report.status == "success"
    assert listed(made.to, second) == [before, {}]
    assert places_of(made.url) == [(str(made.outcomes[0].path),)]
    assert [one.copies for one in archives_of(made.url)] == [()]
