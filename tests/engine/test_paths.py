"""Paths that people name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybak.errors import PlanError
from pybak.paths import user_path


def test_a_relative_path_and_the_home_folder_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_path("a/b") == tmp_path / "a" / "b"
    assert user_path("~/a") == Path("/home/someone/a")


@pytest.mark.parametrize(
    "text", ["x" * 300, "~nosuchuserhere/x", "a\0b", "/" + "y/" * 3000, "x" * 300 + "/inner"]
)
def test_what_can_be_no_path_is_told_as_a_mistake_in_one_line(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        user_path(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_what_does_not_exist_is_a_path_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "missing/deeper", "file/below", "loop"):
        assert user_path(str(tmp_path / name)) == tmp_path / name


def test_a_path_relative_to_a_folder_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(PlanError, match="in full"):
        user_path("x")
