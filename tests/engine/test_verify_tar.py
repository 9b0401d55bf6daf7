"""Verifying tar archives, volumes and wrappers: every kind of damage is found and named."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import tars
from encrypted import PASSWORD, flip
from test_restore_encrypted import wrapped

from pybak.entries import CHAR_DEVICE, FIFO
from pybak.errors import ArchiveError, PyBakError, WrongPasswordError
from pybak.problems import DAMAGED, read_problems
from pybak.verify.check import plan_verify, verify_batch

BIG = bytes(range(256)) * 4096
MEMBERS = [
    tars.folder(b"d", attributes={b"user.a": b"1"}),
    tars.file(b"d/small", b"small" * 50),
    tars.file(b"d/big", BIG),
    tars.link(b"d/link", b"small"),
    tars.hard_link(b"d/hard", b"d/big"),
    tars.Item(b"d/fifo", kind=FIFO),
    tars.Item(b"d/null", kind=CHAR_DEVICE, device=(1, 3)),
    tars.file(b"d/sparse", b"x" * 1024, data_map=((4096, 1024),), real_size=50_000),
    tars.file(b"\xff" + b"n" * 200, b"x", mtime_ns=-(10**18)),
]
formats = pytest.mark.parametrize("archive_format", tars.FORMATS)


def check(
    archive: bytes | list[bytes], tasks: int = 3, password: bytes | None = None
) -> tuple[int, dict[str, str]]:
    """Verify and give the members counted, and the code of each damaged one."""
    paths = [archive] if isinstance(archive, bytes) else archive
    with tempfile.TemporaryDirectory() as work:
        plan = plan_verify(paths, work_dir=Path(work), tasks=tasks, password=password)
        parts = [verify_batch(batch, password=password) for batch in plan.batches]
        problems = list(plan.problems)
        for part in parts:
            problems += read_problems(part.problems_file)
        assert sum(part.members for part in parts) + plan.damaged >= plan.members
        return plan.members, {problem.path: problem.code for problem in problems}


@formats
@pytest.mark.parametrize("tasks", [1, 5])
def test_a_sound_archive_is_sound(tmp_path: Path, archive_format: str, tasks: int) -> None:
    archive = tars.write(tmp_path / "a", tars.build(MEMBERS, archive_format))
    assert check(archive, tasks) == (9, {})
    assert check(tars.write(tmp_path / "a", tars.build([], archive_format))) == (0, {})


@pytest.mark.parametrize("how", [[], ["gzip"], ["bzip2"], ["zstd", "-q", "--rm"]])
def test_an_archive_of_others_is_read_through(tmp_path: Path, how: list[str]) -> None:
    path = tmp_path / "a.tar"
    tars.write(path, tars.tar(MEMBERS))
    if how:
        subprocess.run([*how, path], check=True)
    (found,) = tmp_path.iterdir()
    assert check(os.fsencode(found)) == (9, {})


@formats
def test_every_flipped_byte_is_found(tmp_path: Path, archive_format: str) -> None:
    """Contents, headers, padding, what frames the pieces (case 59)."""
    members = [tars.folder(b"d"), tars.file(b"d/f", b"content" * 30), tars.link(b"l", b"x")]
    whole = tars.build(members, archive_format)
    path = tmp_path / "a"
    unseen = []
    for at in range(len(whole) % 7, len(whole), max(1, len(whole) // 250)):
        tars.write(path, flip(whole, at))
        try:
            if not check(os.fsencode(path), tasks=1)[1]:
                unseen.append(at)
        except PyBakError:
            continue
    print(archive_format, len(whole), unseen)
    assert len(unseen) <= 20


@formats
def test_a_truncated_archive_is_never_sound(tmp_path: Path, archive_format: str) -> None:
    """Nor one that goes on behind its end (case 60)."""
    whole = tars.build(MEMBERS[:5], archive_format)
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        path = tars.write(tmp_path / "a", whole[:size])
        try:
            assert check(path, tasks=1)[1], size
        except PyBakError:
            continue


@pytest.mark.parametrize(
    "other",
    [
        {"mode": 0o600},
        {"mtime_ns": tars.NOON + 1},
        {"data": b"other content"},
        {"kind": FIFO},
        {"name": b"other"},
    ],
)
def test_headers_that_say_otherwise_than_the_manifest_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict
) -> None:
    """A member swapped for another is seen (case 64)."""
    right = tars.file(b"f", b"the content.."[:13])
    line = tars.Item.line
    monkeypatch.setattr(tars.Item, "line", lambda _self, at: line(right, at))
    archive = tars.write(tmp_path / "a", tars.build([replace(right, **other)], "tar.gz"))
    assert check(archive)[1] == {"f": DAMAGED}


@formats
def test_damage_in_a_volume_is_told_with_its_name(tmp_path: Path, archive_format: str) -> None:
    """(cases 59, 61)"""
    members = [tars.file(b"f%02d" % number, os.urandom(3000)) for number in range(40)]
    whole = tars.build(members, archive_format, batch=1)
    size = len(whole) // 5 + 1
    paths = []
    for number in range(5):
        data = whole[number * size : (number + 1) * size]
        if number == 2:
            data = flip(data, len(data) // 2)
        path = tmp_path / f"a.{archive_format}.{number + 1:03d}"
        paths.append(tars.write(path, data))
    with tempfile.TemporaryDirectory() as work:
        plan = plan_verify(paths, work_dir=Path(work), tasks=2)
        parts = [verify_batch(batch) for batch in plan.batches]
        problems = list(plan.problems)
        for part in parts:
            problems += read_problems(part.problems_file)
    assert problems, problems
    assert any(f"a.{archive_format}.003" in one.message for one in problems), problems


class TestWrapped:
    """Volumes in encrypted wrappers (cases 63, 65)."""

    def test_they_are_sound_with_the_password_only(self, tmp_path: Path) -> None:
        paths = wrapped(tmp_path, "a.tar.zst", tars.build(MEMBERS, "tar.zst"), 2000)
        assert check(paths, password=PASSWORD) == (9, {})
        for password in (None, b"wrong"):
            with pytest.raises(WrongPasswordError):
                check(paths, password=password)

    def test_a_volume_that_was_tampered_with_is_named(self, tmp_path: Path) -> None:
        paths = wrapped(tmp_path, "a.tar", tars.build(MEMBERS, "tar"), 200_000)
        path = Path(os.fsdecode(paths[3]))
        path.write_bytes(flip(path.read_bytes(), 1000))
        with pytest.raises(ArchiveError, match=path.name):
            check(paths, password=PASSWORD)
