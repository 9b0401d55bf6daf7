"""What a mirror deletes from its destination, and what it never does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mirroring import assert_mirrored, done, errors, mirror, put

from pybak.mirror import compare, copy
from pybak.mirror.limit import max_delete
from pybak.mirror.run import EmptySourceError
from pybak.report import PARTIAL, SUCCESS, UNCHANGED


@pytest.fixture
def src(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    for name in ("a", "b", "sub/c", "sub/d"):
        put(source / name, name)
    return source


@pytest.fixture
def dst(src: Path, tmp_path: Path) -> Path:
    """A finished mirror of it."""
    mirror(src, tmp_path / "dst")
    return tmp_path / "dst"


def test_nothing_is_deleted_unless_that_is_asked_for(src: Path, dst: Path) -> None:
    (src / "a").unlink()
    put(dst / "more")
    report = mirror(src, dst)
    assert done(report) == {"unchanged": 3}
    assert sorted(os.listdir(dst)) == ["a", "b", "more", "sub"]
    assert mirror(src, dst).status == UNCHANGED


def test_what_vanished_is_deleted_folders_and_all(src: Path, dst: Path, tmp_path: Path) -> None:
    (src / "a").unlink()
    put(dst / "x" / "y" / "z")
    outside = put(tmp_path / "outside" / "kept").parent
    (dst / "x" / "link").symlink_to(outside)
    report = mirror(src, dst, delete=True)
    assert report.status == SUCCESS
    assert (report.files.deleted, report.folders_deleted) == (3, 2)
    assert set(report.deleted_paths) == {"a", "x", "x/y", "x/y/z", "x/link"}
    assert_mirrored(src, dst)
    assert (outside / "kept").exists()
    assert mirror(src, dst, delete=True).status == UNCHANGED


def test_what_patterns_leave_out_stays(src: Path, dst: Path) -> None:
    put(dst / "cache" / "big")
    put(dst / "old" / "x.tmp")
    put(dst / "old" / "y")
    report = mirror(src, dst, delete=True, exclude=["cache/", "*.tmp", "/a"])
    assert report.deleted_paths == ("old/y",)
    assert (dst / "cache" / "big").exists()
    assert (dst / "old" / "x.tmp").exists()
    assert (dst / "a").exists()


def test_what_is_not_included_stays(src: Path, dst: Path) -> None:
    put(dst / "x.log")
    put(dst / "old" / "y.log")
    put(dst / "old" / "z")
    report = mirror(src, dst, delete=True, include=["*.log", "b"])
    assert set(report.deleted_paths) == {"x.log", "old/y.log"}
    assert (dst / "old" / "z").exists()


def test_too_much_at_once_is_not_deleted_at_all(src: Path, dst: Path) -> None:
    for number in range(30):
        put(dst / "gone" / str(number))
    put(src / "new")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.files.deleted) == (PARTIAL, 0)
    assert errors(report) == {"": "delete_limit"}
    assert "31 entries" in report.errors[0].message
    assert "--max-delete 50%" in report.errors[0].message
    assert (dst / "new").exists()
    assert len(os.listdir(dst / "gone")) == 30
    assert mirror(src, dst, delete=True, max_delete="30").files.deleted == 0
    assert mirror(src, dst, delete=True, max_delete="31").files.deleted == 30
    assert_mirrored(src, dst)


def test_a_dry_run_tells_that_it_would_be_too_much(src: Path, dst: Path) -> None:
    put(dst / "gone")
    report = mirror(src, dst, delete=True, max_delete="0", dry_run=True)
    assert errors(report) == {"": "delete_limit"}


@pytest.mark.parametrize(
    ("text", "total", "most"),
    [
        (None, 1000, 500), (None, 10, 20), ("10%", 1000, 100), ("0%", 1000, 0), ("0", 1000, 0),
        ("7", 3, 7), ("100%", 5, 20), ("2.5%", 4000, 100),
    ],
)  # fmt: skip
def test_a_limit_is_a_number_or_a_share_and_a_few_in_any_case(
    text: str | None, total: int, most: int
) -> None:
    assert max_delete(text).of(total) == most


@pytest.mark.parametrize("text", ["", "-1", "101%", "x", "5 files", "%", "1e3", "½", "nan%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a number of entries nor a share"):
        max_delete(text)


def test_an_empty_source_is_taken_for_one_that_is_not_mounted(src: Path, dst: Path) -> None:
    subprocess.run(["rm", "-r", src], check=True)
    src.mkdir()
    with pytest.raises(EmptySourceError, match="see that it is mounted"):
        mirror(src, dst, delete=True, max_delete="100%")
    assert (dst / "a").exists()
    assert mirror(src, dst).status == SUCCESS  # without --delete nothing is lost
    report = mirror(src, dst, delete=True, allow_empty=True)
    assert report.files.deleted == 4
    assert os.listdir(dst) == []
    assert mirror(src, dst, delete=True).status == UNCHANGED


def test_nothing_goes_where_a_folder_could_not_be_listed(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network folder that fails in the middle (case 20)."""
    inode = (src / "sub").stat().st_ino
    (src / "a").unlink()
    (src / "sub" / "c").unlink()
    real = os.scandir

    def scandir(path: int) -> object:
        if isinstance(path, int) and os.fstat(path).st_ino == inode:
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(compare.os, "scandir", scandir)
    report = mirror(src, dst, delete=True)
    assert (report.status, errors(report)) == (PARTIAL, {"sub": "io_error", "": "delete_limit"})
    assert report.deleted_paths == ()
    assert (dst / "sub" / "c").exists()


def test_nothing_goes_from_a_folder_that_vanished_meanwhile(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes in the next run (case 45)."""
    real = compare._Comparer._entries

    def entries(self: compare._Comparer, path: bytes, *rest: object) -> None:
        real(self, path, *rest)  # type: ignore[arg-type]
        if not path:
            subprocess.run(["rm", "-r", src / "sub"], check=True)

    monkeypatch.setattr(compare._Comparer, "_entries", entries)
    report = mirror(src, dst, delete=True)
    assert (report.status, report.files.deleted) == (UNCHANGED, 0)
    assert [(one.path, one.code) for one in report.skipped] == [("sub", "vanished")]
    assert (dst / "sub" / "c").exists()
    monkeypatch.undo()
    assert mirror(src, dst, delete=True).files.deleted == 2


def test_what_came_into_the_place_of_something_meanwhile_stays(src: Path, dst: Path) -> None:
    put(dst / "old", "is to go")
    put(dst / "folder" / "old")

    def swap(_plan: object) -> None:
        (dst / "old").rename(dst / "kept elsewhere")
        put(dst / "old", "just made")
        put(dst / "folder" / "just made")

    report = mirror(src, dst, delete=True, between=swap)
    assert errors(report) == {"old": "storage", "folder": "storage"}
    assert (dst / "old").read_text() == "just made"
    assert (dst / "folder" / "just made").exists()


def test_deleting_comes_after_copying(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "a").rename(src / "moved")
    real = copy.delete_surplus
    seen: list[bool] = []

    def delete(*given: object, **named: object) -> object:
        seen.append((dst / "moved").exists())
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(copy, "delete_surplus", delete)
    mirror(src, dst, delete=True)
    assert seen == [True, True]
    assert_mirrored(src, dst)


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_what_is_mounted_in_the_destination_stays(
    src: Path, dst: Path, tmp_path: Path, kind: str
) -> None:
    mounted = dst / "extra" / "mounted"
    mounted.mkdir(parents=True)
    other = put(tmp_path / "other" / "file").parent
    how = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(other)]
    if subprocess.run(["mount", *how, mounted], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        put(mounted / "file")
        report = mirror(src, dst, delete=True)
        assert (mounted / "file").exists()
        assert [problem.path for problem in report.skipped] == ["extra/mounted"]
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert mirror(src, dst, delete=True).folders_deleted == 2
