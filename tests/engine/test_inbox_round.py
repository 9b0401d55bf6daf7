"""A round of an inbox: what is stored, what it is called, what goes and what stays."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from inboxes import NOON, STAMP, Inbox, sha256

from pybak.errors import NotFoundError, PlanError
from pybak.inbox import parcels
from pybak.inbox.run import InboxRun
from pybak.options.inbox import InboxOptions

PASSWORD = b"a long enough password"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_a_file_becomes_a_gz_named_by_the_time_and_its_source_goes(inbox: Inbox) -> None:
    inbox.put("report.csv", b"a,b\n" * 1000)
    report = inbox.round()
    assert (report.status, report.files.done, inbox.left) == ("success", 1, [])
    assert inbox.stored == [f"report.csv_{STAMP}.gz"]
    path = inbox.target / inbox.stored[0]
    assert subprocess.run(["gzip", "-t", path], check=True).returncode == 0
    assert subprocess.run(["zcat", path], check=True, capture_output=True).stdout == b"a,b\n" * 1000
    (result,) = report.results
    assert (result.path, result.size, result.sha256) == (
        "report.csv",
        4000,
        sha256(b"a,b\n" * 1000),
    )
    assert (result.destination, result.stored_size) == (str(path), path.stat().st_size)


def test_subfolders_are_kept_at_the_destination_and_empty_in_the_inbox(inbox: Inbox) -> None:
    inbox.put("2026/11/a.log")
    inbox.round()
    assert inbox.stored == [f"2026/11/a.log_{STAMP}.gz"]
    assert (inbox.source / "2026/11").is_dir()


def test_a_taken_name_gets_a_number(inbox: Inbox) -> None:
    for number in range(3):
        inbox.put("a", b"%d" % number)
        inbox.round()
    assert inbox.stored == [f"a_{STAMP}.gz", f"a_{STAMP}_2.gz", f"a_{STAMP}_3.gz"]


def test_what_is_known_of_a_file_is_in_the_catalog(inbox: Inbox) -> None:
    inbox.put("a", b"x" * 10)
    inbox.round()
    (row,) = inbox.rows("path, size, stored_size, sha256, destination, name, state, format, kept")
    size = (inbox.target / inbox.stored[0]).stat().st_size
    assert row == (
        "a", 10, size, sha256(b"x" * 10), str(inbox.target), f"a_{STAMP}.gz", "done", "gz", 0,
    )  # fmt: skip


def test_names_may_hold_anything(inbox: Inbox) -> None:
    """(case 13)"""
    names = [b"-rf", b"a b", b"\xff\\", "é".encode(), b"line\nend", b"-p x"]
    for name in names:
        (inbox.source / os.fsdecode(name)).write_bytes(name)
    report = inbox.round()
    assert report.files.done == len(names)
    assert inbox.unpacked() == {os.fsdecode(name): name for name in names}


def test_a_name_without_room_for_the_time_fails_and_stays(inbox: Inbox) -> None:
    inbox.put("n" * 240)
    inbox.put("a")
    report = inbox.round()
    assert (report.status, report.files.done, inbox.left) == ("partial", 1, ["n" * 240])
    assert "too long" in report.errors[0].message


def test_empty_files_and_files_in_many_pieces_come_through(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "ALONE_BYTES", 1 << 20)
    contents = {"empty": b"", "large": os.urandom(9 << 20), "text": b"line\n" * 2_000_000}
    for name, content in contents.items():
        inbox.put(name, content)
    inbox.round()
    assert inbox.unpacked() == contents


def test_time_and_group_rights_of_the_source_are_kept_and_others_get_none(inbox: Inbox) -> None:
    path = inbox.put("a")
    path.chmod(0o664)
    os.utime(path, ns=(10**18, 10**18))
    inbox.round()
    found = (inbox.target / inbox.stored[0]).stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_mtime_ns == 10**18


@pytest.mark.parametrize("file_format", ["gz", "zip", "tar.gz", "tar.bz2", "tar.zst"])
@pytest.mark.parametrize("size", [0, 5000, 9 << 20])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.needs_tool("7zz")
def test_stock_tools_open_every_format(
    inbox: Inbox, tmp_path: Path, file_format: str, size: int, encrypted: bool
) -> None:
    if file_format == "tar.bz2":
        size = min(size, 3 << 20)  # these are several pieces too, and it is slow
    content = random.Random(size).randbytes(size)
    inbox.put("a.csv", content)
    inbox.round(format=file_format, password=PASSWORD if encrypted else None)
    wrapper = ".zip" if encrypted and file_format != "zip" else ""
    assert inbox.stored == [f"a.csv_{STAMP}.{file_format}{wrapper}"]
    path = inbox.target / inbox.stored[0]
    if encrypted:
        box = tmp_path / "box"
        subprocess.run(
            ["7zz", "x", f"-p{PASSWORD.decode()}", f"-o{box}", path], check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (path,) = box.iterdir()
        assert path.name == ("a.csv" if file_format == "zip" else f"a.csv_{STAMP}.{file_format}")
        assert content not in (inbox.target / inbox.stored[0]).read_bytes() or not content
        if file_format == "zip":
            assert path.read_bytes() == content
            return
    commands: dict[str, list[str | Path]] = {
        "gz": ["gzip", "-dc", path], "zip": ["unzip", "-p", path],
        "tar.gz": ["tar", "-xOzf", path], "tar.bz2": ["tar", "-xOjf", path],
        "tar.zst": ["tar", "--zstd", "-xOf", path],
    }  # fmt: skip
    if shutil.which(str(commands[file_format][0])) is None:
        pytest.skip(f"no {commands[file_format][0]}")
    done = subprocess.run(commands[file_format], check=True, capture_output=True)
    assert done.stdout == content


def test_kept_files_are_done_once_and_known_from_then_on(inbox: Inbox) -> None:
    path = inbox.put("a")
    assert inbox.round(keep=True).files.done == 1
    before = path.stat()
    report = inbox.round(keep=True)
    assert (report.status, report.files.known, inbox.left) == ("unchanged", 1, ["a"])
    assert path.stat().st_atime_ns == before.st_atime_ns
    inbox.put("a", b"other")
    assert inbox.round(keep=True).files.done == 1
    assert len(inbox.stored) == 2


def test_an_empty_inbox_makes_nothing(inbox: Inbox) -> None:
    assert inbox.round().status == "unchanged"
    assert not inbox.target.exists()


def test_what_is_no_file_is_named_and_left(inbox: Inbox) -> None:
    (inbox.source / "link").symlink_to("/etc/passwd")
    os.mkfifo(inbox.source / "fifo")
    report = inbox.round()
    assert report.status == "unchanged"
    assert [(one.path, one.message) for one in report.skipped] == [
        ("fifo", "is a FIFO; only files are taken"),
        ("link", "is a symbolic link; only files are taken"),
    ]


def test_patterns_choose_files(inbox: Inbox) -> None:
    for name in ("a.csv", "b.log", "sub/c.csv", "old/d.csv"):
        inbox.put(name, name.encode())
    report = inbox.round(include=["*.csv"], exclude=["old/"])
    assert sorted(inbox.unpacked()) == ["a.csv", "sub/c.csv"]
    assert report.files.excluded == 2


def test_further_places_get_every_file(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("sub/a")
    inbox.round(also_to=[str(tmp_path / "also")])
    name = f"sub/a_{STAMP}.gz"
    assert (tmp_path / "also" / name).read_bytes() == (inbox.target / name).read_bytes()


@pytest.mark.parametrize("place", ["in", "in/out", "."])
def test_an_inbox_and_its_destination_must_not_lie_in_each_other(
    inbox: Inbox, tmp_path: Path, place: str
) -> None:
    with pytest.raises(PlanError, match="name a folder elsewhere") as caught:
        InboxRun(str(inbox.source), str(tmp_path / place), InboxOptions())
    assert caught.value.exit_code == 2


def test_duplicates_must_not_be_moved_into_the_inbox(inbox: Inbox) -> None:
    with pytest.raises(PlanError):
        InboxRun(
            str(inbox.source), str(inbox.target),
            InboxOptions(duplicates_to=str(inbox.source / "same")),
        )  # fmt: skip


def test_an_inbox_with_pybaks_own_state_in_it_is_refused(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(inbox.source / "home"))
    with pytest.raises(PlanError):
        inbox.round()


def test_a_missing_inbox_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        InboxRun(str(tmp_path / "none"), str(tmp_path / "out"), InboxOptions())
    assert caught.value.exit_code == 10


def test_a_rehearsal_changes_nothing(inbox: Inbox) -> None:
    inbox.put("a", b"x" * 10)
    with InboxRun(str(inbox.source), str(inbox.target), InboxOptions(settle="0s"), now=NOON) as run:
        report = run.rehearse(None)
    assert [(one.path, one.destination) for one in report.results] == [
        ("a", f"{inbox.target}/a_{STAMP}.gz")
    ]
    assert (inbox.left, inbox.target.exists()) == (["a"], False)
