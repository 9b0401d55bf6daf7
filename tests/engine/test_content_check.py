"""Content is compared with the manifest's digests while it streams by."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.formats.manifest import Part
from pybak.formats.zip_directory import Member
from pybak.restore.digest import ContentCheck
from pybak.restore.items import Item


def plain_member(size: int) -> Member:
    return Member(b"a", b"a", 0, 0, 0, 0, 0, size, size, 0, 0o100644, b"")


def item(content: bytes, borders: list[int] | None) -> Item:
    member = plain_member(len(content))
    sha256, parts = "", []
    if borders is None:
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        cuts = [0, *sorted(min(b, len(content)) for b in borders), len(content)]
        for start, end in pairwise(cuts):
            piece = content[start:end]
            parts.append(Part(len(piece), 1, hashlib.sha256(piece).hexdigest()))
    return Item(b"a", "f", member, 0, 0, 0, 1, -1, -1, -1, sha256, parts)


def fed(check: ContentCheck, content: bytes, chunk: int) -> bool:
    for at in range(0, len(content), chunk):
        check.update(content[at : at + chunk])
    return check.matches()


@given(
    content=st.binary(max_size=200),
    borders=st.none() | st.lists(st.integers(0, 200), max_size=4),
    chunk=st.integers(1, 70),
)
def test_the_recorded_content_matches_however_it_is_cut(content, borders, chunk):
    assert fed(ContentCheck(item(content, borders)), content, chunk)


@given(
    content=st.binary(min_size=1, max_size=200),
    borders=st.none() | st.lists(st.integers(0, 200), max_size=4),
    chunk=st.integers(1, 70),
    data=st.data(),
)
def test_any_other_content_does_not_match(content, borders, chunk, data):
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(
        st.sampled_from(
            [
                content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
                content[:at],
                content + b"x",
            ]
        )
    )
    assert not fed(ContentCheck(item(content, borders)), other, chunk)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_without_digests_everything_matches(content):
    unknown = Item(b"a", "f", plain_member(3), 0, 0, 0, 1, -1, -1, -1, "")
    assert fed(ContentCheck(unknown), content, 2)
