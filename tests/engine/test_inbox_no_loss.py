"""Nothing is lost: two inboxes at once, damaged copies, places that are away, writers."""

from __future__ import annotations

import gzip
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from inboxes import NOON, STAMP, Inbox, files_in, killed_before_stored, killed_in
from memory import MemoryStorage, use_also
from sqlalchemy.engine.default import DefaultDialect

from pybak.backup.rules import Rules
from pybak.errors import StorageError
from pybak.folders import Folders
from pybak.inbox import parcels, scan, settle, store, taking
from pybak.inbox.folder_place import FolderPlace
from pybak.inbox.found import hidden_name

LATER = NOON + timedelta(minutes=1)
ADDRESS = "s3://nas/inbox"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


@pytest.fixture
def second(inbox: Inbox, tmp_path: Path) -> Inbox:
    """An inbox with the same destination and catalog."""
    other = Inbox(tmp_path)
    other.source = tmp_path / "in2"
    other.source.mkdir()
    return other


def everything(*inboxes: Inbox) -> set[bytes]:
    """What lies in inboxes and at the destination of the first."""
    found = {gzip.decompress((inboxes[0].target / one).read_bytes()) for one in inboxes[0].stored}
    return found.union((one.source / name).read_bytes() for one in inboxes for name in one.left)


def killed_before_unlink(inbox: Inbox) -> str:
    """Kill a round before it deletes a source; give its hidden name."""
    killed_in(inbox, os, "unlink", lambda *_given, **more: more.get("dir_fd") is not None)
    (hidden,) = hidden_in(inbox)
    return hidden


def hidden_in(inbox: Inbox) -> list[str]:
    return [name for name in inbox.left if "taken" in name]


# -- two inboxes


def test_no_duplicate_is_discarded_for_a_copy_that_may_be_taken_back(
    inbox: Inbox, second: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("x", b"precious")
    second.put("y", b"precious")
    real = store.take

    def late(*given: Any) -> str:
        monkeypatch.setattr(store, "take", real)
        second.round(now=LATER)
        (inbox.source / "x").write_bytes(b"overwrit")
        return real(*given)

    monkeypatch.setattr(store, "take", late)
    assert inbox.round().files.waiting == 1
    assert everything(inbox, second) == {b"precious", b"overwrit"}


def test_two_inboxes_never_choose_one_name(inbox: Inbox, second: Inbox) -> None:
    for one in (inbox, second):
        os.utime(one.put("a", b"same"), ns=(10**18, 10**18))

    def packed(_run: object, _number: int) -> None:
        assert inbox.round(keep_duplicates=True).files.done == 1
        with (second.source / "a").open("ab") as file:
            file.write(b" and more")

    report = second.round(packed=packed, keep_duplicates=True)
    assert (report.files.waiting, second.left) == (1, ["a"])
    assert inbox.stored == [f"a_{STAMP}_2.gz"]
    assert everything(inbox, second) == {b"same", b"same and more"}


def test_what_another_row_names_is_not_taken_back(
    inbox: Inbox, second: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One inbox has as a further place what is the other's destination."""
    for one in (inbox, second):
        os.utime(one.put("a", b"same"), ns=(10**18, 10**18))

    class KilledError(BaseException):
        pass

    def die(*_given: object) -> None:
        raise KilledError

    options: dict[str, Any] = {"to": str(tmp_path / "else"), "also_to": [str(inbox.target)]}
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "_put_one", die)
        with pytest.raises(KilledError):
            second.round(**options)
    inbox.round()
    with (second.source / "a").open("ab") as file:
        file.write(b" and more")
    second.round(now=LATER, **options)
    assert (inbox.left, second.left) == ([], [])
    assert everything(inbox) == {b"same", b"same and more"}


def test_what_has_the_name_already_is_never_removed(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with the same bytes: somebody else may have stored it."""
    inbox.put("a", b"same")
    real = FolderPlace.put

    def put(place: FolderPlace, staged: Path, name: str, expected: Any) -> None:
        (tmp_path / "out" / name).write_bytes(staged.read_bytes())
        real(place, staged, name, expected)

    monkeypatch.setattr(FolderPlace, "put", put)
    report = inbox.round()
    assert (report.files.waiting, inbox.left, len(inbox.stored)) == (1, ["a"], 1)
    assert inbox.rows() == []


def test_what_is_stored_stays_if_its_source_goes_while_a_place_fails(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.put("a", b"first")
    real = FolderPlace.put

    def put(place: FolderPlace, staged: Path, name: str, expected: Any) -> None:
        real(place, staged, name, expected)
        path.unlink()
        raise StorageError("the disk broke")

    monkeypatch.setattr(FolderPlace, "put", put)
    report = inbox.round()
    assert (report.status, everything(inbox)) == ("partial", {b"first"})


def test_a_name_that_was_used_is_not_used_again(inbox: Inbox) -> None:
    inbox.put("a", b"first")
    inbox.round()
    (inbox.target / f"a_{STAMP}.gz").unlink()
    inbox.put("a", b"second")
    inbox.round()
    assert inbox.stored == [f"a_{STAMP}_2.gz"]


# -- duplicates


def test_a_damaged_copy_makes_no_duplicate(inbox: Inbox) -> None:
    inbox.put("a", b"same" * 1000)
    inbox.round()
    path = inbox.target / inbox.stored[0]
    path.write_bytes(bytes(path.stat().st_size))
    inbox.put("b", b"same" * 1000)
    inbox.put("c", b"same" * 1000)
    report = inbox.round(now=LATER)
    assert (report.files.done, report.files.duplicates, inbox.left) == (1, 1, [])


@pytest.mark.parametrize("spoil", [True, False])
def test_a_copy_that_goes_within_the_round_makes_no_duplicate(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, spoil: bool
) -> None:
    monkeypatch.setattr(parcels, "_LEAST_SECONDS", 0.0)
    for name in "abc":
        inbox.put(name, b"same" * 10)

    def packed(_run: object, number: int) -> None:
        for name in inbox.stored:
            path = inbox.target / name
            if number == 1 and not name.startswith("."):
                path.write_bytes(bytes(path.stat().st_size)) if spoil else path.unlink()

    report = inbox.round(packed=packed, workers=1)
    assert (report.files.failed, inbox.left) == (0, [])
    good = [one for one in inbox.stored if (inbox.target / one).read_bytes()[:2] == b"\x1f\x8b"]
    assert len(good) == 1


def test_a_copy_is_read_once_for_all_its_duplicates(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a", b"same")
    inbox.round()
    for name in "bcd":
        inbox.put(name, b"same")
    read: list[str] = []
    real = FolderPlace.holds

    def holds(place: FolderPlace, name: str, expected: Any) -> bool:
        read.append(name)
        return real(place, name, expected)

    monkeypatch.setattr(FolderPlace, "holds", holds)
    assert inbox.round(now=LATER).files.duplicates == 3
    assert read == [f"a_{STAMP}.gz"]


def test_a_copy_must_be_at_all_places_to_make_a_duplicate(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("a", b"same")
    inbox.round()
    inbox.put("b", b"same")
    also = tmp_path / "also"
    assert inbox.round(now=LATER, also_to=[str(also)]).files.done == 1
    inbox.put("c", b"same")
    assert inbox.round(now=LATER, also_to=[str(also)]).files.duplicates == 1
    assert [one.split("_")[0] for one in files_in(also)] == ["b"]


# -- kept files


@pytest.mark.parametrize("options", [{}, {"keep_duplicates": True}, {"duplicates_to": "aside"}])
def test_a_file_that_was_kept_is_removed_later_as_itself(
    inbox: Inbox, tmp_path: Path, options: dict[str, Any]
) -> None:
    if "duplicates_to" in options:
        options = {"duplicates_to": str(tmp_path / "aside")}
    inbox.put("a", b"first")
    inbox.round(keep=True)
    report = inbox.round(now=LATER, **options)
    assert (report.status, report.files.known, report.files.duplicates) == ("success", 1, 0)
    (result,) = report.results
    assert (result.status, result.duplicate_of) == ("removed", None)
    assert "1 file stored earlier removed" in report.headline()
    assert (inbox.left, inbox.stored) == ([], [f"a_{STAMP}.gz"])
    assert files_in(tmp_path / "aside") == []


def test_a_file_that_was_kept_is_not_removed_for_a_damaged_copy(inbox: Inbox) -> None:
    inbox.put("a", b"first")
    inbox.round(keep=True)
    path = inbox.target / inbox.stored[0]
    path.write_bytes(bytes(path.stat().st_size))
    assert inbox.round(now=LATER).files.done == 1


def test_a_kept_file_whose_copy_is_gone_is_stored_again(inbox: Inbox) -> None:
    inbox.put("a", b"first")
    inbox.put("b", b"first")
    inbox.round(keep=True)
    assert inbox.round(keep=True).files.known == 2
    (inbox.target / inbox.stored[0]).unlink()
    report = inbox.round(keep=True, now=LATER)
    assert (report.files.done, report.files.duplicates, report.files.known) == (1, 1, 0)
    assert inbox.round(keep=True).files.known == 2


# -- after a kill


def test_a_hidden_file_that_is_open_for_writing_is_given_back(inbox: Inbox) -> None:
    inbox.put("log", b"first\n")
    with (inbox.source / killed_before_unlink(inbox)).open("ab") as file:
        inbox.round(now=LATER)
        file.write(b"second\n")
    assert (inbox.source / "log").read_bytes() == b"first\nsecond\n"
    assert hidden_in(inbox) == []


@pytest.mark.parametrize("how", ["inode", "size", "mtime"])
def test_a_hidden_file_that_is_another_by_now_is_given_back(inbox: Inbox, how: str) -> None:
    inbox.put("log", b"first\n")
    path = inbox.source / killed_before_unlink(inbox)
    before = path.stat()
    if how == "inode":
        (inbox.source / "new").write_bytes(b"other\n")
        (inbox.source / "new").rename(path)
    elif how == "size":
        with path.open("ab") as file:
            file.write(b"second\n")
    else:
        path.write_bytes(b"other\n")
    if how != "mtime":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    content = path.read_bytes()
    inbox.round(now=LATER)
    inbox.round(now=LATER)
    assert content in everything(inbox)
    assert (inbox.left, len(inbox.stored)) == ([], 2)


def test_a_hidden_file_whose_name_is_taken_gets_a_numbered_one(inbox: Inbox) -> None:
    inbox.put("log", b"first\n")
    with (inbox.source / killed_before_unlink(inbox)).open("ab") as file:
        inbox.put("log", b"new\n")
        inbox.round(now=LATER)
        file.write(b"second\n")
    assert (inbox.source / "log_2").read_bytes() == b"first\nsecond\n"
    assert inbox.left == ["log_2"]


def test_a_hidden_file_without_a_row_gets_its_name_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the catalog was lost."""
    hidden = hidden_name("abcd", b"log").decode()
    inbox.put(hidden, b"first\n")
    assert inbox.round().status == "unchanged"  # it may be being taken
    monkeypatch.setattr(scan, "STRAY_SECONDS", 0)
    assert inbox.round().files.waiting == 1
    assert inbox.left == ["log"]
    inbox.put(hidden, b"other\n")
    inbox.round(now=LATER)
    inbox.round(now=LATER)
    assert inbox.left == []
    assert everything(inbox) == {b"first\n", b"other\n"}


def test_names_that_look_like_hidden_ones_are_names(inbox: Inbox) -> None:
    inbox.put(".pybak-taken-1", b"x")
    assert inbox.round().files.done == 1


def test_a_place_that_is_gone_for_good_keeps_no_file_waiting(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(MemoryStorage):
        is_dead = False

        def stat(self, name: str) -> Any:
            if self.is_dead:
                raise StorageError("it is down")
            return super().stat(name)

        def put(self, *_given: Any, **_more: Any) -> Any:
            self.is_dead = True
            raise StorageError("it is down")

    use_also(monkeypatch, Dead(ADDRESS))
    inbox.put("a", b"first")
    assert inbox.round(also_to=[ADDRESS]).files.failed == 1
    report = inbox.round(now=LATER, also_to=[ADDRESS])
    assert (report.files.failed, inbox.left) == (1, ["a"])
    assert "killed" not in report.errors[0].message
    report = inbox.round(now=LATER)
    assert (report.files.done, inbox.left, everything(inbox)) == (1, [], {b"first"})
    assert f"a copy may lie at {ADDRESS}/a_{STAMP}.gz" in report.errors[0].message
    assert inbox.round(now=LATER).status == "unchanged"


def test_a_destination_that_is_away_after_a_kill_loses_no_row(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("log", b"first\n")
    killed_before_stored(inbox)
    assert inbox.rows() == [("log", "made")]
    inbox.target.rename(tmp_path / "away")
    report = inbox.round(now=LATER)
    assert (report.files.failed, inbox.left, inbox.target.exists()) == (1, ["log"], False)
    assert "is it mounted" in report.errors[0].message
    (tmp_path / "away").rename(inbox.target)
    inbox.round(now=LATER)
    assert (inbox.left, everything(inbox), len(inbox.stored)) == ([], {b"first\n"}, 1)


# -- taking


def test_a_folder_that_is_moved_out_of_the_inbox_is_left_alone(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.put("sub/a", b"first")
    moved = tmp_path / "moved"
    inbox.round(packed=lambda _run, _number: (inbox.source / "sub").rename(moved))
    assert (moved / "a").read_bytes() == b"first"


def test_a_file_that_is_written_before_its_rename_gets_its_name_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no leases, only the look after the rename tells."""
    monkeypatch.setattr(settle, "_SET_LEASE", None)
    path = inbox.put("a", b"first")
    (found,) = scan.scan(os.fsencode(inbox.source), Rules(), settle_seconds=0, now_ns=0).files
    real = os.rename

    def rename(*given: Any, **more: Any) -> None:
        path.write_bytes(b"other content")
        real(*given, **more)

    monkeypatch.setattr(taking.os, "rename", rename)
    with Folders(os.fsencode(inbox.source)) as folders:
        assert taking.take(folders, found, hidden_name("0000", b"a")) == taking.CHANGED
    assert (inbox.left, path.read_bytes()) == (["a"], b"other content")


def test_a_file_that_is_replaced_before_its_rename_gets_its_name_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.put("a", b"first")
    (found,) = scan.scan(os.fsencode(inbox.source), Rules(), settle_seconds=0, now_ns=0).files
    real = os.rename

    def rename(*given: Any, **more: Any) -> None:
        if more:
            (inbox.source / "new").write_bytes(b"other")
            real(inbox.source / "new", path)
        real(*given, **more)

    monkeypatch.setattr(taking.os, "rename", rename)
    with Folders(os.fsencode(inbox.source)) as folders:
        assert taking.take(folders, found, hidden_name("0000", b"a")) == taking.REPLACED
    assert (inbox.left, path.read_bytes()) == (["a"], b"other")


def test_everything_is_on_the_disk_before_the_source_goes(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inbox.put("a", b"first")
    told: list[str] = []
    fsync, link, unlink = os.fsync, os.link, os.unlink
    commit: Any = DefaultDialect.do_commit

    def synced(fd: int) -> None:
        at = Path(os.readlink(f"/proc/self/fd/{fd}"))
        kinds = {inbox.target: "target", inbox.source: "source"}
        if at in kinds or at.suffix == ".made":
            told.append(f"sync {kinds.get(at, 'made')}")
        fsync(fd)

    def linked(*given: Any, **more: Any) -> None:
        told.append("link")
        link(*given, **more)

    def unlinked(target: Any, **more: Any) -> None:
        if isinstance(target, bytes) and b"taken" in target:
            told.append("unlink")
        unlink(target, **more)

    def committed(*given: Any) -> None:
        told.append(f"commit {','.join(state for _, state in inbox.rows())}")
        commit(*given)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(DefaultDialect, "do_commit", committed)
    inbox.round()
    assert not path.exists()
    changes = [one for one in told if not one.startswith("commit")]
    assert changes[:1] == ["sync made"]
    at = told.index("link")
    assert changes[changes.index("link") :] == ["link", "sync target", "unlink", "sync source"]
    # Between each two of them the catalog is told; a commit names what was committed before it.
    assert told.index("sync made") < at < told.index("sync target") < told.index("unlink")
    assert any(one.startswith("commit") for one in told[told.index("sync made") : at])
    between = told[told.index("sync target") : told.index("unlink")]
    assert "commit made" in between
