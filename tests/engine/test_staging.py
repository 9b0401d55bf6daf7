"""Work folders: leftovers of dead runs go, those of live runs stay."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pybak.errors import StorageError
from pybak.staging import (
    PREFIX,
    WorkFolder,
    is_cancelled,
    reason,
    remove_leftovers,
    request_cancel,
)

HOLD = """
import sys, pathlib
from pybak.staging import WorkFolder
folder = WorkFolder.create(pathlib.Path(sys.argv[1]), "held")
(folder.path / "segments").mkdir()
(folder.path / "segments/0").write_bytes(b"x")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_run_leaves_a_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    """(case 93)"""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert remove_leftovers(tmp_path) == 0
        assert (tmp_path / f"{PREFIX}held/segments/0").exists()
        holder.kill()
        holder.wait()
    assert remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}file").write_bytes(b"someone's file")
    (tmp_path / f"{PREFIX}folder").mkdir()
    (tmp_path / f"{PREFIX}folder/kept").write_bytes(b"no lock in it")
    (tmp_path / f"{PREFIX}link").symlink_to(f"{PREFIX}folder")
    assert remove_leftovers(tmp_path) == 0
    assert len(os.listdir(tmp_path)) == 3
    assert remove_leftovers(tmp_path / "missing") == 0


def leave_behind(parent: Path, name: str = "dead") -> Path:
    """Leave a work folder as a killed run does."""
    folder = WorkFolder.create(parent, name)
    (folder.path / "data").write_bytes(b"x")
    os.close(folder._lock_fd)
    return folder.path


def test_no_link_leads_the_clean_up_to_other_folders(tmp_path: Path) -> None:
    other, place = tmp_path / "other", tmp_path / "place"
    other.mkdir()
    place.mkdir()
    target = leave_behind(other)
    (place / f"{PREFIX}link").symlink_to(target)
    (place / f"{PREFIX}lock-is-link").mkdir()
    (place / f"{PREFIX}lock-is-link/lock").symlink_to(target / "lock")
    (place / f"{PREFIX}lock-is-link/data").write_bytes(b"x")
    (place / f"{PREFIX}lock-is-fifo").mkdir()
    os.mkfifo(place / f"{PREFIX}lock-is-fifo/lock")
    assert remove_leftovers(place) == 0
    assert (target / "data").exists()
    assert len(os.listdir(place)) == 3
    assert (place / f"{PREFIX}lock-is-link/data").exists()


def test_a_folder_swapped_for_a_link_in_the_middle_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, victim = leave_behind(tmp_path), tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").touch()
    (victim / "precious").write_bytes(b"x")
    real = fcntl.flock

    def swap(fd: int, operation: int) -> None:
        real(fd, operation)
        dead.rename(tmp_path / "moved")
        dead.symlink_to(victim)

    monkeypatch.setattr(fcntl, "flock", swap)
    assert remove_leftovers(tmp_path) == 0
    assert (victim / "precious").exists()


def test_links_inside_a_leftover_are_removed_not_followed(tmp_path: Path) -> None:
    place, victim = tmp_path / "place", tmp_path / "victim"
    place.mkdir()
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    dead = leave_behind(place)
    (dead / "link").symlink_to(victim)
    (dead / "deep").mkdir()
    (dead / "deep/link").symlink_to(victim)
    assert remove_leftovers(place) == 1
    assert os.listdir(place) == []
    assert (victim / "precious").exists()


def test_folders_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_behind(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert remove_leftovers(tmp_path) == 0
    assert remove_leftovers(tmp_path) == 1


def test_folders_of_other_hosts_stay(tmp_path: Path) -> None:
    """A lock on a network file system may not reach here."""
    dead = leave_behind(tmp_path)
    own = (dead / "lock").read_bytes()
    assert own == os.fsencode(os.uname().nodename)
    (dead / "lock").write_bytes(b"another-host")
    assert remove_leftovers(tmp_path) == 0
    (dead / "lock").write_bytes(own)
    assert remove_leftovers(tmp_path) == 1


def test_folders_of_other_hosts_go_when_nothing_has_happened_in_them_for_a_week(
    tmp_path: Path,
) -> None:
    """Each container has another name."""
    dead = leave_behind(tmp_path)
    (dead / "segments").mkdir(exist_ok=True)
    (dead / "segments" / "0").write_bytes(b"x")
    (dead / "lock").write_bytes(b"another-host")
    week = 7 * 86_400
    made = (dead / "lock").stat().st_mtime
    assert remove_leftovers(tmp_path, now=made + week - 60) == 0
    os.utime(dead / "segments" / "0", (made + 1000, made + 1000))  # somebody is at work
    assert remove_leftovers(tmp_path, now=made + week + 500) == 0
    assert remove_leftovers(tmp_path, now=made + week + 1500) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_old_empty_folder_that_never_got_its_lock_goes(tmp_path: Path) -> None:
    empty, full = tmp_path / f"{PREFIX}empty", tmp_path / f"{PREFIX}full"
    empty.mkdir()
    full.mkdir()
    (full / "something").write_bytes(b"x")
    assert remove_leftovers(tmp_path, now=empty.stat().st_mtime + 80_000) == 0
    assert remove_leftovers(tmp_path, now=empty.stat().st_mtime + 90_000) == 1
    assert os.listdir(tmp_path) == [full.name]


def test_a_run_whose_folder_was_swapped_deletes_nothing_else(tmp_path: Path) -> None:
    folder = WorkFolder.create(tmp_path, "run")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"x")
    folder.path.rename(tmp_path / "moved")
    folder.path.symlink_to(victim)
    folder.remove()
    assert (victim / "precious").exists()


def test_a_folder_half_removed_is_still_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of the clean-up loses nothing of its mark."""
    folder = WorkFolder.create(tmp_path, "run")
    for number in range(20):
        (folder.path / f"{number}").write_bytes(b"x")
    real, calls = os.unlink, 0

    def die(*args: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        real(*args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            folder.remove()
    os.close(folder._lock_fd)  # as the kernel does at the end of a process
    assert remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_runs_that_start_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    """(case 98)"""
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            remove_leftovers(tmp_path)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for number in range(300):
            folder = WorkFolder.create(tmp_path, str(number))
            (folder.path / "data").write_bytes(b"x")
            assert (folder.path / "data").exists()
            folder.remove()
            folder.remove()
    finally:
        stop.set()
        cleaner.join()
    assert os.listdir(tmp_path) == []


def test_a_place_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="not a directory; choose a folder you can write"):
        WorkFolder.create(tmp_path / "file", "run")
    with pytest.raises(StorageError, match="is gone"):
        WorkFolder.create(tmp_path / "missing", "run")


def test_a_cancel_is_seen_by_all_and_needs_no_folder(tmp_path: Path) -> None:
    assert not is_cancelled(tmp_path)
    request_cancel(tmp_path)
    assert is_cancelled(tmp_path)
    request_cancel(tmp_path / "gone")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left on the disk"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (OSError(errno.EROFS, "x"), "the file system is read-only"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError("a segment ends early"), "a segment ends early"),
    ],
)
def test_reasons_are_plain_words(error: OSError, text: str) -> None:
    assert reason(error) == text


def test_a_cancel_needs_no_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 96)"""
    folder = WorkFolder.create(tmp_path, "run")

    def refuse(*_: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", refuse)
    request_cancel(folder.path)
    assert is_cancelled(folder.path)
    request_cancel(folder.path)
    folder.remove()
