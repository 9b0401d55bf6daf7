"""Whether a file system ignores case is found out, and nothing of that is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from caseblind import CaseBlind
from mirroring import put

from pybak.casing import ignores_case


def test_every_kind_of_destination_is_asked_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, named, digits = tmp_path / "d" / "Empty", tmp_path / "d" / "named", tmp_path / "d" / "1"
    put(named / "x")
    put(digits / "2021")
    empty.mkdir()
    places = [empty, named, digits, empty / "not" / "yet", named / "nor"]

    def asked(*, may_write: bool = True) -> list[bool]:
        return [ignores_case(os.fsencode(one), may_write=may_write) for one in places]

    before = [one.stat().st_mtime_ns for one in places[:3]]
    assert asked() == asked(may_write=False) == [False] * 5
    CaseBlind(tmp_path / "d", monkeypatch)
    assert asked() == asked(may_write=False) == [True] * 5
    assert [one.stat().st_mtime_ns for one in places[:3]] == before
    assert [os.listdir(one) for one in places[:3]] == [[], ["x"], ["2021"]]


def test_what_is_above_its_mount_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing there has a name with letters, a file is made if that may be."""
    mounted = tmp_path / "Above" / "mounted"
    put(mounted / "2021" / "x")
    CaseBlind(mounted, monkeypatch)
    real = os.stat

    def elsewhere(path: Any, *more: Any, **named: Any) -> os.stat_result:
        status = real(path, *more, **named)
        if path != os.fsencode(mounted):
            return status
        times = {"st_atime_ns": status.st_atime_ns, "st_mtime_ns": status.st_mtime_ns}
        return os.stat_result((*status[:2], status.st_dev + 1, *status[3:]), times)

    monkeypatch.setattr(os, "stat", elsewhere)
    assert ignores_case(os.fsencode(mounted), may_write=True)
    assert not ignores_case(os.fsencode(mounted), may_write=False)
    assert os.listdir(mounted) == ["2021"]


def test_a_folder_that_can_not_be_written_or_listed_is_taken_for_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    assert not ignores_case(os.fsencode(tmp_path), may_write=True)
    monkeypatch.setattr(os, "scandir", refuse)
    assert not ignores_case(os.fsencode(tmp_path), may_write=True)
