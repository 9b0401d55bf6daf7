"""Names of one file: a member and links to it, whatever becomes of the file that was first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from backing_up import FORMATS, TARS, Outcome, back_up, judge_outcome, noise, prose, run_tool
from moving import PART, Script, small_borders, to_fifo

from pybak.backup.pack_zip import HARD_LINKS
from pybak.errors import SourceError
from pybak.problems import IO_ERROR, TYPE_CHANGED, UNREADABLE, VANISHED

SIZES = [10, 30_000, 3 * PART]


@pytest.fixture(autouse=True)
def _small_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    small_borders(monkeypatch)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Give a file with four names in two folders, and another one between them."""
    folder = tmp_path / "src"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(prose(100))
    for name in ("b", "sub/c", "sub/d"):
        os.link(folder / "a", folder / name)
    (folder / "other").write_bytes(b"other")
    return folder


NAMES = {"src/a", "src/b", "src/sub/c", "src/sub/d"}


def fill(src: Path, size: int) -> bytes:
    (src / "a").write_bytes(prose(size))
    return prose(size)


def unpacked_by_tar(done: Outcome, folder: Path) -> Path:
    folder.mkdir()
    run_tool("tar", "-xpf", done.path, "-C", folder)
    return folder


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("size", SIZES)
def test_a_group_is_one_file_and_three_links(
    src: Path, tmp_path: Path, size: int, kind: str
) -> None:
    """(case 29)"""
    content = fill(src, size)
    done = back_up(src, to=tmp_path / "out", format=kind, chunk_size=2)
    judge_outcome(done)
    assert {name: done.contents[name] for name in NAMES} == dict.fromkeys(NAMES, content)
    kinds = {name: done.records[name].type for name in NAMES}
    assert sorted(kinds.values()) == ["f", "h", "h", "h"]
    (first,) = (name for name, one in kinds.items() if one == "f")
    assert {done.records[name].link for name in NAMES - {first}} == {first}
    files = done.report.files
    assert (files.total, files.new, done.report.lost) == (5, 5, {})
    assert done.report.bytes_read == size + 5
    for program in ("tar", "bsdtar"):
        target = tmp_path / program
        target.mkdir()
        run_tool(program, "-xpf", done.path, "-C", target)
        inodes = {(target / name).stat().st_ino for name in NAMES}
        assert len(inodes) == 1
        assert (target / "src/a").stat().st_nlink == 4
        assert (target / "src/sub/d").read_bytes() == content


@pytest.mark.parametrize("kind", ["zip", "aes"])
@pytest.mark.parametrize("size", SIZES)
def test_in_zip_every_name_holds_the_content_and_that_is_said(
    src: Path, tmp_path: Path, size: int, kind: str
) -> None:
    content = fill(src, size)
    done = back_up(src, to=tmp_path / "out", **FORMATS[kind])
    judge_outcome(done)
    assert {name: done.contents[name] for name in NAMES} == dict.fromkeys(NAMES, content)
    assert done.report.lost == {HARD_LINKS: 4}
    assert "hard links of 4 files, each stored as a copy" in done.report.to_text()


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_file_with_names_outside_of_the_sources_is_just_a_file(
    src: Path, tmp_path: Path, kind: str
) -> None:
    """(case 31)"""
    done = back_up(src / "sub", to=tmp_path / "out", format=kind)
    assert {name: one.type for name, one in done.records.items()} == {
        "sub": "d", "sub/c": "f", "sub/d": "h",
    }  # fmt: skip
    done = back_up(src / "sub/c", to=tmp_path / "out", format=kind)
    assert done.records["c"].type == "f"
    done = back_up(src / "sub", src / "a", to=tmp_path / "out", format=kind)
    assert sorted(one.type for one in done.records.values()) == ["d", "f", "h", "h"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", ["vanished", "unreadable", "failing", "swapped"])
def test_if_the_first_name_can_not_be_had_the_next_one_holds_the_content(
    src: Path, tmp_path: Path, size: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the others are links to that one (cases 29, 44, 49, 53, 55)."""
    content = fill(src, size)
    first = src / "a"
    done = back_up(src, to=tmp_path / "out", format="tar")
    (found,) = (name for name in NAMES if done.records[name].type == "f")
    first = tmp_path / found
    more: dict[str, object] = {}
    code = VANISHED
    if what == "vanished":
        more["before_reading"] = lambda _: first.unlink()
    elif what == "swapped":
        more["before_reading"] = lambda _: to_fifo(first)
        code = TYPE_CHANGED
    elif what == "failing":
        more["read"] = Script(first, "EEEE" + "r" * 99)
        code = IO_ERROR
    else:
        real, refused = os.open, os.fsencode(first)

        def refuse(path: object, *args: int, **how: int) -> int:
            if path == refused:
                raise PermissionError(13, "no")
            return real(path, *args, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
        code = UNREADABLE
    done = back_up(src, to=tmp_path / "out", format="tar", threads=1, **more)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "open", os.open)
    judge_outcome(done)
    assert {**done.errors, **done.skipped} == {str(first): code}
    rest = NAMES - {found}
    contents = done.contents
    assert {name: contents[name] for name in rest} == dict.fromkeys(rest, content)
    assert sorted(done.records[name].type for name in rest) == ["f", "h", "h"]
    (holder,) = (name for name in rest if done.records[name].type == "f")
    assert {done.records[name].link for name in rest - {holder}} == {holder}
    assert found not in done.records
    assert (tmp_path / "unpacked").exists() is False
    target = unpacked_by_tar(done, tmp_path / "unpacked")
    assert (target / holder).stat().st_nlink == 3


def test_if_all_names_of_a_group_vanish_all_are_skipped(src: Path, tmp_path: Path) -> None:
    """(case 44)"""

    def remove(_run: object) -> None:
        for name in ("a", "b", "sub/c", "sub/d"):
            (src / name).unlink()

    done = back_up(src, to=tmp_path / "out", format="tar", before_reading=remove)
    judge_outcome(done)
    assert set(done.skipped.values()) == {VANISHED}
    assert len(done.skipped) == 4
    assert sorted(done.contents) == ["src/", "src/other", "src/sub/"]


def test_if_the_first_holder_fails_too_the_next_one_holds_the_content(
    src: Path, tmp_path: Path
) -> None:
    order = list(back_up(src, to=tmp_path / "out", format="tar").records)
    group = [name for name in order if name in NAMES]

    def remove(_run: object) -> None:
        for name in group[:2]:
            (tmp_path / name).unlink()

    done = back_up(src, to=tmp_path / "out", format="tar", before_reading=remove)
    judge_outcome(done)
    assert set(done.skipped) == {str(tmp_path / name) for name in group[:2]}
    assert [done.records[name].type for name in group[2:]] == ["f", "h"]
    assert done.contents[group[3]] == prose(100)


@pytest.mark.parametrize("kind", ["tar", "tar.bz2"])
def test_symbolic_links_can_have_several_names_too(tmp_path: Path, kind: str) -> None:
    """(case 31)"""
    src = tmp_path / "src"
    src.mkdir()
    (src / "a").symlink_to("target")
    os.link(src / "a", src / "b", follow_symlinks=False)
    os.mkfifo(src / "p")
    os.link(src / "p", src / "q")
    done = back_up(src, to=tmp_path / "out", format=kind)
    judge_outcome(done)
    assert sorted(one.type for one in done.records.values()) == ["d", "h", "h", "l", "p"]
    target = unpacked_by_tar(done, tmp_path / "u")
    assert os.readlink(target / "src/b") == "target"
    assert (target / "src/a").lstat().st_nlink == 2
    assert (target / "src/p").lstat().st_nlink == 2


def test_names_of_any_bytes_and_lengths_are_linked(tmp_path: Path) -> None:
    """(cases 3, 8, 29)"""
    top = os.fsencode(tmp_path) + b"/src"
    deep = top + b"/" + b"d" * 120 + b"/" + b"e" * 120
    os.makedirs(deep)
    with open(top + b"/caf\xe9", "wb") as file:
        file.write(b"latin")
    with open(deep + b"/" + b"n" * 200, "wb") as file:
        file.write(b"long")
    os.link(top + b"/caf\xe9", deep + b"/\xff\xfe")
    os.link(deep + b"/" + b"n" * 200, top + b"/z")
    done = back_up(top, to=tmp_path / "out", format="tar")
    judge_outcome(done)
    target = unpacked_by_tar(done, tmp_path / "u")
    first = os.fsencode(target) + b"/src"
    assert os.stat(first + b"/caf\xe9").st_nlink == 2
    assert os.stat(first + b"/z").st_nlink == 2
    assert os.path.samefile(first + b"/z", first + deep[len(top) :] + b"/" + b"n" * 200)


def test_many_groups_in_many_batches_stay_apart(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for folder in ("x", "y", "z"):
        (src / folder).mkdir(parents=True)
    for number in range(60):
        (src / f"x/{number}").write_bytes(noise(50, number))
        for folder in ("y", "z"):
            os.link(src / f"x/{number}", src / f"{folder}/{(number * 7) % 60}")
    done = back_up(src, to=tmp_path / "out", format="tar.gz", chunk_size=7)
    judge_outcome(done)
    target = unpacked_by_tar(done, tmp_path / "u")
    for number in range(60):
        found = target / f"src/x/{number}"
        assert found.read_bytes() == noise(50, number)
        assert found.stat().st_nlink == 3
        assert found.samefile(target / f"src/z/{(number * 7) % 60}")


def by_rename(path: Path) -> None:
    path.with_name("new").write_bytes(b"another file")
    path.with_name("new").rename(path)


def by_unlink(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"another file")


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("replace", [by_rename, by_unlink])
@pytest.mark.parametrize("which", [0, 1, 3])
def test_a_name_that_is_another_file_by_now_is_packed_as_that_one(
    src: Path, tmp_path: Path, size: int, kind: str, which: int, replace: Callable[[Path], object]
) -> None:
    """And the names that are left keep the content that they have (cases 29, 47)."""
    content = fill(src, size)
    order = [name for name in back_up(src, to=tmp_path, format=kind).records if name in NAMES]
    victim = order.pop(which)
    done = back_up(
        src, to=tmp_path, format=kind, chunk_size=1,
        before_reading=lambda _: replace(tmp_path / victim),
    )  # fmt: skip
    judge_outcome(done)
    contents = done.contents
    assert contents[victim] == b"another file"
    assert {name: contents[name] for name in order} == dict.fromkeys(order, content)
    assert [done.records[name].type for name in (victim, *order)] == ["f", "f", "h", "h"]
    assert {done.records[name].link for name in order[1:]} == {order[0]}
    assert (done.errors, done.skipped, done.report.files.new) == ({}, {}, 5)


def test_a_sparse_large_file_that_is_another_one_by_now_is_no_link_s_file(
    src: Path, tmp_path: Path
) -> None:
    with (src / "a").open("r+b") as file:
        file.truncate(20 * PART)
        file.seek(10 * PART)
        file.write(noise(3 * PART))
    content = (src / "a").read_bytes()
    order = [name for name in back_up(src, to=tmp_path, format="tar").records if name in NAMES]
    done = back_up(
        src, to=tmp_path, format="tar", before_reading=lambda _: by_rename(tmp_path / order[0])
    )
    assert done.contents[order[0]].strip(b"\0") == b"another file"
    assert {done.contents[name] for name in order[1:]} == {content}


@pytest.mark.parametrize("which", [0, 1])
def test_a_symbolic_link_of_several_names_that_is_another_one_by_now_is_packed_as_that(
    tmp_path: Path, which: int
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "a").symlink_to("target")
    for name in ("b", "c"):
        os.link(src / "a", src / name, follow_symlinks=False)
    order = [n for n in back_up(src, to=tmp_path, format="tar").records if n != "src"]
    victim = order.pop(which)

    def move(_run: object) -> None:
        (tmp_path / victim).unlink()
        (tmp_path / victim).symlink_to("other")

    done = back_up(src, to=tmp_path, format="tar", before_reading=move)
    target = unpacked_by_tar(done, tmp_path / "u")
    assert os.readlink(target / victim) == "other"
    assert [os.readlink(target / name) for name in order] == ["target"] * 2


def test_a_link_s_name_that_vanished_or_is_no_file_any_more_is_not_in_the_archive(
    src: Path, tmp_path: Path
) -> None:
    """(cases 44, 49)"""
    order = [name for name in back_up(src, to=tmp_path, format="tar").records if name in NAMES]

    def move(_run: object) -> None:
        (tmp_path / order[1]).unlink()
        to_fifo(tmp_path / order[2])

    done = back_up(src, to=tmp_path, format="tar", before_reading=move)
    assert done.skipped == {str(tmp_path / order[1]): VANISHED}
    assert done.errors == {str(tmp_path / order[2]): TYPE_CHANGED}
    assert [done.records[name].type for name in (order[0], order[3])] == ["f", "h"]


def test_a_group_whose_first_name_is_gone_is_one_file_over_all_batches(
    src: Path, tmp_path: Path
) -> None:
    order = [name for name in back_up(src, to=tmp_path, format="tar").records if name in NAMES]
    done = back_up(
        src, to=tmp_path, format="tar", chunk_size=1,
        before_reading=lambda _: (tmp_path / order[0]).unlink(),
    )  # fmt: skip
    assert [done.records[name].type for name in order[1:]] == ["f", "h", "h"]


def test_a_file_without_its_attributes_is_one_that_links_refer_to(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_target: bytes | int) -> dict[bytes, bytes]:
        raise SourceError("input/output error", IO_ERROR)

    monkeypatch.setattr("pybak.backup.tar_entries.read_attributes", fail)
    done = back_up(src, to=tmp_path, format="tar")
    assert sorted(done.records[name].type for name in NAMES) == ["f", "h", "h", "h"]
