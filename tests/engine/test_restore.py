"""Restoring a ZIP archive: what comes back, and what is said of what does not."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives as forge
import pytest
from restoring import BIG, KINDS, SECOND, expected, restore, shares, tree

from pybak.problems import (
    DAMAGED,
    STORAGE,
    UNREADABLE,
    UNSUPPORTED,
)
from pybak.restore.plan import prepare
from pybak.verify.check import plan_verify


@pytest.mark.parametrize("order", [list, lambda members: list(reversed(members))])
def test_everything_comes_back_as_it_was(zip_path: Path, target: Path, order: Callable) -> None:
    """Whatever the order in the archive (cases 4, 14, 15, 17, 18, 19, 20, 26, 28)."""
    archive = forge.write(zip_path, order(KINDS), with_manifest=True)
    result = restore(archive, target)
    assert tree(target) == expected(KINDS)
    assert (result.problems, result.failed) == ([], 0)
    assert result.restored == sum(not member.name.endswith(b"/") for member in KINDS)


def test_the_same_tree_as_unzip_makes(zip_path: Path, target: Path, tmp_path: Path) -> None:
    members = [member for member in KINDS if 0 <= member.mtime_ns < 2**31 * SECOND]
    archive = forge.write(zip_path, members, with_manifest=True)
    restore(archive, target)
    judge = tmp_path / "judge"
    subprocess.run(["unzip", "-q", zip_path, "-x", ".pybak/*", "-d", judge], check=True)
    ours, theirs = tree(target), tree(judge)
    assert ours.keys() == theirs.keys()
    for name, (mode, mtime_ns, content) in theirs.items():
        assert (ours[name][0] & ~stat.S_ISVTX, ours[name][2]) == (mode, content)
        if not stat.S_ISLNK(mode):
            assert ours[name][1] // SECOND == mtime_ns // SECOND


def test_without_a_manifest_times_and_modes_come_from_the_zip(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"d/a", b"x", 0o640), forge.file(b"d/c", b"x", extra=b"")]
    restore(forge.write(zip_path, members), target)
    assert (target / "d/a").stat().st_mtime_ns == forge.NOON // SECOND * SECOND
    assert abs((target / "d/c").stat().st_mtime_ns - forge.NOON) < 2 * SECOND
    assert stat.S_IMODE((target / "d/a").stat().st_mode) == 0o640


def test_members_without_a_mode_get_the_usual_one(zip_path: Path, target: Path) -> None:
    members = [forge.Forged(b"a", b"x", mode=0), forge.Forged(b"d/", mode=0)]
    archive = forge.write(zip_path, members)
    before = os.umask(0o027)
    try:
        restore(archive, target)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o750


NAMES = [
    b"a b (c) [d] *?{}.txt", b"dots...", b"blank ", b" blank", b"new\nline", b"tab\t\x1b[31m",
    b"\xff\xfe raw", "日本語 Ünï עברית".encode(), "e\u0301".encode(), "\u00e9".encode(),
    b"n" * 255, b"-rf", b"back\\slash", b"c:x", b"~", b"%s",
]  # fmt: skip


def test_odd_names_survive(zip_path: Path, target: Path) -> None:
    """Byte for byte (cases 1, 2, 3, 5, 8)."""
    members = [forge.file(name, name) for name in NAMES]
    result = restore(forge.write(zip_path, members, with_manifest=True), target)
    assert tree(target) == expected(members)
    assert result.problems == []


def test_a_path_longer_than_path_max_is_restored(zip_path: Path, target: Path) -> None:
    """Folder by folder, so its length does not matter (case 8)."""
    depth = 40
    name = b"/".join([b"d" * 200] * depth) + b"/file"
    result = restore(forge.write(zip_path, [forge.file(name, b"deep")]), target)
    assert (result.restored, result.problems) == (1, [])
    fd = os.open(target, os.O_RDONLY)
    for _ in range(depth):
        below = os.open(b"d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    subprocess.run(["rm", "-rf", target], check=True)


def test_a_name_too_long_for_the_disk_is_one_problem(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"n" * 256, b"x"), forge.file(b"ok", b"x")]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"n" * 256: STORAGE}
    assert (target / "ok").read_bytes() == b"x"


def test_damaged_members_are_named_and_leave_no_file(zip_path: Path, target: Path) -> None:
    """By CRC or by SHA-256, small or large; what was there stays (case 91)."""
    target.mkdir()
    (target / "crc").write_bytes(b"mine")
    members = [
        forge.file(b"crc", b"x" * 100, crc=1),
        forge.file(b"crc-big", BIG, crc=1, deflate=True),
        forge.file(b"sha", b"y" * 100, sha256="0" * 64),
        forge.file(b"sha-big", BIG, sha256="0" * 64),
        forge.file(b"cut", b"z" * 100, stored=forge.raw_deflate(b"z" * 100)[:-2], method=8),
        forge.link(b"link", b"somewhere", crc=1),
        forge.file(b"good", b"good"),
    ]
    result = restore(forge.write(zip_path, members, with_manifest=True), target)
    bad = {"crc", "crc-big", "sha", "sha-big", "cut", "link"}
    assert result.codes == dict.fromkeys(bad, DAMAGED)
    assert (result.restored, result.failed) == (1, 6)
    assert all("a.zip" in problem.message for problem in result.problems)
    files = {name: entry[2] for name, entry in tree(target).items()}
    assert files == {b"crc": b"mine", b"good": b"good"}


def test_members_that_the_manifest_lists_and_the_archive_lacks_are_named(
    zip_path: Path, target: Path
) -> None:
    lost = forge.file(b"lost", b"x")
    kept = forge.file(b"kept", b"x")
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", forge.manifest_bytes([lost, kept]))
    result = restore(forge.write(zip_path, [kept, manifest]), target)
    assert result.codes == {"lost": DAMAGED}
    assert (result.restored, result.failed) == (1, 1)
    assert tree(target).keys() == {b"kept"}


def test_with_a_damaged_manifest_the_files_still_come_back(zip_path: Path, target: Path) -> None:
    manifest = forge.Forged(b".pybak/manifest.jsonl.gz", b"rubbish")
    result = restore(forge.write(zip_path, [forge.file(b"f", b"x"), manifest]), target)
    assert result.codes == {".pybak/manifest.jsonl.gz": DAMAGED}
    assert "by CRC-32 only" in result.problems[0].message
    assert tree(target).keys() == {b"f"}


def test_of_two_members_of_one_name_the_last_wins(zip_path: Path, target: Path) -> None:
    members = [forge.file(b"f", b"first"), forge.file(b"./f", b"last")]
    result = restore(forge.write(zip_path, members), target)
    assert (target / "f").read_bytes() == b"last"
    assert result.codes == {"f": UNSUPPORTED}
    assert (result.restored, result.skipped, result.failed) == (1, 1, 0)


def test_overlapping_members_are_not_restored(zip_path: Path, target: Path) -> None:
    members = [
        forge.file(b"one", b"x" * 100),
        forge.file(b"two", b"x" * 100, offset=0, with_local=False),
        forge.file(b"good", b"good"),
    ]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"one": DAMAGED, "two": DAMAGED}
    assert tree(target).keys() == {b"good"}


def test_kinds_that_are_neither_file_folder_nor_link_are_skipped(
    zip_path: Path, target: Path
) -> None:
    members = [
        forge.Forged(b"socket", b"", stat.S_IFSOCK | 0o644),
        forge.Forged(b"device", b"", stat.S_IFBLK | 0o644),
    ]
    result = restore(forge.write(zip_path, members), target)
    assert result.codes == {"socket": UNSUPPORTED, "device": UNSUPPORTED}
    assert (result.skipped, result.failed) == (2, 0)
    assert tree(target) == {}


def test_encryption_that_is_not_read_is_named(zip_path: Path, target: Path) -> None:
    secret = forge.file(b"secret", b"x" * 20, flags=1)
    result = restore(forge.write(zip_path, [secret, forge.file(b"open", b"x")]), target)
    assert result.codes == {"secret": UNREADABLE}


def test_the_plan_reads_well(zip_path: Path, target: Path) -> None:
    archive = forge.write(zip_path, KINDS, with_manifest=True)
    summary = prepare(shares(archive), os.fsencode(target)).summary()
    assert "a.zip to " in summary
    assert "8 files" in summary
    assert "6 links, 4 folders" in summary


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size":1,', f'"size":{2**64},'),
        ('"size":1,', '"size":-1,'),
        ('"mode":420,', f'"mode":{2**64},'),
        ('"mode":420,', '"mode":-1,'),
        ('"path":', f'"parts":[[{2**64},1,"00"]],"path":'),
        ('"path":', '"parts":[[1,-1,"00"]],"path":'),
        ('"path":', '"parts":[[1,1,"\\ud800"]],"path":'),
        ('"sha256":"', '"sha256":"\\ud800'),
        ('"path":', '"link":"\\ud800","path":'),
    ],
)
def test_a_manifest_with_impossible_values_is_damaged(
    zip_path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str,
    new: str,
) -> None:  # fmt: skip
    """Files come back by CRC-32; restore and verify say what is wrong (case 64)."""
    record_line = forge.manifest.record_line

    def forged_line(*args: Any, **more: Any) -> str:
        line = record_line(*args, **more)
        assert old in line
        return line.replace(old, new, 1)

    monkeypatch.setattr(forge.manifest, "record_line", forged_line)
    archive = forge.write(zip_path, [forge.file(b"f", b"x")], with_manifest=True)
    result = restore(archive, target)
    assert result.codes == {".pybak/manifest.jsonl.gz": DAMAGED}
    assert (target / "f").read_bytes() == b"x"
    plan = plan_verify([archive], work_dir=tmp_path, tasks=1)
    assert [problem.code for problem in plan.problems] == [DAMAGED]


@pytest.mark.needs_root
def test_a_full_disk_is_told_for_each_member_and_leaves_no_pieces(tmp_path: Path) -> None:
    """What fits is there and whole (cases 91, 96)."""
    target = tmp_path / "small"
    target.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", target]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("can't mount here")
    try:
        data = os.urandom(300_000)
        members = [forge.file(b"f%02d" % i, data) for i in range(20)]
        result = restore(forge.write(tmp_path / "a.zip", members), target)
        assert 0 < result.restored < 10
        assert result.failed == 20 - result.restored
        assert set(result.codes.values()) == {STORAGE}
        assert len(list(target.iterdir())) == result.restored
        assert all(path.read_bytes() == data for path in target.iterdir())
    finally:
        subprocess.run(["umount", target], check=True)
