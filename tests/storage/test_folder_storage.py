"""What is special about a local folder as a storage: the disk, the file system, other processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pybak import staging
from pybak.errors import ExistsError, NotFoundError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.local_folder import FolderStorage
from pybak.storage.opening import join, open_storage, split
from pybak.storage.protocol import Upload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives"


@pytest.fixture
def storage(folder: Path) -> Iterator[FolderStorage]:
    storage = FolderStorage(str(folder))
    yield storage
    storage.close()


def send_all(storage: FolderStorage, name: str = "a.zip") -> Any:
    upload = storage.begin(name)
    parts = [storage.send(upload, n, BytesBody(b"%d" % n * 1000)) for n in (1, 2, 3)]
    return storage.complete(upload, parts)


def put(storage: FolderStorage) -> Any:
    return storage.put("a.zip", BytesBody(b"content"))


def left_over(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(staging.PREFIX)]


def test_an_absolute_path_opens_a_folder(folder: Path) -> None:
    storage = open_storage(f"{folder}/")
    assert storage.address == str(folder)
    assert isinstance(storage, FolderStorage)
    assert split(join(storage.address, "a.zip")) == (str(folder), "a.zip")
    assert split("/a.zip") == ("/", "a.zip")
    assert open_storage("/").address == "/"


def test_a_folder_that_is_missing_is_told_and_not_made(folder: Path) -> None:
    storage = FolderStorage(str(folder / "not" / "mounted"))
    for call in (
        storage.check, lambda: list(storage.list()), lambda: storage.begin("a.zip"),
        lambda: storage.put("a.zip", BytesBody(b"x")), lambda: storage.read("a.zip", 0, 1),
    ):  # fmt: skip
        with pytest.raises(NotFoundError, match="no such folder; make it, or mount"):
            call()
    assert list(folder.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_told(folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    storage = FolderStorage(str(folder / "file"))
    for call in (storage.check, lambda: storage.put("a.zip", BytesBody(b"x"))):
        with pytest.raises(NotFoundError, match="is no folder"):
            call()


def test_files_are_private_whatever_the_umask_is(storage: FolderStorage, folder: Path) -> None:
    os.umask(0)
    storage.put("whole.zip", BytesBody(b"x"))
    send_all(storage)
    assert {path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {0o600}
    assert {path.stat().st_nlink for path in folder.iterdir()} == {1}


def test_file_and_folder_are_brought_to_the_disk_in_that_order(
    storage: FolderStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 105)"""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        synced.append("folder" if path == str(folder) else "file")
        if synced[-1] == "file":
            assert not (folder / "a.zip").exists(), "has its name too early"
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.put("a.zip", BytesBody(b"content"))
    assert synced == ["file", "folder"]
    (folder / "a.zip").unlink()
    synced.clear()
    send_all(storage)
    assert synced == ["file", "folder"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("in_parts", [False, True])
def test_what_can_not_be_brought_to_the_disk_is_a_failure_and_leaves_no_file(
    storage: FolderStorage, folder: Path, monkeypatch: pytest.MonkeyPatch, *,
    failing: int, in_parts: bool,
) -> None:  # fmt: skip
    """(case 105)"""
    calls = 0

    def fsync(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    write = send_all if in_parts else put
    with pytest.raises(StorageError, match=r"a\.zip: input/output error; check the disk"):
        write(storage)
    assert calls == failing
    assert not (folder / "a.zip").exists()
    for upload in storage.unfinished():
        storage.abort(upload)
    assert left_over(folder) == []


def test_a_folder_that_can_not_be_synced_is_no_failure(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 106)"""
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    assert storage.put("a.zip", BytesBody(b"content")).size == 7


@pytest.fixture
def like_cifs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be no hard links, modes or copies in the kernel, as on many shares."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    for name in ("link", "chmod", "fchmod", "copy_file_range"):
        monkeypatch.setattr(os, name, refused)


def test_shares_without_hard_links_modes_and_copies_will_do(
    storage: FolderStorage, folder: Path, like_cifs: None
) -> None:
    """(case 106)"""
    storage.put("whole.zip", BytesBody(b"content"))
    send_all(storage)
    assert (folder / "whole.zip").read_bytes() == b"content"
    assert (folder / "a.zip").read_bytes() == b"1" * 1000 + b"2" * 1000 + b"3" * 1000
    for name in ("whole.zip", "a.zip"):
        with pytest.raises(ExistsError):
            storage.put(name, BytesBody(b"other"))
        with pytest.raises(ExistsError):
            send_all(storage, name)
    assert (folder / "whole.zip").read_bytes() == b"content"
    assert left_over(folder) == []


def test_a_link_whose_answer_was_lost_is_no_file_of_another(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 106)"""
    real = os.link

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert storage.put("a.zip", BytesBody(b"content")).size == 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 2 MB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_full_disk_is_told_leaves_what_was_there_and_works_again_later(small_disk: Path) -> None:
    """(case 96)"""
    storage = FolderStorage(str(small_disk))
    storage.put("first.zip", BytesBody(bytes(1 << 20)))
    for size in (1 << 20, 3 << 20, 10 << 20):
        with pytest.raises(StorageError, match=r"second\.zip: no space left on the disk; free"):
            storage.put("second.zip", BytesBody(bytes(size)))
    upload = storage.begin("second.zip")
    storage.send(upload, 1, BytesBody(bytes(900 << 10)))
    with pytest.raises(StorageError, match="no space left") as told:
        storage.send(upload, 2, BytesBody(bytes(900 << 10)))
    assert not told.value.retryable
    storage.abort(upload)
    assert os.listdir(small_disk) == ["first.zip"]
    assert storage.read("first.zip", 0, 2 << 20) == bytes(1 << 20)
    storage.delete("first.zip")
    storage.put("second.zip", BytesBody(bytes(1 << 20)))


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_joining_parts_needs_room_for_one_more_part_only(small_disk: Path) -> None:
    storage = FolderStorage(str(small_disk))
    upload = storage.begin("a.zip")
    parts = [storage.send(upload, n, BytesBody(bytes(300 << 10))) for n in range(1, 6)]
    assert storage.complete(upload, parts).size == 1500 << 10


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_folder_that_is_read_only_is_told(small_disk: Path) -> None:
    """(case 97)"""
    storage = FolderStorage(str(small_disk))
    storage.put("a.zip", BytesBody(b"content"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    storage.check()
    assert storage.read("a.zip", 0, 10) == b"content"
    for call in (
        lambda: storage.put("b.zip", BytesBody(b"x")), lambda: storage.begin("b.zip"),
        lambda: storage.delete("a.zip"),
    ):  # fmt: skip
        with pytest.raises(StorageError, match="file system is read-only"):
            call()


def test_what_a_killed_process_was_sending_is_listed_and_removed_as_a_leftover(
    folder: Path, storage: FolderStorage
) -> None:
    """(case 93)"""
    program = (
        "import os, sys\n"
        "from pybak.storage.body import BytesBody\n"
        "from pybak.storage.local_folder import FolderStorage\n"
        "storage = FolderStorage(sys.argv[1])\n"
        "upload = storage.begin('a.zip')\n"
        "storage.send(upload, 1, BytesBody(bytes(1000)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    alive = storage.begin("alive.zip")
    killed = subprocess.run([sys.executable, "-c", program, folder], timeout=60, check=False)
    assert killed.returncode == -9
    assert {upload.name for upload in storage.unfinished()} == {"a.zip", "alive.zip"}
    assert staging.remove_leftovers(folder) == 1
    assert [upload.name for upload in storage.unfinished()] == ["alive.zip"]
    storage.abort(alive)
    assert os.listdir(folder) == []


def test_bytes_that_change_while_they_are_written_are_refused(
    storage: FolderStorage, folder: Path
) -> None:
    class Changing(BytesBody):
        sha256 = "0" * 64  # type: ignore[assignment]

    with pytest.raises(StorageError, match="changed meanwhile"):
        storage.put("a.zip", Changing(b"content"))
    upload = storage.begin("a.zip")
    with pytest.raises(StorageError, match="changed meanwhile"):
        storage.send(upload, 1, Changing(b"content"))
    storage.abort(upload)
    assert os.listdir(folder) == []


def test_a_part_that_was_cut_behind_our_back_is_found(storage: FolderStorage, folder: Path) -> None:
    upload = storage.begin("a.zip")
    part = storage.send(upload, 1, BytesBody(b"content"))
    for path in (folder / upload.token).glob("1-*"):
        os.truncate(path, 3)
    with pytest.raises(StorageError, match="part 1 is not as it was sent"):
        storage.complete(upload, [part])
    storage.abort(upload)


def test_an_upload_that_names_another_folder_is_refused(
    storage: FolderStorage, folder: Path
) -> None:
    victim = folder / "victim"
    victim.mkdir()
    for token in ("victim", f"{staging.PREFIX}upload-/../victim", f"{staging.PREFIX}1"):
        with pytest.raises(StorageError, match="no upload"):
            storage.abort(Upload("a.zip", token))
    assert victim.is_dir()


def test_folders_and_unfinished_work_are_no_files(storage: FolderStorage, folder: Path) -> None:
    (folder / "sub.zip").mkdir()
    (folder / "link.zip").symlink_to(folder / "gone.zip")
    assert list(storage.list()) == []
    assert storage.stat("sub.zip") is None
    with pytest.raises(ExistsError):
        storage.put("sub.zip", BytesBody(b"x"))
    with pytest.raises(StorageError, match="unfinished work"):
        storage.put(f"{staging.PREFIX}1", BytesBody(b"x"))
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError):
        storage.check()
