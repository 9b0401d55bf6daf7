"""Prunes that are killed or stopped: what is listed is whole, and the next goes on. (case 94)"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from pruning import INCREMENTAL, Shelf, killed_at, names

from pybak.errors import (
    Interrupted,
)
from pybak.retention.deleting import Deletion


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups", f"sqlite:///{tmp_path}/catalog.db")


@pytest.mark.parametrize("step", range(7))
def test_a_kill_at_any_step_leaves_every_listed_snapshot_whole(shelf: Shelf, step: int) -> None:
    shelf.add({"a": 1, "b": 1}, volumes=2)
    shelf.add({"a": 2}, mode=INCREMENTAL, volumes=2)
    shelf.add({"a": 3, "b": 3}, volumes=2)
    last = shelf.add({"a": 4}, mode=INCREMENTAL)
    shelf.database.close()
    child = os.fork()
    if not child:
        killed_at(shelf, step)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    for snapshot in shelf.history.snapshots("docs"):
        assert set(shelf.held(snapshot)) == {"a", "b"}
    assert shelf.held(last) == {"a": 4, "b": 3}
    done = shelf.prune(keep_last=1)
    assert done.status == "success"
    assert shelf.files() == ["docs_0003.zip.001", "docs_0003.zip.002", "docs_0004.zip"]
    assert shelf.counts() == {"archive": 2, "volume": 3, "file_version": 3}
    assert shelf.held(last) == {"a": 4, "b": 3}


def test_what_a_kill_left_goes_with_any_later_prune(shelf: Shelf) -> None:
    shelf.add({"a": 1}, volumes=3)
    shelf.add({"a": 2})
    shelf.database.close()
    child = os.fork()
    if not child:
        killed_at(shelf, 2)
    os.waitpid(child, 0)
    assert shelf.files() == ["docs_0001.zip.002", "docs_0001.zip.003", "docs_0002.zip"]
    shown = shelf.rehearse(keep_last=100)
    assert shown.remove == ()
    assert shown.deleted == (str(shelf.folder / "docs_0001.zip"),)
    done = shelf.prune(keep_last=100)
    assert shelf.files() == names(2)
    assert done.deleted == shown.deleted
    assert done.bytes_freed == 2 * (1000 + len("docs_0001.zip.002"))


def test_a_stop_on_request_is_finished_by_the_next(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    for number in range(1, 5):
        shelf.add({"a": number})
    with shelf.run(keep_last=1) as run:
        delete = Deletion.delete

        def stop_after(*given: object) -> bool:
            run.request_cancel()
            return delete(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(Deletion, "delete", stop_after)
        with pytest.raises(Interrupted):
            run.prune(run.plan("docs"))
        monkeypatch.undo()
    assert shelf.files() == names(2, 3, 4)
    assert shelf.counts()["archive"] == 3
    assert shelf.seqs() == [4]
    assert shelf.prune(keep_last=1).deleted == tuple(
        str(shelf.folder / name) for name in names(2, 3)
    )
