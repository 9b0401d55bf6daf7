"""Sources that change, vanish or turn into something else while a mirror reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import moving
import pytest
from mirroring import assert_mirrored, done, errors, mirror, put

from pybak.mirror import content, files
from pybak.report import PARTIAL, SUCCESS

SIZES = [
    pytest.param(5_000, id="small"),
    pytest.param(content._SMALL + 50_000, id="large"),
]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WAIT_SECONDS", (0, 0, 0))


@pytest.fixture
def src(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    for name in ("before", "victim", "zlast"):
        put(source / name, name * 10)
    return source


def moving_files(
    monkeypatch: pytest.MonkeyPatch, victim: Path, act: Callable[[Path, int], object], times: int
) -> None:
    """Have something happen to a file right after it was copied, so many times."""
    inode = victim.stat().st_ino
    real = content.Copying.copy
    count = 0

    def copying(self: content.Copying, source: int, *rest: object) -> bool:
        nonlocal count
        whole = real(self, source, *rest)  # type: ignore[arg-type]
        if os.fstat(source).st_ino == inode and count < times:
            count += 1
            act(victim, count)
        return whole

    monkeypatch.setattr(content.Copying, "copy", copying)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "act", [moving.append, moving.cut, moving.rewrite, moving.rewrite_in_secret]
)
def test_a_file_that_changes_once_is_copied_again(
    src: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[..., object],
    size: int,
) -> None:
    """It grows, shrinks, or is written in place (cases 46 to 48)."""
    put(src / "victim", os.urandom(size))
    moving_files(monkeypatch, src / "victim", act, 2)
    report = mirror(src, tmp_path / "dst")
    assert report.status == SUCCESS
    assert_mirrored(src, tmp_path / "dst")
    assert not list((tmp_path / "dst").glob(".pybak*"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("act", [moving.append, moving.cut, moving.rewrite])
def test_a_file_that_never_holds_still_is_copied_as_it_was_and_named(
    src: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[..., object],
    size: int,
) -> None:
    put(src / "victim", os.urandom(size))
    moving_files(monkeypatch, src / "victim", act, 100)
    report = mirror(src, tmp_path / "dst")
    assert (report.status, errors(report)) == (PARTIAL, {"victim": "changed"})
    assert done(report) == {"copied": 2, "failed": 1}
    assert (tmp_path / "dst" / "victim").stat().st_size > size // 3
    monkeypatch.undo()
    assert mirror(src, tmp_path / "dst").status == SUCCESS
    assert_mirrored(src, tmp_path / "dst")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_vanishes_is_skipped(src: Path, tmp_path: Path, what: str) -> None:
    """Its old copy stays until the next run (cases 44 and 45)."""
    put(src / "sub" / "inside", "inside")
    mirror(src, tmp_path / "dst")
    put(src / "victim", "new content")
    put(src / "sub" / "inside", "new content")

    def vanish(_plan: object) -> None:
        if what == "file":
            (src / "victim").unlink()
        else:
            (src / "sub").rename(tmp_path / "elsewhere")

    report = mirror(src, tmp_path / "dst", between=vanish)
    assert report.status == SUCCESS
    gone = "victim" if what == "file" else "sub/inside"
    assert [(problem.path, problem.code) for problem in report.skipped] == [(gone, "vanished")]
    assert (tmp_path / "dst" / gone).exists()
    assert mirror(src, tmp_path / "dst", delete=True).files.deleted == 1
    assert_mirrored(src, tmp_path / "dst")


@pytest.mark.parametrize(
    "turn", [moving.to_link, moving.to_folder, moving.to_fifo, moving.to_socket]
)
def test_a_file_that_turns_into_something_else_is_not_followed(
    src: Path, tmp_path: Path, turn: Callable[[Path], object]
) -> None:
    """And not waited for (case 49)."""
    report = mirror(src, tmp_path / "dst", between=lambda _plan: turn(src / "victim"))
    assert (report.status, errors(report)) == (PARTIAL, {"victim": "type_changed"})
    assert sorted(os.listdir(tmp_path / "dst")) == ["before", "zlast"]


@pytest.mark.parametrize("turn", [moving.to_folder, moving.to_fifo])
def test_a_link_that_turns_into_something_else_is_named(
    src: Path, tmp_path: Path, turn: Callable[[Path], object]
) -> None:
    (src / "link").symlink_to("victim")
    report = mirror(src, tmp_path / "dst", between=lambda _plan: turn(src / "link"))
    assert errors(report) == {"link": "type_changed"}
    assert not (tmp_path / "dst" / "link").exists()


def test_a_folder_that_turns_into_a_link_is_not_followed(src: Path, tmp_path: Path) -> None:
    secret = put(tmp_path / "secret" / "file", "secret").parent
    put(src / "sub" / "file", "mine")

    def turn(_plan: object) -> None:
        (src / "sub").rename(tmp_path / "elsewhere")
        (src / "sub").symlink_to(secret)

    report = mirror(src, tmp_path / "dst", between=turn)
    assert (report.status, errors(report)) == (PARTIAL, {"sub": "storage"})
    assert [(one.path, one.code) for one in report.skipped] == [("sub/file", "vanished")]
    assert not (tmp_path / "dst" / "sub" / "file").exists()


def test_reads_that_fail_are_named(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = (src / "victim").stat().st_ino

    def fail(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode:
            raise OSError(5, "Input/output error")
        return os.pread(fd, length, offset)

    real = content.read_range
    monkeypatch.setattr(content, "_pread", fail)
    monkeypatch.setattr(content, "read_range", lambda *given: real(*given, fail))
    monkeypatch.setattr("pybak.backup.read_source.time.sleep", lambda _seconds: None)
    report = mirror(src, tmp_path / "dst")
    assert (report.status, errors(report)) == (PARTIAL, {"victim": "io_error"})
    assert sorted(os.listdir(tmp_path / "dst")) == ["before", "zlast"]
