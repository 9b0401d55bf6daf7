"""What operators with bad luck meet: copies that go after a kill, hard links, lost catalogs."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inboxes import NOON, STAMP, Inbox, files_in, killed_in

from pybak.errors import StorageError
from pybak.inbox import store
from pybak.inbox.run import InboxRun
from pybak.inbox.store import Store
from pybak.options.inbox import InboxOptions

LATER = NOON + timedelta(minutes=1)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


# -- a copy that goes between a kill and the next round


def killed_when_stored(inbox: Inbox, *, is_hidden: bool, **options: Any) -> None:
    """Have a round killed before it removes the sources, or when these have hidden names."""
    if is_hidden:
        killed_in(inbox, os, "unlink", lambda *_given, **more: "dir_fd" in more, **options)
    else:
        killed_in(inbox, Store, "_finish", lambda *_given: True, **options)
    assert inbox.rows("state") == [("stored",)]


@pytest.mark.parametrize("is_hidden", [False, True])
@pytest.mark.parametrize("how", ["gone", "spoilt"])
def test_a_source_is_not_removed_for_a_copy_that_went_after_a_kill(
    inbox: Inbox, how: str, *, is_hidden: bool
) -> None:
    inbox.put("sub/a", b"precious")
    killed_when_stored(inbox, is_hidden=is_hidden)
    path = inbox.target / f"sub/a_{STAMP}.gz"
    path.unlink() if how == "gone" else path.write_bytes(bytes(path.stat().st_size))
    inbox.round(now=LATER)
    assert inbox.left == []
    (name,) = set(inbox.stored) - ({f"sub/a_{STAMP}.gz"} if how == "spoilt" else set())
    assert gzip.decompress((inbox.target / name).read_bytes()) == b"precious"


def test_a_copy_that_went_from_one_of_two_places_is_made_again(
    inbox: Inbox, tmp_path: Path
) -> None:
    also = tmp_path / "also"
    inbox.put("a", b"precious")
    killed_when_stored(inbox, is_hidden=False, also_to=[str(also)])
    (also / f"a_{STAMP}.gz").unlink()
    inbox.round(now=LATER, also_to=[str(also)])
    assert (inbox.left, len(inbox.stored)) == ([], 1)
    assert files_in(also) == inbox.stored


def test_a_stored_file_whose_source_and_copy_are_gone_after_a_kill_stays_in_the_catalog(
    inbox: Inbox,
) -> None:
    """As where somebody takes away what comes to the destination."""
    inbox.put("a")
    killed_when_stored(inbox, is_hidden=False)
    (inbox.source / "a").unlink()
    (inbox.target / f"a_{STAMP}.gz").unlink()
    inbox.round(now=LATER)
    assert (inbox.stored, inbox.rows()) == ([], [("a", "done")])


# -- hard links


@pytest.mark.parametrize("options", [{}, {"keep_duplicates": True}, {"duplicates_to": "aside"}])
def test_all_names_of_a_file_with_hard_links_go_in_one_round(
    inbox: Inbox, tmp_path: Path, options: dict[str, Any]
) -> None:
    if "duplicates_to" in options:
        options = {"duplicates_to": str(tmp_path / "aside")}
    path = inbox.put("a", b"same")
    for name in "bcd":
        (inbox.source / name).hardlink_to(path)
    report = inbox.round(**options)
    assert (inbox.left, report.files.waiting) == ([], 0)
    assert report.files.done == (4 if "keep_duplicates" in options else 1)
    assert files_in(tmp_path / "aside") == (["b", "c", "d"] if "duplicates_to" in options else [])


def test_a_write_through_another_name_is_seen(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though size and mtime are as they were: ctime tells."""
    path = inbox.put("a", b"same")
    (inbox.source / "b").hardlink_to(path)
    before = path.stat()
    real = store.take

    def take(*given: Any) -> str:
        end = real(*given)
        if (inbox.source / "b").exists() and not path.exists():
            (inbox.source / "b").write_bytes(b"else")
            os.utime(inbox.source / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
        return end

    monkeypatch.setattr(store, "take", take)
    report = inbox.round()
    assert (report.files.waiting, inbox.left) == (1, ["b"])
    assert (inbox.source / "b").read_bytes() == b"else"


# -- an inbox that goes, clocks, names


def test_an_inbox_that_goes_while_files_are_packed_is_named(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("a")
    real = InboxRun.next_parcels

    def parcels(run: InboxRun) -> Any:
        found = real(run)
        inbox.source.rename(tmp_path / "away")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(InboxRun, "next_parcels", parcels)
        with pytest.raises(StorageError, match=f"{inbox.source}: .*check the inbox"):
            inbox.round()
    assert files_in(tmp_path / "away") == ["a"]
    assert (inbox.rows(), inbox.stored) == ([], [])
    (tmp_path / "away").rename(inbox.source)
    assert inbox.round().files.done == 1


def test_a_clock_that_is_set_back_makes_no_round_last_less_than_nothing(inbox: Inbox) -> None:
    begun = datetime.now(UTC) + timedelta(days=1)
    with InboxRun(str(inbox.source), str(inbox.target), InboxOptions(), now=begun) as run:
        assert run.duration_seconds >= 0


def test_names_are_as_long_as_time_and_ending_leave_room_for(inbox: Inbox) -> None:
    inbox.put("n" * 233)
    inbox.put("m" * 234)
    inbox.put("m" * 255)
    report = inbox.round()
    assert (report.files.done, report.files.failed) == (1, 2)
    assert inbox.left == ["m" * 234, "m" * 255]


@pytest.mark.parametrize("name", [b"\xff", b"line\nend", b" -p "])
def test_an_inbox_may_have_any_name(inbox: Inbox, name: bytes) -> None:
    inbox.source = inbox.source.rename(inbox.source.with_name(os.fsdecode(name)))
    inbox.put("a", b"first")
    assert inbox.round(keep=True).files.done == 1
    assert inbox.round(keep=True).files.known == 1


# -- a catalog that was lost


def lose_catalog(inbox: Inbox) -> None:
    for path in inbox.catalog.parent.glob("catalog.db*"):
        path.unlink()
    Inbox(inbox.catalog.parent)


def test_after_a_lost_catalog_no_copy_is_touched_and_kept_files_are_stored_beside(
    inbox: Inbox,
) -> None:
    """A rebuild knows nothing of inboxes either."""
    inbox.put("a", b"first")
    inbox.round(keep=True)
    before = (inbox.target / f"a_{STAMP}.gz").read_bytes()
    lose_catalog(inbox)
    assert inbox.round(keep=True).files.done == 1
    assert inbox.stored == [f"a_{STAMP}.gz", f"a_{STAMP}_2.gz"]
    assert (inbox.target / f"a_{STAMP}.gz").read_bytes() == before
    assert inbox.round(keep=True).files.known == 1


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_kill_and_a_lost_catalog_lose_no_file(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, *, is_hidden: bool
) -> None:
    inbox.put("a", b"first")
    killed_when_stored(inbox, is_hidden=is_hidden)
    lose_catalog(inbox)
    monkeypatch.setattr("pybak.inbox.scan.STRAY_SECONDS", 0)
    inbox.round(now=LATER)
    inbox.round(now=LATER)
    assert inbox.left == []
    assert {gzip.decompress((inbox.target / one).read_bytes()) for one in inbox.stored} == {
        b"first"
    }
