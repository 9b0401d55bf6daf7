"""Our ZIP files in the hands of other programs, and sizes that need ZIP64."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from attributed import folder_with_attributes, set_acl
from backing_up import (
    MANIFEST,
    back_up,
    cut_files_at,
    judge,
    noise,
    prose,
    run_tool,
    snapshot,
    unpack,
)

from pybak.backup import assemble_zip
from pybak.backup.assemble import Assembler

pytestmark = pytest.mark.needs_tool("unzip", "7zz", "bsdtar")
GIB = 1 << 30


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Give a tree of names that all programs take, with every kind of content."""
    folder = tmp_path / "src"
    (folder / "deep/er/empty").mkdir(parents=True)
    for name, data in {
        "empty": b"",
        "one": b"1",
        "text": prose(100_000),
        "noise": noise(100_000),
        "large text": prose(300_000),
        "deep/er/noise": noise(300_000, 1),
        "(brackets) [and] blanks": b"x",
        "n" * 255: b"long",
        "\N{LATIN SMALL LETTER U WITH DIAERESIS} \N{SNOWMAN} \N{CJK UNIFIED IDEOGRAPH-4E2D}": b"u",
    }.items():
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("one")
    (folder / "deep/dangling").symlink_to("../no/such")
    for number, (name, mode) in enumerate(
        {"one": 0o4755, "text": 0o640, "noise": 0o444, "deep/er": 0o1777, "deep": 0o500}.items()
    ):
        os.chmod(folder / name, mode)
        os.utime(folder / name, (0, 1_500_000_000 + number))
    return folder


@pytest.fixture(autouse=True)
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("full"):
        cut_files_at(monkeypatch, 120_000)


@pytest.mark.parametrize("program", ["unzip", "7zz", "bsdtar"])
@pytest.mark.parametrize("level", [1, 2, 6, 9])
def test_a_tree_comes_back_by_any_program(
    src: Path, tmp_path: Path, program: str, level: int
) -> None:
    """Contents, modes, times, links and empty folders (cases 14-18, 26, 68, 69).

    Folders above large files are no exception: their entries come before those.
    """
    done = back_up(src, to=tmp_path / "out", level=level)
    assert done.plan.parts > 4
    judge(done.path)
    want = snapshot_of(src)
    found = snapshot(unpack(done.path, tmp_path / "u", program))
    if program == "7zz":  # it has its own mind about setuid bits and folders' modes
        want, found = without_special_modes(want), without_special_modes(found)
    assert found == want


def without_special_modes(tree: dict[bytes, Any]) -> dict[bytes, Any]:
    return {
        path: (kind, mode & 0o777 if kind == "file" else None, seconds, content)
        for path, (kind, mode, seconds, content) in tree.items()
    }


def snapshot_of(src: Path) -> dict[bytes, Any]:
    """Describe `src` as it should lie in a folder that it was unpacked to."""
    return {path: what for path, what in snapshot(src.parent).items() if path.startswith(b"src")}


@pytest.mark.parametrize("program", ["7zz", "bsdtar"])
def test_names_of_any_bytes_come_back(tmp_path: Path, program: str) -> None:
    """unzip drops line ends from names, so it is no judge here (cases 1-5)."""
    names = [b"line\nend", b"tab\there", b"trail. ", b"glob*?[a]", b"latin \xe9", b"\xff\xfe",
             b"back\\slash/dir\\x", b"bell\x07", b"~", b"#", b"$HOME", b"quote'\""]  # fmt: skip
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), b"src", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    done = back_up(tmp_path / "src", to=tmp_path / "out")
    judge(done.path)
    if program == "7zz":  # it shows bytes that are no UTF-8 as private-use characters
        assert len(run_tool("7zz", "l", "-ba", done.path).splitlines()) >= len(names)
        return
    assert snapshot(unpack(done.path, tmp_path / "u", program)) == snapshot_of(tmp_path / "src")


@pytest.mark.needs_root
def test_owners_come_back_by_number(tmp_path: Path) -> None:
    """(case 21)"""
    (tmp_path / "f").write_bytes(b"f")
    os.chown(tmp_path / "f", 12_345, 4_000_000_000)
    done = back_up(tmp_path / "f", to=tmp_path / "out")
    restored = (unpack(done.path, tmp_path / "u") / "f").stat()
    assert (restored.st_uid, restored.st_gid) == (12_345, 4_000_000_000)


SECONDS = [-(10**9), -1, 0, 1, (1 << 31) - 1, 1 << 31, 1 << 32, 15 * 10**9]


@pytest.mark.parametrize("seconds", SECONDS)
def test_times_outside_of_dos_and_unix_are_no_reason_to_stop(tmp_path: Path, seconds: int) -> None:
    """7-Zip brings all of them back (case 20)."""
    path = tmp_path / "f"
    path.write_bytes(b"f")
    os.utime(path, (0, seconds))
    if path.stat().st_mtime != seconds:
        pytest.skip("this file system can't hold that time")
    done = back_up(path, to=tmp_path / "out")
    judge(done.path)
    assert (unpack(done.path, tmp_path / "u", "7zz") / "f").stat().st_mtime == seconds
    assert done.records["f"].mtime_ns == seconds * 10**9
    year = 1980 if seconds < 10**9 else min(2107, 1970 + seconds // 31_556_952)
    with zipfile.ZipFile(done.path) as archive:
        assert archive.getinfo("f").date_time[0] == year
    clamped = seconds < 10**9 or seconds > 4.4e9
    assert done.report.lost == ({"dates": 1} if clamped else {})
    text = " ".join(done.report.to_text().split())
    assert ("dates of 1 file, outside 1980 to 2107" in text) == clamped
    assert done.report.exit_code == 0


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("more", [{}, {"password": b"secret"}])
def test_what_zip_can_not_keep_is_counted_and_said(
    tmp_path: Path, size: int, more: dict[str, Any]
) -> None:
    """Once a file, whether small or in parts, also when it is read twice (cases 20, 23, 29, 35)."""
    with folder_with_attributes(tmp_path) as folder:
        src = folder / "src"
        src.mkdir()
        (src / "plain").write_bytes(b"x")
        for name in ("linked", "noted", "shared", "old"):
            (src / name).write_bytes(prose(size))
        os.link(src / "linked", src / "other name")
        os.setxattr(src / "noted", "user.note", b"text")
        set_acl(src / "shared", "u:12345:r")
        os.utime(src / "old", (0, -1))
        with (src / "sparse").open("wb") as file:
            file.truncate(size + (1 << 20))
            file.seek(1 << 19)
            file.write(b"data")

        def touch(_run: object) -> None:
            for name in ("linked", "noted", "old"):
                os.utime(src / name, (5, os.stat(src / name).st_mtime))

        done = back_up(src, to=tmp_path / "out", before_reading=touch, **more)
        assert done.errors == {}
        assert done.report.lost == {"hard_links": 2, "attributes": 2, "dates": 1, "holes": 1}
        text = " ".join(done.report.to_text().split())
        for said in (
            "hard links of 2 files, each stored as a copy; tar formats keep them",
            "extended attributes or ACLs of 2 files; tar formats keep them",
            "dates of 1 file, outside 1980 to 2107",
            "holes of 1 file, stored as zeros; tar formats keep them",
        ):
            assert said in text
        assert done.report.to_json()["lost"] == done.report.lost
        tar = back_up(src, to=tmp_path / "out", format="tar")
        assert tar.report.lost == {}
        assert "Not kept" not in tar.report.to_text()


@pytest.mark.parametrize("depth", [20, 300])
def test_paths_longer_than_the_system_takes_are_named_and_the_rest_is_saved(
    tmp_path: Path, depth: int
) -> None:
    """At 300 folders of 250 bytes the name is too long for ZIP too (case 8)."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "zlast").write_bytes(b"saved")
    at = os.open(src, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(b"d" * 250, dir_fd=at)
        below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)
    try:
        done = back_up(src, to=tmp_path / "out")
    finally:
        subprocess.run(["rm", "-rf", src / ("d" * 250)], check=True)
    judge(done.path, [])
    assert done.contents["src/zlast"] == b"saved"
    assert any(path.endswith("/bottom") for path in done.errors)
    assert set(done.errors.values()) == {"unreadable"}
    assert done.report.exit_code == 3


def test_many_members_in_one_folder(tmp_path: Path) -> None:
    """(case 37)"""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(11_000):
        (src / str(number)).touch()
    done = back_up(src, to=tmp_path / "out")
    judge(done.path)
    assert done.report.files.new == 11_000


@pytest.mark.parametrize("name", ["small", "large"])
def test_members_behind_4_gib_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The archive gets a hole of 4 GiB behind its first member (case 36)."""
    sizes = {"first": 200_000, "small": 1000, "large": 500_000}
    src = tmp_path / "src"
    src.mkdir()
    for file, size in sizes.items():
        (src / file).write_bytes(prose(size))
    real = Assembler._take_large

    def take(self: Assembler, batch: Any, first: int, stopped: Any) -> None:
        real(self, batch, first, stopped)
        if self._output.size < GIB:
            self._output.size += 4 * GIB
            self._output._file.truncate(self._output.size)  # type: ignore[union-attr]

    monkeypatch.setattr(Assembler, "_take_large", take)
    done = back_up(src, to=tmp_path / "out")
    assert done.path.stat().st_size > 4 * GIB
    assert done.path.stat().st_blocks * 512 < GIB
    judge(done.path)
    with zipfile.ZipFile(done.path) as archive:
        assert archive.read(f"src/{name}") == prose(sizes[name])
        assert archive.getinfo(f"src/{name}").header_offset > 4 * GIB
        assert archive.infolist()[-1].filename == MANIFEST


def test_a_large_member_whose_header_has_room_for_4_gib_opens(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may need ZIP64 gets its field before its size is known."""
    monkeypatch.setattr(assemble_zip, "_MAY_NEED_ZIP64", 0)
    done = back_up(src, to=tmp_path / "out")
    judge(done.path)
    assert snapshot(unpack(done.path, tmp_path / "u")) == snapshot_of(src)


def sparse(path: Path, size: int) -> None:
    """Make a file of `size` zeros with a few bytes at its end that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(-4, os.SEEK_END)
        file.write(b"last")


@pytest.mark.full
@pytest.mark.parametrize("level", [1, 6])
def test_a_member_of_more_than_4_gib(tmp_path: Path, level: int) -> None:
    """And a small one behind it (case 36)."""
    src = tmp_path / "src"
    src.mkdir()
    sparse(src / "big", 4 * GIB + 500_000_000)
    (src / "z").write_bytes(b"behind")
    done = back_up(src, to=tmp_path / "out", level=level)
    judge(done.path)
    assert done.report.bytes_stored < 100_000_000
    with zipfile.ZipFile(done.path) as archive:
        assert archive.getinfo("src/big").file_size == 4 * GIB + 500_000_000
        assert archive.read("src/z") == b"behind"


@pytest.mark.full
def test_an_archive_of_more_than_4_gib(tmp_path: Path) -> None:
    """Also the member itself has more than 4 GiB there, not only in the source (case 36)."""
    src = tmp_path / "src"
    src.mkdir()
    block = noise(1 << 20) * 4  # repeats too far apart for deflate to see
    with (src / "huge").open("wb") as file:
        for _ in range(1025):
            file.write(block)
    (src / "z").write_bytes(b"behind")
    done = back_up(src, to=tmp_path / "out")
    assert done.report.bytes_stored > 4 * GIB
    judge(done.path)
    with zipfile.ZipFile(done.path) as archive:
        assert archive.getinfo("src/huge").compress_size > 4 * GIB
        assert archive.getinfo("src/z").header_offset > 4 * GIB
        assert archive.read("src/z") == b"behind"


@pytest.mark.full
def test_more_than_65535_members(tmp_path: Path) -> None:
    """(case 37)"""
    src = tmp_path / "src"
    for folder in range(70):
        (src / str(folder)).mkdir(parents=True)
        for number in range(1000):
            (src / str(folder) / str(number)).touch()
    done = back_up(src, to=tmp_path / "out")
    judge(done.path)
    with zipfile.ZipFile(done.path) as archive:
        assert len(archive.namelist()) == 70_000 + 71 + 1
    restored = unpack(done.path, tmp_path / "u", "unzip")
    assert sum(stat.S_ISREG(p.lstat().st_mode) for p in restored.rglob("*")) == 70_000
