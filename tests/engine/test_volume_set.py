"""Which files are meant by a path: an archive, a volume, a set, a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import archives
import pytest

from pybak.errors import ArchiveError, NotFoundError, PlanError
from pybak.formats.wrapper import wrap
from pybak.volumes.find import find_volumes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "d"
    path.mkdir()
    return path


def volumes(folder: Path, base: str, count: int, *, end: str = "", last: int = 3) -> list[str]:
    names = [f"{base}.{number:03d}{end}" for number in range(1, count + 1)]
    for name in names:
        (folder / name).write_bytes(b"x" * (10 if name != names[-1] else last))
    return names


def find(path: Path) -> tuple[list[str], str]:
    found = find_volumes(os.fsencode(path))
    return [os.fsdecode(os.path.basename(one)) for one in found.paths], os.fsdecode(found.base)


@pytest.mark.parametrize("end", ["", ".zip"])
@pytest.mark.parametrize("base", ["x.tar.zst", "x.zip", "report 2026.01", "ünï\n.tar"])
def test_any_volume_the_base_name_and_the_folder_mean_the_set(
    folder: Path, base: str, end: str
) -> None:
    names = volumes(folder, base, 3, end=end)
    (folder / "SHA256SUMS").write_text("stray")
    (folder / "sub.001").mkdir()
    for path in (*(folder / name for name in names), folder / base, folder):
        assert find(path) == (names, str(folder / base))


def test_a_relative_name_is_looked_for_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes(folder, "x.zip", 2)
    monkeypatch.chdir(folder)
    assert find(Path("x.zip.002")) == (["x.zip.001", "x.zip.002"], "x.zip")
    assert find(Path("x.zip")) == (["x.zip.001", "x.zip.002"], "x.zip")


def test_numbers_go_on_past_999(folder: Path) -> None:
    names = volumes(folder, "x.zip", 1001)
    assert names[-1] == "x.zip.1001"
    assert find(folder / "x.zip.1000")[0] == names


def test_a_plain_archive_is_a_set_of_one(folder: Path) -> None:
    (folder / "x.zip").write_bytes(b"PK")
    assert find(folder / "x.zip") == (["x.zip"], str(folder / "x.zip"))


def test_an_existing_file_beats_volumes(folder: Path) -> None:
    volumes(folder, "x.zip", 2)
    (folder / "x.zip").write_bytes(b"PK")
    assert find(folder / "x.zip")[0] == ["x.zip"]


def test_a_wrapper_is_found_by_the_name_of_what_it_holds(folder: Path) -> None:
    (folder / "x.tar.zst.zip").write_bytes(b"PK")
    assert find(folder / "x.tar.zst") == (["x.tar.zst.zip"], str(folder / "x.tar.zst"))


def test_an_archive_that_only_looks_numbered_is_opened_as_it_is(folder: Path) -> None:
    (folder / "backup.2024").write_bytes(b"\x1f\x8b\x08" + bytes(600))
    assert find(folder / "backup.2024")[0] == ["backup.2024"]


@pytest.mark.parametrize(("gone", "named"), [(1, "x.zip.001"), (2, "x.zip.002")])
def test_a_missing_volume_is_named(folder: Path, gone: int, named: str) -> None:
    """(case 61)"""
    names = volumes(folder, "x.zip", 4)
    (folder / names[gone - 1]).unlink()
    for path in (folder, folder / "x.zip", folder / "x.zip.003"):
        with pytest.raises(NotFoundError) as caught:
            find(path)
        assert f"{named} can't be found; put all volumes into one folder" in str(caught.value)


def test_many_missing_volumes_are_counted(folder: Path) -> None:
    """(case 61)"""
    (folder / "x.zip.090").write_bytes(b"x")
    with pytest.raises(NotFoundError, match=r"x.zip.001, .* and 84 others can't be found"):
        find(folder / "x.zip.090")


@pytest.mark.parametrize("size", [0, 9])
def test_a_volume_that_was_cut_short_is_named(folder: Path, size: int) -> None:
    """(case 60)"""
    volumes(folder, "x.zip", 4)
    (folder / "x.zip.002").write_bytes(b"x" * size)
    with pytest.raises(ArchiveError, match=r"volume x.zip.002 .*it was cut short; copy it again"):
        find(folder)


def test_a_volume_that_is_too_large_is_named(folder: Path) -> None:
    """(case 61)"""
    volumes(folder, "x.zip", 3, last=11)
    with pytest.raises(ArchiveError, match=r"volume x.zip.003 has 11 bytes where others have 10"):
        find(folder)
    volumes(folder, "y.zip", 2, last=11)
    with pytest.raises(ArchiveError, match=r"y.zip.002 has 11 .*: that one was cut short, or they"):
        find(folder / "y.zip")


def test_wrappers_may_differ_by_the_length_of_their_names(folder: Path) -> None:
    names = volumes(folder, "x.zip", 1001, end=".zip", last=300)
    for number, name in enumerate(names, 1):
        (folder / name).write_bytes(bytes(300 + 2 * (number > 999)))
    assert find(folder)[0] == names


def test_a_folder_with_two_sets_asks_which(folder: Path) -> None:
    """(case 62)"""
    volumes(folder, "x.zip", 2)
    volumes(folder, "y.tar", 2, end=".zip")
    with pytest.raises(PlanError, match=r"several archives; name one: x.zip.001, y.tar.001.zip"):
        find(folder)


def test_a_rotated_log_beside_the_volumes_is_no_set(folder: Path) -> None:
    """(case 62)"""
    names = volumes(folder, "x.zip", 2)
    (folder / "app.log.001").write_text("stray")
    assert find(folder)[0] == names


def test_plain_and_wrapped_volumes_of_one_name_are_told_apart(folder: Path) -> None:
    plain = volumes(folder, "x.zip", 2)
    volumes(folder, "x.zip", 2, end=".zip")
    assert find(folder / "x.zip.002")[0] == plain
    with pytest.raises(PlanError, match=r"which one is meant, x.zip.001 or x.zip.001.zip\?"):
        find(folder / "x.zip")


def test_what_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="a folder without volumes"):
        find(folder)
    for name in ("x.zip", "x.zip.001", "no/where.zip", "n" * 300):
        with pytest.raises(NotFoundError, match="no such archive"):
            find(folder / name)
    with pytest.raises(NotFoundError):
        find_volumes(b"a\0b")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mknod(path, 0o140600)])
@pytest.mark.parametrize("name", ["x", "x.001"])
def test_what_is_no_file_is_refused_at_once(folder: Path, name: str, make: Any) -> None:
    """A FIFO would be waited for."""
    make(folder / name)
    with pytest.raises(PlanError, match="is no file"):
        find(folder / name)


def test_zips_with_a_number_in_their_names_are_archives_of_their_own(folder: Path) -> None:
    """Encrypted volumes are called so, too, but begin otherwise."""
    for name in ("photos.001.zip", "photos.002.zip", "letters.2024.zip"):
        archives.write(folder / name, [archives.file(b"a", name.encode())])
        assert find(folder / name) == ([name], str(folder / name))
    for path in (folder, folder / "photos", folder / "letters"):
        with pytest.raises(NotFoundError):
            find(path)


def test_beside_them_encrypted_volumes_are_found(folder: Path) -> None:
    archives.write(folder / "letters.2024.zip", [archives.file(b"a", b"x")])
    names = [f"x.tar.zst.{number:03d}.zip" for number in (1, 2)]
    for name in names:
        inner = os.fsencode(name.removesuffix(".zip"))
        (folder / name).write_bytes(b"".join(wrap(inner, 4, [b"data"], b"secret", mtime_ns=0)))
    for path in (*(folder / name for name in names), folder / "x.tar.zst", folder):
        assert find(path) == (names, str(folder / "x.tar.zst"))
