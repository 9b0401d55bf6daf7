"""What goes wrong with one file costs that file alone, is named, and leaves the source."""

from __future__ import annotations

import errno
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
from inboxes import Inbox, die_in_round, killed_before_stored

from pybak.catalog.failures import CatalogError
from pybak.errors import Interrupted, StorageError
from pybak.inbox import check, pack, parcels
from pybak.inbox.journal import Journal
from pybak.inbox.run import InboxRun

PASSWORD = b"a long enough password"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


@pytest.mark.needs_root
def test_a_full_disk_fails_the_files_that_do_not_fit_and_stores_the_others(
    inbox: Inbox, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        inbox.put("large", os.urandom(3 << 20))
        inbox.put("small", b"x" * 1000)
        report = inbox.round(to=str(disk))
        assert (report.status, inbox.left) == ("partial", ["large"])
        assert [(one.path, one.code) for one in report.errors] == [("large", "storage")]
        assert "no space left" in report.errors[0].message
        assert len(list(disk.iterdir())) == 1
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.needs_root
def test_a_disk_that_many_small_files_fill_takes_what_it_can(inbox: Inbox, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        for number in range(400):
            inbox.put(f"{number:03d}", os.urandom(4000))
        report = inbox.round(to=str(disk))
        assert report.status == "partial"
        assert report.files.done > 100
        assert len(inbox.left) == report.files.failed == 400 - report.files.done
        assert len(list(disk.iterdir())) == report.files.done
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unreadable_file_is_named_and_stays(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a")
    inbox.put("b", b"bad")
    real = os.open

    def refuse(path: object, *given: object, **more: object) -> int:
        if path == b"b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    report = inbox.round()
    monkeypatch.undo()
    assert (report.status, report.exit_code, inbox.left) == ("partial", 3, ["b"])
    assert [(one.path, one.code) for one in report.errors] == [("b", "unreadable")]


def test_what_does_not_read_back_is_not_stored(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a", b"x" * 100_000)
    real = pack.encode

    def flip(out: int, *given: object, **more: object) -> object:
        read = real(out, *given, **more)  # type: ignore[arg-type]
        byte = os.pread(out, 1, 40)
        os.pwrite(out, bytes([byte[0] ^ 4]), 40)
        return read

    monkeypatch.setattr(pack, "encode", flip)
    report = inbox.round()
    assert (report.status, inbox.left, inbox.stored) == ("partial", ["a"], [])
    assert report.errors[0].code == "damaged"


@pytest.mark.parametrize("file_format", ["gz", "zip", "tar.gz", "tar.bz2", "tar.zst"])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_the_check_finds_any_flipped_byte(
    inbox: Inbox, file_format: str, password: bytes | None
) -> None:
    inbox.put("a", b"some text\n" * 20)
    inbox.round(format=file_format, password=password)
    path = os.fsencode(inbox.target / inbox.stored[0])
    data = Path(os.fsdecode(path)).read_bytes()
    expected = check.Read(200, inbox.rows("sha256")[0][0])
    check.check_packed(path, file_format, password, expected)
    missed = 0
    for at in range(len(data)):
        Path(os.fsdecode(path)).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            check.check_packed(path, file_format, password, expected)
        except (pack.ArchiveError, pack.StorageError):
            continue
        missed += 1
    # Times, modes and the like are no content; of formats with few such bytes few are missed.
    assert missed < len(data) / 2


@pytest.mark.needs_root
def test_a_folder_that_can_not_be_written_is_told_before_anything_is_packed(
    inbox: Inbox, open_dir: Path
) -> None:
    source = open_dir / "in"
    source.mkdir()
    (source / "a").write_bytes(b"x")
    inner = Inbox(open_dir)
    source.chmod(0o555)
    code = os.fork()
    if code == 0:
        os.chmod(open_dir / "catalog.db", 0o666)
        os.setgid(65534)
        os.setuid(65534)
        report = inner.round()
        is_right = report.status == "partial" and "can't be removed" in report.errors[0].message
        os._exit(0 if is_right and not (open_dir / "out").exists() else 1)
    assert os.waitpid(code, 0)[1] == 0
    assert inner.round(keep=True).files.done == 1


def test_a_source_that_can_not_be_removed_is_as_before(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a")
    real = os.rename

    def refuse(*given: object, **more: object) -> None:
        if more:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", refuse)
    report = inbox.round()
    monkeypatch.undo()
    assert (report.status, inbox.left, inbox.stored) == ("partial", ["a"], [])
    assert inbox.rows() == []
    assert inbox.round().files.done == 1


def test_a_catalog_that_can_not_be_used_leaves_all_as_it_was(inbox: Inbox) -> None:
    """(case 95)"""
    inbox.put("a")
    inbox.catalog.write_bytes(b"this is no database, but it is long enough to be one" * 20)
    with pytest.raises(CatalogError) as caught:
        inbox.round()
    assert (inbox.left, inbox.target.exists(), caught.value.exit_code) == (["a"], False, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["plan", "made", "move", "discard"])
def test_a_catalog_that_fails_half_way_loses_nothing(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    inbox.put("a", b"first")
    inbox.put("b", b"first")

    def fail(*_given: object, **_more: object) -> None:
        raise CatalogError("the catalog is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, method, fail)
        with pytest.raises(CatalogError):
            inbox.round()
    inbox.round()
    assert (inbox.left, inbox.unpacked()) == ([], {"a": b"first"})
    assert {state for _, state in inbox.rows()} == {"done", "duplicate"}


def test_a_destination_that_is_a_file_is_told(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("a")
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(StorageError):
        inbox.round()
    assert inbox.left == ["a"]


def test_a_name_that_somebody_takes_meanwhile_is_left_to_them(inbox: Inbox) -> None:
    inbox.put("a", b"ours")

    def take(run: object, _number: int) -> None:
        name = next(iter(run._batches.intents.values())).name  # type: ignore[attr-defined]
        (inbox.target / name).write_bytes(b"theirs")

    report = inbox.round(packed=take)
    assert (report.files.waiting, inbox.left) == (1, ["a"])
    assert (inbox.target / inbox.stored[0]).read_bytes() == b"theirs"
    assert inbox.round().files.done == 1


def test_file_systems_without_hard_links_get_files_too(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object, **_more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    inbox.put("a", b"first")
    inbox.round()
    assert (inbox.unpacked(), inbox.left) == ({"a": b"first"}, [])


def test_what_a_killed_run_left_at_a_place_that_is_away_waits_for_it(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.put("a", b"first")
    killed_before_stored(inbox)
    assert inbox.rows() == [("a", "made")]
    inbox.target.rename(tmp_path / "away")
    inbox.target.write_bytes(b"no folder")
    inbox.put("b", b"second")
    with pytest.raises(StorageError):
        inbox.round()
    inbox.target.unlink()
    (tmp_path / "away").rename(inbox.target)
    inbox.round()
    assert (inbox.left, inbox.unpacked()) == ([], {"a": b"first", "b": b"second"})


def test_a_round_that_is_stopped_stores_what_is_packed_and_leaves_the_rest(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    monkeypatch.setattr(parcels, "_LEAST_SECONDS", 0.0)
    for number in range(40):
        inbox.put(f"{number:02d}", b"%d" % number)

    def stop(run: InboxRun, number: int) -> None:
        if number == 1:
            run.request_cancel()

    with pytest.raises(Interrupted, match="the others are as they were"):
        inbox.round(packed=stop)
    stored = inbox.unpacked()
    assert 0 < len(stored) < 40
    assert sorted([*stored, *inbox.left]) == [f"{number:02d}" for number in range(40)]
    assert {state for _, state in inbox.rows()} == {"done"}
    assert inbox.round().files.done == 40 - len(stored)


def test_a_large_file_is_given_up_in_the_middle_when_asked_to_stop(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("large", b"x" * (30 << 20))
    seen: list[int] = []
    real = pack.staging.is_cancelled

    def is_cancelled(folder: Path) -> bool:
        seen.append(1)
        return len(seen) > 4 or real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(pack.staging, "is_cancelled", is_cancelled)
        report = inbox.round()
    assert (report.files.done, inbox.left, inbox.stored) == (0, ["large"], [])
    assert len(seen) == 5
    assert inbox.round().files.done == 1


def test_both_databases_are_journals(any_catalog: str, inbox: Inbox) -> None:
    """(case 94)"""
    for name in ("a", "sub/b", os.fsdecode(b"\xff")):
        inbox.put(name, name.encode("utf-8", "surrogateescape"))
    inbox.put("c", b"a")
    steps = 0
    work = partial(inbox.round, catalog_url=any_catalog, also_to=[f"{inbox.target}-2"])
    while steps < 60 and die_in_round(inbox, steps, work):
        steps += 7
        report = work()
        assert report.files.failed == 0
        assert inbox.left == []
        inbox.put("d", b"%d" % steps)
    assert steps > 14
    kept = partial(inbox.round, catalog_url=any_catalog, keep=True)
    inbox.put("d", b"kept")
    kept()
    assert kept().files.known == 1
