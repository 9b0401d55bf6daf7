"""Mirrors onto destinations that take `a` and `A` for one name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from caseblind import CaseBlind
from mirroring import assert_mirrored, done, errors, mirror, put

from pybak.mirror import run as mirror_run
from pybak.mirror.fidelity import Fidelity
from pybak.mirror.spelling import match_names
from pybak.report import PARTIAL, SUCCESS, UNCHANGED


@pytest.fixture
def src(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    for number in range(4):
        put(source / f"plain{number}")
    put(source / "Photos" / "One.jpg", "one")
    put(source / "Photos" / "Deep" / "two.jpg", "two")
    put(source / "f29", "file")
    return source


@pytest.fixture(params=[True, False], ids=["inodes", "no inodes"])
def dst(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dst").mkdir()
    kept = Fidelity(keeps_inodes=request.param)
    monkeypatch.setattr(mirror_run, "fidelity_of", lambda _path: kept)
    CaseBlind(tmp_path / "dst", monkeypatch)
    return tmp_path / "dst"


def files(folder: Path) -> dict[str, str]:
    """Give the content of all files that are not named `plain`, by their real names."""
    return {
        os.path.relpath(os.path.join(above, name), folder): Path(above, name).read_text()
        for above, _, names in os.walk(folder)
        for name in names
        if not name.startswith("plain")
    }


ALL = {"Photos/One.jpg": "one", "Photos/Deep/two.jpg": "two", "f29": "file"}


# -- names whose case changed in the source


def test_what_is_spelled_in_another_case_stays_what_it_is(src: Path, dst: Path) -> None:
    mirror(src, dst, delete=True)
    (src / "Photos").rename(src / "photos")
    (src / "photos" / "Deep").rename(src / "photos" / "DEEP")
    (src / "f29").rename(src / "F29")
    put(dst / "old")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.errors, report.skipped) == (SUCCESS, (), ())
    assert report.deleted_paths == ("old",)
    assert done(report) == {"unchanged": 7, "deleted": 1}
    assert files(dst) == ALL
    assert mirror(src, dst, delete=True).status == UNCHANGED


def test_what_changed_as_well_is_copied_over_it(src: Path, dst: Path) -> None:
    mirror(src, dst, delete=True)
    (src / "Photos").rename(src / "photos")
    put(src / "photos" / "One.jpg", "another")
    put(src / "photos" / "three.jpg", "three")
    (src / "photos" / "Deep" / "two.jpg").unlink()
    (src / "f29").unlink()
    put(src / "F29", "written anew")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.deleted_paths) == (SUCCESS, ("photos/Deep/two.jpg",))
    assert files(dst) == {
        "Photos/One.jpg": "another", "Photos/three.jpg": "three", "f29": "written anew"
    }  # fmt: skip
    assert mirror(src, dst, delete=True).status == UNCHANGED


def test_files_and_folders_take_each_others_places(src: Path, dst: Path) -> None:
    mirror(src, dst, delete=True)
    (src / "f29").unlink()
    put(src / "F29" / "x", "in a folder")
    for path in ("Photos/One.jpg", "Photos/Deep/two.jpg"):
        (src / path).unlink()
    (src / "Photos" / "Deep").rmdir()
    (src / "Photos").rmdir()
    put(src / "photos", "a file")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.errors, report.skipped) == (SUCCESS, (), ())
    assert files(dst) == {"F29/x": "in a folder", "photos": "a file"}
    assert mirror(src, dst, delete=True).status == UNCHANGED


def test_links_hard_links_and_one_file_alone_are_known_by_either_case(src: Path, dst: Path) -> None:
    os.link(src / "f29", src / "Other")
    (src / "Link").symlink_to("f29")
    mirror(src, dst, delete=True)
    for name in ("Other", "Link", "f29"):
        (src / name).rename(src / name.swapcase())
    assert done(mirror(src, dst, delete=True)) == {"unchanged": 9}
    assert done(mirror(src / "F29", dst)) == {"unchanged": 1}


def test_what_patterns_leave_out_is_not_deleted_under_another_case(src: Path, dst: Path) -> None:
    mirror(src, dst, delete=True)
    (src / "Photos").rename(src / "PHOTOS")
    report = mirror(src, dst, delete=True, exclude=["/PHOTOS/"])
    assert report.deleted_paths == ()
    assert files(dst) == ALL


def test_it_begins_ahead_and_in_pieces(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(src, dst)
    (src / "Photos").rename(src / "photos")
    monkeypatch.setattr("pybak.mirror.walk._FIRST_AHEAD", 1)
    report = mirror(src, dst, delete=True, ahead=True, cluster="threads")
    assert done(report) == {"unchanged": 7}


# -- names of the source that are one in the destination


def test_the_first_of_two_names_is_copied_and_the_other_is_an_error(src: Path, dst: Path) -> None:
    put(src / "clash", "lower")
    put(src / "CLASH", "UPPER")
    put(src / "photos" / "One.jpg", "other")
    put(dst / "old")
    for expected in ({"copied": 8, "failed": 1}, {"unchanged": 8, "failed": 1}):
        report = mirror(src, dst, delete=True)
        assert report.status == PARTIAL
        assert errors(report) == {"clash": "storage", "photos": "storage", "": "delete_limit"}
        message = next(one.message for one in report.errors if one.path == "clash")
        assert message.startswith("differs only by case from CLASH, which")
        assert done(report) == expected
        assert files(dst) == {**ALL, "CLASH": "UPPER", "old": "x"}


def test_what_is_there_stays_when_a_name_joins_it(src: Path, dst: Path) -> None:
    put(src / "clash", "lower")
    mirror(src, dst)
    put(src / "CLASH", "UPPER")
    report = mirror(src, dst, delete=True)
    assert errors(report) == {"CLASH": "storage"}
    assert files(dst) == {**ALL, "clash": "lower"}


def test_what_patterns_leave_out_clashes_with_nothing(src: Path, dst: Path) -> None:
    put(src / "clash", "lower")
    put(src / "CLASH", "UPPER CASE")
    report = mirror(src, dst, delete=True, exclude=["/CLASH"])
    assert (report.status, report.files.excluded) == (SUCCESS, 1)
    assert files(dst) == {**ALL, "clash": "lower"}
    mirror(src, dst, delete=True, exclude=["/clash"])
    assert files(dst) == {**ALL, "clash": "UPPER CASE"}
    assert mirror(src, dst, delete=True, exclude=["/clash"]).files.copied == 0


def test_names_that_the_destination_tells_apart_are_no_clash() -> None:
    """What is one name for some file systems is two for others, so they are asked."""

    def match(names: list[str], listed: list[str], seen: set[str]) -> tuple[object, ...]:
        there = {name: os.stat("/") for name in listed}
        clashing = match_names(
            names, there, is_seen=seen.__contains__, is_left_out=lambda _name: False
        )
        return clashing, set(there)

    both = ["straße", "strasse"]
    assert match(both, [], set()) == ({"straße": "strasse"}, set())
    assert match(both, ["strasse"], {"strasse"}) == ({}, {"strasse"})
    assert match(both, both, set(both)) == ({}, set(both))
    assert match(["strasse"], ["straße"], {"straße"}) == ({}, {"straße"})
    assert match(["STRASSE"], ["strasse"], {"STRASSE"}) == ({}, {"STRASSE"})
    assert match(["e\u0301"], ["\u00e9"], {"e\u0301"}) == ({}, {"e\u0301"})


# -- the last look before something goes


@pytest.mark.parametrize("keeps_inodes", [True, False])
def test_nothing_goes_that_the_source_has_under_another_case_whatever_was_found_out(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_inodes: bool
) -> None:
    """As in one folder that ignores case, in a destination that does not."""
    dst = tmp_path / "dst"
    kept = Fidelity(keeps_inodes=keeps_inodes)
    monkeypatch.setattr(mirror_run, "fidelity_of", lambda _path: kept)
    monkeypatch.setattr(mirror_run, "ignores_case", lambda *_, **__: False)
    put(src / "sub" / "Photos" / "One.jpg", "one")
    mirror(src, dst)
    CaseBlind(dst / "sub", monkeypatch)
    (src / "sub" / "Photos").rename(src / "sub" / "photos")
    put(dst / "sub" / "Photos" / "old")
    report = mirror(src, dst, delete=True)
    assert (report.status, report.deleted_paths) == (SUCCESS, ("sub/Photos/old",))
    assert files(dst) == {**ALL, "sub/Photos/One.jpg": "one"}
    assert ("sub/Photos", "exists") in [(one.path, one.code) for one in report.skipped]


def test_nothing_goes_that_the_source_has_with_dots_at_its_end(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dst").mkdir()
    monkeypatch.setattr(mirror_run, "fidelity_of", lambda _path: Fidelity(keeps_inodes=False))
    CaseBlind(tmp_path / "dst", monkeypatch, drops_end=True)
    put(src / "etc.", "dots")
    mirror(src, tmp_path / "dst")
    report = mirror(src, tmp_path / "dst", delete=True)
    assert report.deleted_paths == ()
    assert files(tmp_path / "dst") == {**ALL, "etc": "dots"}


def test_where_case_counts_the_old_spelling_goes(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    mirror(src, dst, delete=True)
    (src / "Photos").rename(src / "photos")
    (src / "f29").rename(src / "F29")
    report = mirror(src, dst, delete=True)
    assert (report.files.deleted, report.folders_deleted, report.skipped) == (3, 2, ())
    assert_mirrored(src, dst)
