"""Duplicates: what counts as one, what happens to it, and that nothing is lost by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from inboxes import STAMP, Inbox, files_in, sha256

from pybak.inbox import pack


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_a_file_whose_content_was_stored_before_is_discarded_and_named(inbox: Inbox) -> None:
    inbox.put("a", b"same")
    inbox.round()
    inbox.put("sub/b", b"same")
    report = inbox.round()
    assert (report.status, report.files.duplicates, inbox.left) == ("success", 1, [])
    (result,) = report.results
    assert (result.path, result.status, result.duplicate_of) == ("sub/b", "duplicate", "a")
    assert result.destination == f"{inbox.target}/a_{STAMP}.gz"
    assert result.sha256 == sha256(b"same")
    assert inbox.stored == [f"a_{STAMP}.gz"]


def test_of_equal_files_in_one_round_the_first_by_name_is_stored(inbox: Inbox) -> None:
    for name in ("c", "a", "b"):
        inbox.put(name, b"same")
    report = inbox.round()
    assert [(one.path, one.status) for one in report.results] == [
        ("a", "done"), ("b", "duplicate"), ("c", "duplicate"),
    ]  # fmt: skip
    assert (inbox.unpacked(), inbox.left) == ({"a": b"same"}, [])


def test_a_copy_that_is_gone_makes_no_duplicate(inbox: Inbox) -> None:
    inbox.put("a", b"same")
    inbox.round()
    (inbox.target / f"a_{STAMP}.gz").unlink()
    inbox.put("b", b"same")
    report = inbox.round()
    assert (report.files.done, inbox.unpacked()) == (1, {"b": b"same"})
    assert report.bytes_read == 4


def test_a_copy_of_another_size_makes_no_duplicate(inbox: Inbox) -> None:
    inbox.put("a", b"same")
    inbox.round()
    with (inbox.target / f"a_{STAMP}.gz").open("ab") as file:
        file.write(b"tail")
    inbox.put("b", b"same")
    assert inbox.round().files.done == 1


def test_what_was_stored_elsewhere_makes_no_duplicate(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put("a", b"same")
    inbox.round(to=str(tmp_path / "elsewhere"))
    inbox.put("b", b"same")
    assert inbox.round().files.done == 1


def test_duplicates_are_stored_like_others_if_asked(inbox: Inbox) -> None:
    inbox.put("a", b"same")
    inbox.put("b", b"same")
    assert inbox.round(keep_duplicates=True).files.done == 2
    inbox.put("c", b"same")
    assert inbox.round(keep_duplicates=True).files.done == 1
    assert inbox.unpacked() == dict.fromkeys("abc", b"same")


@pytest.mark.parametrize("links", [True, False])
def test_duplicates_are_put_aside_if_asked(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    aside = tmp_path / "aside"
    for name in ("a", "sub/b"):
        inbox.put(name, b"same")
    inbox.round(duplicates_to=str(aside))
    assert (files_in(aside), (aside / "sub/b").read_bytes()) == (["sub/b"], b"same")
    inbox.put("sub/b", b"other")
    inbox.put("sub/c", b"other")
    inbox.round()
    path = inbox.put("sub/b", b"other")
    os.utime(path, ns=(10**18, 10**18))
    if not links:
        real = os.link

        def link(source: bytes, *given: object, **more: object) -> None:
            if more.get("dst_dir_fd") is None and b"taken" in source:
                raise OSError(18, "other device")
            real(source, *given, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "link", link)
    inbox.round(duplicates_to=str(aside))
    assert files_in(aside) == ["sub/b", "sub/b_2"]
    assert (aside / "sub/b_2").read_bytes() == b"other"
    assert (aside / "sub/b_2").stat().st_mtime_ns == 10**18
    assert inbox.left == []


def test_kept_duplicates_are_known_from_then_on(inbox: Inbox) -> None:
    inbox.put("a", b"same")
    inbox.put("b", b"same")
    report = inbox.round(keep=True)
    assert (report.files.done, report.files.duplicates) == (1, 1)
    report = inbox.round(keep=True)
    assert (report.status, report.files.known) == ("unchanged", 2)
    assert inbox.left == ["a", "b"]


def test_new_files_are_hashed_before_they_are_packed_only_if_one_of_their_size_is_stored(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    real = pack._digest

    def digest(fd: int, size: int, stop: object) -> str:
        hashed.append(size)
        return real(fd, size, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(pack, "_digest", digest)
    inbox.put("a", b"12345")
    inbox.put("b", b"54321")
    inbox.round()
    assert hashed == []
    inbox.put("c", b"123456")
    inbox.put("d", b"12345")
    inbox.round()
    assert hashed == [5]


def test_the_duplicate_of_a_file_that_could_not_be_stored_is_stored_itself(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pybak.errors import StorageError
    from pybak.inbox.folder_place import FolderPlace

    real = FolderPlace.put

    def put(place: FolderPlace, staged: Path, name: str, expected: object) -> None:
        if name.startswith("a_"):
            raise StorageError("the disk broke")
        real(place, staged, name, expected)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderPlace, "put", put)
    inbox.put("a", b"same")
    inbox.put("b", b"same")
    report = inbox.round()
    assert (report.status, inbox.left, inbox.unpacked()) == ("partial", ["a"], {"b": b"same"})


def test_the_duplicate_of_a_file_that_changes_meanwhile_is_stored_itself(inbox: Inbox) -> None:
    path = inbox.put("a", b"same")
    inbox.put("b", b"same")
    report = inbox.round(packed=lambda _run, _number: path.write_bytes(b"other"))
    assert report.files.waiting == 1
    inbox.round()
    assert (sorted(inbox.unpacked().values()), inbox.left) == ([b"other", b"same"], [])


def test_duplicates_are_found_across_parcels(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from pybak.inbox import parcels

    monkeypatch.setattr(parcels, "_LEAST_SECONDS", 0.0)
    for number in range(40):
        inbox.put(f"{number:02d}", b"%d" % (number % 7))
    report = inbox.round()
    assert (report.files.done, report.files.duplicates) == (7, 33)
    assert sorted(inbox.unpacked()) == [f"{number:02d}" for number in range(7)]
