"""Where requests may have files read or written: nowhere outside the roots, whatever they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.api.problems import Problem
from pybak.api.roots import Roots
from pybak.errors import PlanError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a root with folders in it, and a secret beside it."""
    (tmp_path / "root" / "docs").mkdir(parents=True)
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "secret").write_text("x")
    return tmp_path


def refused(roots: Roots, place: str) -> None:
    with pytest.raises(Problem) as raised:
        roots.check(place)
    assert (raised.value.status, raised.value.code) == (403, "outside-roots")


def test_what_is_below_a_root_is_given_as_it_really_is(place: Path) -> None:
    roots = Roots("sources", [str(place / "root")])
    assert roots.check(str(place / "root")) == str(place / "root")
    assert roots.check(f"{place}/root/docs/../docs/") == str(place / "root" / "docs")
    assert roots.check(f"{place}/root/not/there/yet") == f"{place}/root/not/there/yet"


@pytest.mark.parametrize(
    "escape",
    [
        "{0}/secret", "{0}/root/../secret", "{0}/root/docs/../../secret", "{0}/root-beside",
        "{0}/root/docs/../../root-beside", "/", "", ".", "docs", "../secret", "~", "~root",
        "/etc/passwd", "//etc/passwd", "file://{0}/secret", "file://{0}/root/%2e%2e/secret",
        "file://{0}/root%00/../secret", "{0}/root\0/x", "file:///etc/passwd", "s3://bucket/x",
        "block:x", "FILE://{0}/root", "http://example.org/", "{0}/root/../root-beside/x",
    ],
)  # fmt: skip
def test_ways_out_are_refused_with_the_same_words(place: Path, escape: str) -> None:
    refused(Roots("sources", [str(place / "root")]), escape.format(place))


def test_links_count_as_what_they_lead_to(place: Path) -> None:
    root = place / "root"
    (root / "out").symlink_to(place / "secret")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "in").symlink_to("docs")
    (place / "way-in").symlink_to(root)
    roots = Roots("sources", [str(root)])
    for name in ("out", "up", "up/secret", "up/root-beside", "in/../../secret"):
        refused(roots, str(root / name))
    assert roots.check(str(root / "in")) == str(root / "docs")
    assert roots.check(str(place / "way-in" / "docs")) == str(root / "docs")
    assert Roots("sources", [str(place / "way-in")]).check(str(root / "docs"))


def test_without_roots_nothing_is_allowed(place: Path) -> None:
    refused(Roots("sources", []), str(place / "root"))


def test_names_that_are_no_utf8_stay_what_they_are(place: Path) -> None:
    odd = os.fsencode(place / "root") + b"/caf\xe9"
    os.mkdir(odd)
    given_as = f"file://{place}/root/caf%E9"
    assert Roots("sources", [str(place / "root")]).check(given_as) == given_as


@pytest.mark.parametrize(
    ("root", "allowed", "refusals"),
    [
        (
            "s3://bucket/prefix",
            ["s3://bucket/prefix", "s3://bucket/prefix/", "s3://bucket/prefix/a/b"],
            ["s3://bucket", "s3://bucket/prefix2", "s3://bucket/prefix/../x", "s3://other/prefix",
             "s3://bucket/prefix//x", "s3://bucket/prefix/./x", "gs://bucket/prefix",
             "s3:bucket/prefix", "s3://bucket/prefix/a?x", "s3://bucket/prefix/%2e%2e/x",
             "s3://bucket/prefix/a\\..\\x", "s3://user@bucket/prefix", "s3://bucket/prefix/\n"],
        ),
        (
            "block:offsite",
            ["block:offsite", "block:offsite/a"],
            ["block:offsite2", "block:", "block:other/offsite", "block:offsite/../x", "block:/x"],
        ),
        (
            "block:s3-bucket/offsite",
            ["block:s3-bucket/offsite/x"],
            ["block:s3-bucket", "block:s3-bucket/other"],
        ),
    ],
)  # fmt: skip
def test_addresses_of_storages_are_judged_by_their_parts(
    root: str, allowed: list[str], refusals: list[str]
) -> None:
    roots = Roots("destinations", [root])
    for address in allowed:
        assert roots.check(address) == address
    for address in refusals:
        refused(roots, address)


@pytest.mark.parametrize("root", ["relative", "s3://", "block:", "~/x", "s3://bucket/../x"])
def test_a_root_that_is_none_is_refused_at_once(root: str) -> None:
    with pytest.raises(PlanError):
        Roots("sources", [root])


@given(st.lists(st.sampled_from(["..", ".", "docs", "", "root", "secret", "root-beside"])))
def test_no_path_of_any_parts_leads_out(parts: list[str]) -> None:
    root = os.path.realpath("/tmp") + "/root"
    roots = Roots("sources", [root])
    asked = f"{root}/{'/'.join(parts)}"
    try:
        given_as = roots.check(asked)
    except Problem:
        assert not (os.path.normpath(asked) + "/").startswith(f"{root}/")
    else:
        assert (given_as + "/").startswith(f"{root}/")
