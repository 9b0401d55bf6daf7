"""Where inboxes store files: blocks of folders, disks that are not mounted, names that can't be."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from inboxes import NOON, STAMP, Inbox, files_in, killed_before_stored, killed_in
from memory import MemoryStorage, use_also

from blocks.described import FolderSettings, open_described
from pybak.errors import NotFoundError, PlanError, StorageError
from pybak.folders import Folders
from pybak.inbox import mounts
from pybak.inbox.run import InboxRun
from pybak.inbox.settle import Lease
from pybak.inbox.store import Store
from pybak.inbox.taking import Removing
from pybak.options.inbox import InboxOptions
from pybak.storage import opening

BLOCK = "block:backups/inbox"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


@pytest.fixture
def backups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the block `backups`."""
    folder = tmp_path / "Backups"
    folder.mkdir()
    real = opening._open

    def give(address: str) -> Any:
        name, _, path = address.partition("/")
        if name == "block:backups":
            return open_described(FolderSettings(str(folder)), path, address)
        return real(address)

    monkeypatch.setattr(opening, "_open", give)
    return folder


# -- blocks of local folders


def test_a_block_of_a_folder_gets_files_with_folders_and_any_name(
    inbox: Inbox, backups: Path
) -> None:
    inbox.put("sub/a", b"first")
    inbox.put("b", b"second")
    inbox.put("\udce4", b"third")
    report = inbox.round(BLOCK)
    assert (report.status, report.files.done, inbox.left) == ("success", 3, [])
    assert report.destination == str(backups / "inbox")
    names = [f"b_{STAMP}.gz", f"sub/a_{STAMP}.gz", f"\udce4_{STAMP}.gz"]
    assert files_in(backups / "inbox") == names


def test_a_block_is_a_further_place_too(inbox: Inbox, backups: Path) -> None:
    inbox.put("sub/a", b"first")
    assert inbox.round(also_to=[BLOCK]).status == "success"
    assert files_in(backups / "inbox") == inbox.stored == [f"sub/a_{STAMP}.gz"]


@pytest.mark.parametrize("also", [False, True])
def test_the_folder_of_a_block_is_never_made(inbox: Inbox, backups: Path, *, also: bool) -> None:
    backups.rmdir()
    inbox.put("a")
    with pytest.raises(NotFoundError, match="Backups: there is no such folder"):
        inbox.round(None if also else BLOCK, also_to=[BLOCK] if also else [])
    assert (inbox.left, backups.exists()) == (["a"], False)


def test_what_a_killed_round_left_in_a_block_is_settled(inbox: Inbox, backups: Path) -> None:
    inbox.put("a", b"first")
    killed_in(inbox, Store, "_finish", lambda *_given: True, to=BLOCK)
    assert (inbox.left, inbox.rows("state")) == (["a"], [("stored",)])
    assert inbox.round(BLOCK).files.done == 1
    assert (inbox.left, files_in(backups / "inbox")) == ([], [f"a_{STAMP}.gz"])


def test_a_block_that_is_the_inbox_is_refused(inbox: Inbox, backups: Path) -> None:
    inbox.source = backups / "inbox"
    inbox.put("a")
    with pytest.raises(PlanError, match="lies in the inbox"):
        inbox.round(BLOCK)
    assert (inbox.left, inbox.rows()) == (["a"], [])


# -- places that are the same


def asked(inbox: Inbox, to: Path, **options: Any) -> None:
    InboxRun(str(inbox.source), str(to), InboxOptions(**options))


def test_a_further_place_that_is_the_destination_is_refused_whatever_it_is_called(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.target.mkdir()
    (tmp_path / "same").symlink_to(inbox.target)
    for also in (tmp_path / "same", inbox.target / "below", tmp_path / "same" / "below"):
        with pytest.raises(PlanError, match="the same folder, or one lies in the other"):
            asked(inbox, inbox.target, also_to=[str(also)])
        with pytest.raises(PlanError, match="the same folder, or one lies in the other"):
            asked(inbox, also, also_to=[str(inbox.target)])
    asked(inbox, inbox.target, also_to=[str(tmp_path / "other")])


@pytest.mark.needs_root
def test_the_inbox_is_known_under_another_mount_too(inbox: Inbox, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    (inbox.source / "sub").mkdir()
    subprocess.run(["mount", "--bind", inbox.source, bound], check=True)
    try:
        for place in (bound, bound / "sub", bound / "new"):
            with pytest.raises(PlanError, match="lies in the inbox"):
                asked(inbox, place)
    finally:
        subprocess.run(["umount", bound], check=True)


# -- disks that are not there


@pytest.mark.parametrize("also", [False, True])
def test_a_place_that_is_gone_is_not_made_again(
    inbox: Inbox, tmp_path: Path, *, also: bool
) -> None:
    options: dict[str, Any] = {"also_to": [str(tmp_path / "also")]} if also else {}
    gone = tmp_path / "also" if also else inbox.target
    inbox.put("a", b"first")
    inbox.round(**options)
    gone.rename(tmp_path / "away")
    inbox.put("b", b"second")
    with pytest.raises(StorageError, match="is it mounted"):
        inbox.round(**options)
    assert (inbox.left, gone.exists()) == (["b"], False)
    gone.mkdir()
    assert inbox.round(**options).files.done == 1


def test_a_catalog_that_knows_the_destination_will_do(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a", b"first")
    inbox.round()
    inbox.target.rename(tmp_path / "away")
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "another home"))
    inbox.put("b", b"second")
    with pytest.raises(StorageError, match="is it mounted"):
        inbox.round()


def test_a_mount_point_without_its_disk_gets_nothing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.target.mkdir()
    real = os.path.ismount
    mounted = [str(inbox.target)]
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted or real(path))
    inbox.put("a", b"first")
    inbox.round()
    for path in inbox.target.iterdir():  # consumers may take all away
        path.unlink()
    inbox.put("b", b"second")
    assert inbox.round().files.done == 1
    mounted.clear()
    inbox.put("c", b"third")
    with pytest.raises(StorageError, match=r"nothing is mounted at .*out.*mount it, or") as told:
        inbox.round()
    assert inbox.left == ["c"]
    Path(str(told.value).rpartition("remove ")[2]).unlink()
    assert inbox.round().files.done == 1


@pytest.mark.needs_root
def test_a_real_disk_that_is_unmounted_is_missed(inbox: Inbox) -> None:
    inbox.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inbox.target], check=True)
    try:
        inbox.put("a", b"first")
        assert inbox.round(str(inbox.target / "below")).files.done == 1
    finally:
        subprocess.run(["umount", inbox.target], check=True)
    (inbox.target / "below").mkdir()  # as a program would that minds nothing
    inbox.put("b", b"second")
    with pytest.raises(StorageError, match="nothing is mounted"):
        inbox.round(str(inbox.target / "below"))
    assert (inbox.left, inbox.stored) == (["b"], [])


def test_what_a_killed_round_left_waits_for_the_disk(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("a", b"first")
    killed_before_stored(inbox)
    rows = inbox.rows()
    assert rows == [("a", "made")]
    inbox.target.rename(tmp_path / "away")
    report = inbox.round()
    assert (report.status, inbox.left, inbox.rows()) == ("partial", ["a"], rows)
    assert "is it mounted" in report.errors[0].message
    (tmp_path / "away").rename(inbox.target)
    assert inbox.round().files.done == 1
    assert (inbox.left, len(inbox.stored)) == ([], 1)


def test_a_note_that_is_damaged_says_what_to_remove(inbox: Inbox) -> None:
    inbox.put("a")
    inbox.round()
    note = mounts._note_path(inbox.target)
    note.write_bytes(b"")
    inbox.put("b", b"second")
    with pytest.raises(StorageError, match=f"{note}: can't be understood; remove it"):
        inbox.round()


# -- one file that can't be stored


def test_one_file_whose_path_is_too_long_costs_itself_alone(inbox: Inbox) -> None:
    inbox.put("fine", b"first")
    fd = os.open(inbox.source, os.O_RDONLY)
    for _ in range(21):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("deep", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    report = inbox.round()
    assert (report.files.done, report.files.failed) == (1, 1)
    assert (inbox.source / "fine").exists() is False


def test_one_folder_that_leads_nowhere_costs_its_files_alone(inbox: Inbox) -> None:
    inbox.put("fine", b"first")
    inbox.put("sub/z", b"second")
    inbox.target.mkdir()
    (inbox.target / "sub").symlink_to("sub")
    report = inbox.round()
    assert (report.files.done, [one.path for one in report.errors]) == (1, ["sub/z"])
    assert inbox.left == ["sub/z"]


def test_one_name_that_a_storage_refuses_costs_its_file_alone(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(MemoryStorage):
        def stat(self, name: str) -> Any:
            if name.startswith("odd"):
                raise StorageError("s3: no such key can be")
            return super().stat(name)

    bucket = Choosy("s3://bucket/inbox")
    use_also(monkeypatch, bucket)
    inbox.put("odd")
    inbox.put("even")
    report = inbox.round(bucket.address)
    assert (report.files.done, [one.path for one in report.errors]) == (1, ["odd"])
    bucket.is_there = False
    inbox.put("odd again")
    with pytest.raises(NotFoundError):
        inbox.round(bucket.address)


# -- leases, clocks, sticky folders


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel give no lease, as to all but a file's owner and root."""
    from pybak.inbox import settle

    real = settle.fcntl.fcntl

    def control(fd: int, command: int, *more: Any) -> Any:
        if command == settle._SET_LEASE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(fd, command, *more)

    monkeypatch.setattr(settle.fcntl, "fcntl", control)


def rounds_at(inbox: Inbox, monkeypatch: pytest.MonkeyPatch, seconds: float, settle: str) -> Any:
    """Run a round whose clock is ahead."""

    class Later(InboxRun):
        def __init__(self, *given: Any, **more: Any) -> None:
            more["clock_ns"] = lambda: time.time_ns() + int(seconds * 1e9)
            super().__init__(*given, **more)

    monkeypatch.setattr("inboxes.InboxRun", Later)
    return inbox.round(settle=settle)


@pytest.mark.usefixtures("refused")
def test_a_file_that_gets_no_lease_must_rest_longer(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a", b"first half")
    report = rounds_at(inbox, monkeypatch, 30, "5s")
    assert (inbox.left, inbox.stored) == (["a"], [])
    assert "changed less than 60 s ago" in report.waiting[0].message
    assert rounds_at(inbox, monkeypatch, 61, "5s").files.done == 1
    inbox.put("a", b"second")
    assert rounds_at(inbox, monkeypatch, 0, "0s").files.done == 1


@pytest.mark.needs_root
def test_another_user_gets_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_RDONLY)
    try:
        told: list[bool] = []

        def ask() -> None:
            os.setresuid(65534, 65534, 65534)
            lease = Lease(fd)
            told.extend((lease.is_held, lease.is_refused))

        child = os.fork()
        if not child:
            try:
                ask()
            finally:
                os._exit(0 if told == [False, True] else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        os.close(fd)


def test_a_clock_that_was_set_back_is_a_problem_and_is_named(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a")
    report = rounds_at(inbox, monkeypatch, -86400, "5s")
    assert (report.status, inbox.left) == ("partial", ["a"])
    assert "clock is behind" in report.errors[0].message
    report = rounds_at(inbox, monkeypatch, -30, "5s")
    assert (report.status, report.files.waiting) == ("unchanged", 1)


@pytest.mark.needs_root
def test_files_of_others_in_a_sticky_folder_are_not_begun(inbox: Inbox) -> None:
    inbox.put("a")
    os.chown(inbox.put("own"), 65534, 65534)
    inbox.source.chmod(0o1777)
    folders = Folders(os.fsencode(inbox.source))
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            removing = Removing()
            their, own = (removing.trouble(folders, name) for name in (b"a", b"own"))
            code = 0 if "sticky" in their and own == "" else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert Removing().trouble(folders, b"a") == ""
    folders.close()


# -- what a kill leaves without hard links


def test_a_kill_without_hard_links_leaves_no_empty_file(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object, **_more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    inbox.put("a", b"first")
    killed_in(inbox, os, "replace", lambda source, _target: str(source).endswith(".made"))
    assert (inbox.target / f"a_{STAMP}.gz").stat().st_size == 0
    inbox.round(now=NOON.replace(minute=20))
    assert inbox.left == []
    assert [(inbox.target / name).stat().st_size > 0 for name in inbox.stored] == [True]
