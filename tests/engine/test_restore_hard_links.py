"""Hard links: made where they may be, unpacked once more where not, never to a stranger's file."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import tars
from restoring import carry_out, foretell, plan, restore

from pybak.problems import DAMAGED, EXISTS, UNSUPPORTED
from pybak.restore.extract import extract_batch
from pybak.restore.finish import finish, make_folders
from pybak.restore.hard_links import FirstNames

DATA = b"linked" * 1000
GROUP = [
    tars.file(b"a/one", DATA),
    tars.hard_link(b"a/two", b"a/one"),
    tars.file(b"other", b"x"),
    tars.hard_link(b"b/three", b"a/one"),
    tars.hard_link(b"b/four", b"a/one"),
]


def names_of(path: Path) -> int:
    return path.stat().st_nlink


@pytest.mark.parametrize("archive_format", tars.FORMATS)
def test_a_group_comes_back_as_one_file(tmp_path: Path, target: Path, archive_format: str) -> None:
    """Four names in two folders (case 29)."""
    archive = tars.write(tmp_path / "x", tars.build(GROUP, archive_format))
    assert foretell(archive, target) == (5, 0, 0)
    result = restore(archive, target)
    assert (result.counts, result.problems) == ((5, 0, 0), [])
    assert names_of(target / "b/four") == 4
    assert (target / "b/three").read_bytes() == DATA
    assert (target / "a/one").stat().st_mtime_ns == tars.NOON


def test_a_part_of_a_group_is_linked_among_itself(tmp_path: Path, target: Path) -> None:
    """Also when its first name is not chosen (case 29)."""
    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar.gz"))
    result = restore(archive, target, include=["/b/"])
    assert (result.counts, result.problems) == ((2, 0, 0), [])
    assert not (target / "a").exists()
    assert names_of(target / "b/three") == 2
    assert (target / "b/four").read_bytes() == DATA


def test_restoring_again_changes_nothing_and_completes_what_is_missing(
    tmp_path: Path, target: Path
) -> None:
    """(case 87)"""
    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar"))
    restore(archive, target)
    inode = (target / "a/one").stat().st_ino
    assert restore(archive, target).counts == (0, 5, 0)
    (target / "b/four").unlink()
    assert restore(archive, target).counts == (1, 4, 0)
    assert (target / "b/four").stat().st_ino == inode
    assert names_of(target / "a/one") == 4


def test_all_of_a_group_is_replaced_together(tmp_path: Path, target: Path) -> None:
    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar"))
    restore(archive, target)
    assert restore(archive, target, overwrite="always").counts == (5, 0, 0)
    assert names_of(target / "a/one") == 4


@pytest.mark.parametrize("overwrite", ["never", "if-newer", "if-changed"])
def test_a_file_that_was_left_and_differs_gets_no_other_names(
    tmp_path: Path, target: Path, overwrite: str
) -> None:
    """Of same size and time, it may still be somebody's own (case 81)."""
    (target / "a").mkdir(parents=True)
    (target / "a/one").write_bytes(b"L" * len(DATA))
    os.utime(target / "a/one", ns=(tars.NOON, tars.NOON))
    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar"))
    assert foretell(archive, target, overwrite=overwrite) == (4, 1, 0)
    result = restore(archive, target, overwrite=overwrite)
    assert result.counts == (4, 1, 0)
    assert result.codes == {"a/one": EXISTS}
    assert (target / "a/one").read_bytes() == b"L" * len(DATA)
    assert names_of(target / "a/one") == 1
    assert (target / "b/four").read_bytes() == DATA
    assert names_of(target / "b/four") == 3


def hostile(path: Path, *members: tuple[str, str, bytes]) -> bytes:
    """Write a tar of (name, type, link target or data)."""
    with tarfile.open(path, "w") as archive:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type = {"f": tarfile.REGTYPE, "h": tarfile.LNKTYPE, "l": tarfile.SYMTYPE}[kind]
            if kind == "f":
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
            else:
                info.linkname = os.fsdecode(what)
                archive.addfile(info)
    return os.fsencode(path)


@pytest.mark.parametrize("place", ["/victim", "../victim", "a/../../victim", "victim"])
def test_a_link_to_what_the_archive_lacks_is_refused(
    tmp_path: Path, target: Path, place: str
) -> None:
    """Neither outside nor inside of the target, whatever is there (case 81)."""
    victim = tmp_path / "victim"
    target.mkdir()
    for path in (victim, target / "victim"):
        path.write_bytes(b"mine")
    archive = hostile(tmp_path / "x.tar", ("evil", "h", place.encode()), ("good", "f", b"x"))
    assert foretell(archive, target) == (1, 0, 1)
    result = restore(archive, target, overwrite="always")
    assert (result.counts, result.codes) == ((1, 0, 1), {"evil": DAMAGED})
    assert not (target / "evil").exists()
    assert names_of(victim) == names_of(target / "victim") == 1


def test_a_link_to_a_symbolic_link_becomes_another_one(tmp_path: Path, target: Path) -> None:
    """Writing to it must not reach the victim (cases 31, 81)."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    archive = hostile(
        tmp_path / "x.tar", ("way", "l", os.fsencode(victim)), ("evil", "h", b"way"),
        ("evil2", "h", b"way/x"),
    )  # fmt: skip
    result = restore(archive, target)
    assert result.codes == {"evil2": DAMAGED}
    assert os.readlink(target / "evil") == str(victim)
    assert (names_of(victim), victim.read_bytes()) == (1, b"mine")


def test_a_file_swapped_for_another_is_not_linked_to(tmp_path: Path, target: Path) -> None:
    """Between the batch that wrote it and the step that links (case 81)."""
    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar"))
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    work = tmp_path / "work"
    work.mkdir()
    made = plan(archive, target, work)
    make_folders(made)
    for batch in made.batches:
        extract_batch(batch)
    (target / "a/one").unlink()
    (target / "a/one").hardlink_to(victim)
    outcome = finish(made)
    assert (outcome.restored, outcome.failed) == (3, 0)
    assert names_of(victim) == 2
    assert (target / "b/four").read_bytes() == DATA
    assert victim.read_bytes() == b"mine"


def test_where_the_disk_knows_no_links_each_name_is_a_file(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_args: object, **_more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    archive = tars.write(tmp_path / "x", tars.build(GROUP, "tar"))
    work = tmp_path / "work"
    work.mkdir()
    made = plan(archive, target, work)
    monkeypatch.setattr(os, "link", no_link)
    result = carry_out(made)
    assert result.counts == (5, 0, 0)
    assert names_of(target / "b/four") == 1
    assert (target / "b/four").read_bytes() == DATA


@pytest.mark.parametrize(
    "members",
    [
        [("one", "h", b"one")],
        [("one", "h", b"two"), ("two", "h", b"one")],
        [("one", "h", b"")],
    ],
)
def test_links_in_a_circle_are_refused(tmp_path: Path, target: Path, members: list) -> None:
    result = restore(hostile(tmp_path / "x.tar", *members), target)
    assert result.restored == 0
    assert result.failed == len(members)


def test_a_link_to_a_link_stands_for_the_file(tmp_path: Path, target: Path) -> None:
    archive = hostile(
        tmp_path / "x.tar", ("one", "f", b"x"), ("two", "h", b"one"), ("three", "h", b"./two")
    )
    assert restore(archive, target).counts == (3, 0, 0)
    assert names_of(target / "three") == 3


def test_of_two_members_of_one_name_the_last_wins(tmp_path: Path, target: Path) -> None:
    archive = hostile(
        tmp_path / "x.tar", ("f", "f", b"first"), ("g", "f", b"other"), ("f", "h", b"g")
    )
    result = restore(archive, target)
    assert result.codes == {"f": UNSUPPORTED}
    assert (target / "f").read_bytes() == b"other"


def files_of(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.needs_tool("tar")
@pytest.mark.parametrize(
    "members",
    [
        [("f", "f", b"A"), ("g", "h", b"f"), ("f", "f", b"B")],
        [("f", "f", b"A"), ("g", "h", b"f"), ("f", "f", b"B"), ("h", "h", b"f"), ("i", "h", b"g")],
        [("f", "f", b"A"), ("f", "f", b"B"), ("g", "h", b"f"), ("f", "f", b"C")],
        [("f", "f", b"A"), ("g", "f", b"B"), ("f", "h", b"g"), ("g", "f", b"C")],
    ],
)
def test_a_link_stands_for_what_the_name_meant_there(
    tmp_path: Path, target: Path, members: list
) -> None:
    """As in archives that were added to; GNU tar is the judge (case 29)."""
    archive = hostile(tmp_path / "x.tar", *members)
    judged = tmp_path / "judged"
    judged.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", judged], check=True)
    result = restore(archive, target)
    assert result.failed == 0
    assert files_of(target) == files_of(judged)


def test_a_link_before_its_file_stands_for_that(tmp_path: Path, target: Path) -> None:
    archive = hostile(tmp_path / "x.tar", ("g", "h", b"f"), ("f", "f", b"A"))
    assert restore(archive, target).counts == (2, 0, 0)
    assert names_of(target / "g") == 2


def test_a_name_that_links_to_its_former_self_keeps_its_content(
    tmp_path: Path, target: Path
) -> None:
    archive = hostile(tmp_path / "x.tar", ("f", "f", b"A"), ("f", "h", b"f"), ("g", "h", b"f"))
    assert restore(archive, target).failed == 0
    assert files_of(target) == {"f": b"A", "g": b"A"}


@pytest.mark.parametrize("ends_well", [True, False])
def test_each_link_of_a_long_chain_is_followed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    """A chain that goes back through thousands of links, or leads nowhere (case 76)."""
    steps = 0
    real = FirstNames._next

    def counted(self: FirstNames, number: int) -> object:
        nonlocal steps
        steps += 1
        return real(self, number)

    monkeypatch.setattr(FirstNames, "_next", counted)
    first = ("f0", "f" if ends_well else "h", b"f999" if not ends_well else b"x")
    chain = [(f"f{number}", "h", b"f%d" % (number - 1)) for number in range(1, 1000)]
    archive = hostile(tmp_path / "x.tar", first, *reversed(chain))
    done = foretell(archive, tmp_path / "t")
    assert done == ((1000, 0, 0) if ends_well else (0, 0, 1000))
    assert steps <= 1000
