"""Files that are still being written are left for the next round, and no writer is lost."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from inboxes import Inbox, files_in

from pybak.backup.rules import Rules
from pybak.folders import Folders
from pybak.inbox import settle, taking
from pybak.inbox.found import Found, hidden_name
from pybak.inbox.pack import BUSY
from pybak.inbox.run import InboxRun
from pybak.inbox.scan import scan
from pybak.inbox.settle import BusyError, Lease, is_unfinished, is_young
from pybak.options.inbox import InboxOptions

HIDDEN = hidden_name("0000", b"a")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


@pytest.fixture
def writer(inbox: Inbox) -> Iterator[IO[bytes]]:
    """A file of the inbox that is open for writing."""
    with inbox.put("busy", b"begun").open("ab") as file:
        yield file


@pytest.mark.parametrize(
    "name",
    [
        "a.part", "a.PARTIAL", "a.filepart", "a.crdownload", "a.tmp", "a.swp", ".a.swx", "a~",
        ".report.csv.Ab3xZ9", ".~lock.a.odt#", ".nfs000000000001",
    ],
)  # fmt: skip
def test_names_of_unfinished_files_are_known(name: str) -> None:
    assert is_unfinished(name.encode())


@pytest.mark.parametrize(
    "name", ["a.csv", ".hidden", "part", ".part", "tmp", "a.parts", "a~b", ".bashrc", ".a.csv"]
)
def test_other_names_are_not(name: str) -> None:
    assert not is_unfinished(name.encode())


def test_files_with_unfinished_names_wait_unless_all_are_asked_for(inbox: Inbox) -> None:
    inbox.put("a.part")
    report = inbox.round()
    assert (report.status, report.files.waiting, inbox.left) == ("unchanged", 1, ["a.part"])
    assert inbox.round(all_names=True).files.done == 1


def test_a_file_waits_until_it_has_settled(inbox: Inbox) -> None:
    """(case 45)"""
    inbox.put("a")
    report = inbox.round(settle="1h")
    assert [one.message for one in report.waiting] == ["changed less than 3600 s ago"]
    assert inbox.left == ["a"]


def test_an_old_mtime_does_not_make_a_new_file_old(inbox: Inbox) -> None:
    """As `cp -p` sets it."""
    path = inbox.put("a")
    os.utime(path, (0, 0))
    assert inbox.round(settle="1h").files.waiting == 1


def test_an_mtime_that_lies_ahead_does_not_keep_a_file_for_ever() -> None:
    ahead = {"mtime_ns": 10**18, "ctime_ns": 0}
    assert not is_young(**ahead, now_ns=10**12, settle_seconds=5)
    assert is_young(mtime_ns=0, ctime_ns=10**18, now_ns=10**12, settle_seconds=5)


@LINUX
def test_a_file_that_is_open_for_writing_waits(inbox: Inbox, writer: IO[bytes]) -> None:
    """(case 44)"""
    report = inbox.round()
    assert [one.message for one in report.waiting] == [BUSY]
    writer.close()
    assert inbox.round().files.done == 1


@LINUX
def test_reading_a_file_does_not_keep_it(inbox: Inbox) -> None:
    with inbox.put("a").open("rb"):
        assert inbox.round().files.done == 1


def test_a_file_that_grows_after_it_was_packed_waits_and_nothing_of_it_is_stored(
    inbox: Inbox,
) -> None:
    """(case 46)"""
    path = inbox.put("a", b"first")

    def grow(_run: InboxRun, _number: int) -> None:
        with path.open("ab") as file:
            file.write(b" and more")

    report = inbox.round(packed=grow)
    assert (report.files.waiting, report.files.done) == (1, 0)
    assert (inbox.stored, inbox.left, inbox.rows()) == ([], ["a"], [])
    inbox.round()
    assert inbox.unpacked() == {"a": b"first and more"}


def test_a_file_that_is_replaced_after_it_was_packed_is_stored_as_both(inbox: Inbox) -> None:
    """(case 47)"""
    path = inbox.put("a", b"first")

    def replace(_run: InboxRun, _number: int) -> None:
        (inbox.source / "new").write_bytes(b"second")
        (inbox.source / "new").rename(path)

    inbox.round(packed=replace)
    assert inbox.left == ["a"]
    inbox.round()
    assert sorted(gzip.decompress((inbox.target / one).read_bytes()) for one in inbox.stored) == [
        b"first", b"second",
    ]  # fmt: skip


def test_a_file_that_vanishes_after_it_was_packed_is_stored(inbox: Inbox) -> None:
    """(case 48)"""
    path = inbox.put("a", b"first")
    report = inbox.round(packed=lambda _run, _number: path.unlink())
    assert (report.status, inbox.unpacked()) == ("success", {"a": b"first"})


def test_a_file_that_vanishes_before_it_is_read_is_named(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.put("a")
    inbox.put("b")
    real = InboxRun.next_parcels

    def parcels(run: InboxRun) -> object:
        found = real(run)
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(InboxRun, "next_parcels", parcels)
    report = inbox.round()
    assert (report.status, report.files.done) == ("success", 1)
    assert [(one.path, one.code) for one in report.skipped] == [("a", "vanished")]


def test_a_file_that_changes_between_scan_and_read_waits(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.put("a")
    real = InboxRun.next_parcels

    def parcels(run: InboxRun) -> object:
        found = real(run)
        path.write_bytes(b"other")
        return found

    monkeypatch.setattr(InboxRun, "next_parcels", parcels)
    assert inbox.round().files.waiting == 1
    assert inbox.stored == []


def test_a_link_that_took_a_folders_place_leads_nowhere(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("sub/passwd", b"of the inbox")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"of the inbox")
    real = InboxRun.next_parcels

    def parcels(run: InboxRun) -> object:
        found = real(run)
        if not (inbox.source / "sub").is_symlink():
            (inbox.source / "sub").rename(tmp_path / "moved")
            (inbox.source / "sub").symlink_to(outside)
        return found

    monkeypatch.setattr(InboxRun, "next_parcels", parcels)
    inbox.round()
    assert files_in(outside) == ["passwd"]
    assert inbox.stored == []


def found_in(inbox: Inbox) -> Found:
    (found,) = scan(os.fsencode(inbox.source), Rules(), settle_seconds=0, now_ns=0).files
    return found


@LINUX
def test_a_writer_that_comes_while_a_file_is_taken_gets_it_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 49)"""
    path = inbox.put("a", b"first")
    found = found_in(inbox)
    opened = threading.Event()

    def write() -> None:
        with path.open("ab") as file:
            file.write(b" and more")

    writing = threading.Thread(target=write)
    real = Lease.is_whole.fget
    assert real is not None

    def look(lease: Lease) -> bool:
        if not opened.is_set():
            opened.set()
        assert real is not None
        return bool(real(lease))

    rename = os.rename

    def rename_late(*given: object, **more: object) -> None:
        writing.start()  # it waits for the lease, with the path resolved
        time.sleep(0.3)
        rename(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Lease, "is_whole", property(look))
    monkeypatch.setattr(taking.os, "rename", rename_late)
    with Folders(os.fsencode(inbox.source)) as folders:
        assert taking.take(folders, found, HIDDEN) == taking.CHANGED
    writing.join(20)
    assert path.read_bytes() == b"first and more"
    assert inbox.left == ["a"]


@LINUX
def test_a_lease_that_is_broken_does_not_end_the_process(tmp_path: Path) -> None:
    """Its signal would, were it the usual one."""
    code = (
        "import os, sys, threading, time\n"
        "from pybak.inbox.settle import Lease\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "lease = Lease(fd)\n"
        "assert lease.is_held and lease.is_whole\n"
        "thread = threading.Thread(target=lambda: open(sys.argv[1], 'ab').close())\n"
        "thread.start()\n"
        "time.sleep(0.3)\n"
        "assert not lease.is_whole\n"
        "lease.release()\n"
        "thread.join(10)\n"
        "print('alive')\n"
    )
    (tmp_path / "a").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0)


def test_without_leases_all_else_is_the_same(
    inbox: Inbox, writer: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems and on macOS."""
    monkeypatch.setattr(settle, "_SET_LEASE", None)
    inbox.put("a")
    assert inbox.round().files.done == 2


@LINUX
def test_a_busy_file_is_told_by_the_lease(inbox: Inbox, writer: IO[bytes]) -> None:
    fd = os.open(inbox.source / "busy", os.O_RDONLY)
    with pytest.raises(BusyError):
        Lease(fd)
    os.close(fd)


def test_a_file_is_not_taken_while_its_hidden_name_is_taken(inbox: Inbox) -> None:
    inbox.put("a")
    found = found_in(inbox)
    inbox.put(HIDDEN.decode(), b"of somebody")
    with Folders(os.fsencode(inbox.source)) as folders, pytest.raises(Exception, match="move that"):
        taking.take(folders, found, HIDDEN)
    assert len(inbox.left) == 2


def test_the_options_take_no_time_for_a_settle(inbox: Inbox) -> None:
    assert InboxOptions(settle="0s").settle == "0s"
    with pytest.raises(ValueError, match="duration"):
        InboxOptions(settle="soon")
