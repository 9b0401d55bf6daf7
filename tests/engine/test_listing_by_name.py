"""A few members looked up in a long archive are told as the whole listing tells them."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import archives as forge
import pytest
from backing_up import FORMATS, back_up
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pybak.entries import HARD_LINK
from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats import zip_records as zr
from pybak.formats.archive import Limits
from pybak.formats.listing import Listed, Listing
from pybak.formats.manifest_sieve import Sieve
from pybak.formats.opening import open_archive

ODD = [b"a", b'a"b', b"a\\", b"a\xff", "a\xe9\u20ac\U0001f600".encode(), b"a\nb", b"\x01", b"A b"]


def listing(
    paths: list[bytes], names: Collection[bytes] | None = None, password: bytes | None = None
) -> Listing:
    with open_archive(paths, password=password) as archive:
        return archive.listing(Limits(), None if names is None else frozenset(names))


def told(found: Listing, names: Collection[bytes]) -> list[Listed]:
    return [
        replace(listed, limit=0) if listed.fault else listed
        for listed in found.members
        if listed.name in names
    ]


def check(paths: list[bytes], names: Collection[bytes], **how: Any) -> Listing:
    """Compare a listing of these names with that of all; give it."""
    whole, found = listing(paths, **how), listing(paths, names, **how)
    assert told(found, names) == told(whole, names)
    assert found.problems == whole.problems
    assert found.head == whole.head
    assert found.has_manifest == whole.has_manifest
    missing = [one for one in whole.missing if one[0] in names]
    assert [one for one in found.missing if one[0] in names] == missing
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with odd names, links and large files among many others."""
    docs = tmp_path / "docs"
    for number in range(40):
        (docs / f"sub{number % 4}").mkdir(parents=True, exist_ok=True)
        (docs / f"sub{number % 4}" / f"f{number}").write_text(f"{number}" * number)
    for name in ODD:
        with open(os.fsencode(docs) + b"/" + name, "wb") as out:
            out.write(name * 100)
    os.link(docs / "sub1/f1", docs / "sub0/linked")
    os.link(docs / "sub1/f1", docs / "sub2/linked")
    (docs / "to").symlink_to("a")
    return docs


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("count", [1, 3, 20, 60])
def test_our_own_archives(source: Path, tmp_path: Path, kind: str, count: int) -> None:
    made = back_up(source, to=tmp_path / "out", **FORMATS[kind])
    paths = [os.fsencode(path) for path in made.files]
    every = [listed.name for listed in listing(paths, password=made.password).members]
    picked = random.Random(count).sample(every, min(count, len(every)))
    found = check(paths, picked, password=made.password)
    assert len(found.members) <= len(picked) + 1, "others were listed for nothing"
    for name in (b"docs/" + odd for odd in ODD):
        (one,) = told(check(paths, [name], password=made.password), [name])
        assert one.size == 100 * (len(name) - 5)


@pytest.mark.parametrize("kind", ["tar", "tar.zst"])
def test_a_hard_link_comes_with_what_it_stands_for(source: Path, tmp_path: Path, kind: str) -> None:
    made = back_up(source, to=tmp_path / "out", format=kind)
    paths = [os.fsencode(made.path)]
    names = {b"docs/sub0/linked", b"docs/sub2/linked", b"docs/sub1/f1"}
    kinds = {one.name: one.kind for one in told(listing(paths), names)}
    for name in names:
        found = check(paths, [name])
        listed = {one.name for one in found.members}
        (one,) = told(found, [name])
        assert listed == {name} | ({one.link} if kinds[name] == HARD_LINK else set())


def test_volumes_are_looked_at_all_the_same(source: Path, tmp_path: Path) -> None:
    (source / "noise").write_bytes(random.Random(1).randbytes(300_000))
    made = back_up(source, to=tmp_path / "out", split="64KiB")
    paths = [os.fsencode(path) for path in made.files]
    check(paths, [b"docs/a"])
    paths[1], paths[2] = paths[2], paths[1]
    assert "does not belong here" in str(listing(paths, [b"docs/a"]).problems)


class TestForgedZips:
    """What only forgers write is told of the members that are looked up."""

    def check(self, path: Path, members: list[forge.Forged], **how: Any) -> None:
        archive = forge.write(path, members, **how)
        names = [member.name.rstrip(b"/") for member in members]
        for name in names:
            check([archive], [name])
        check([archive], names)
        check([archive], [*names, b"not there"])

    @pytest.mark.parametrize("with_manifest", [True, False])
    def test_a_name_twice_a_stranger_and_one_that_is_missing(
        self, zip_path: Path, with_manifest: bool
    ) -> None:
        members = [
            forge.folder(b"d"), forge.file(b"d/a", b"1"),
            forge.file(b"d/a", b"2", is_listed=False),
            forge.file(b"d/b", b"3"), forge.file(b"d/stranger", b"4", is_listed=False),
        ]  # fmt: skip
        self.check(zip_path, members, with_manifest=with_manifest)

    def test_what_overlaps(self, zip_path: Path) -> None:
        first = forge.file(b"a", b"x" * 500)
        members = [
            first,
            forge.file(b"inside", b"y" * 50, offset=100, with_local=False),
            forge.file(b"same", b"x" * 500, offset=0, with_local=False),
            forge.file(b"after", b"z"),
            forge.file(b"outside", b"z", offset=1 << 20, with_local=False),
            forge.file(b"far", b"z", offset=1 << 40, with_local=False),
            forge.file(b"long", b"z", stored_size=1 << 20),
        ]
        self.check(zip_path, members)

    @given(
        spans=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200)), min_size=1, max_size=12)
    )
    def test_overlaps_of_any_kind(
        self, spans: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        members = [forge.file(b"filler", b"x" * 400)]
        members += (
            forge.file(b"%d" % number, b"y" * size, offset=offset, with_local=False)
            for number, (offset, size) in enumerate(spans)
        )
        path = tmp_path_factory.mktemp("zip") / "a.zip"
        archive = forge.write(path, members)
        whole = listing([archive])
        for one in whole.members:
            (found,) = told(listing([archive], [one.name]), [one.name])
            assert found.fault == one.fault
            if one.fault is None:
                assert found == one

    @pytest.mark.parametrize(
        "how",
        [{"prefix": b"#!/bin/sh\n"}, {"made_by": 0}, {"made_by": 19}, {"comment": b"PK\5\6 x"}],
    )
    def test_those_that_other_programs_write(self, zip_path: Path, how: dict[str, Any]) -> None:
        members = [forge.folder(b"d"), forge.file(b"d/a", b"1"), forge.link(b"d/l", b"a")]
        self.check(zip_path, members, with_manifest=True, **how)

    def test_a_signature_behind_the_directory(self, zip_path: Path) -> None:
        data = forge.build([forge.file(b"a", b"1"), forge.file(b"b", b"2")])
        at = data.index(zr.END_SIGNATURE)
        signature = b"PK\5\5\x3c\0" + bytes(60)
        end = bytearray(data[at:])
        size = int.from_bytes(end[12:16], "little") + len(signature)
        end[12:16] = size.to_bytes(4, "little")
        zip_path.write_bytes(data[:at] + signature + bytes(end))
        check([os.fsencode(zip_path)], [b"b"])

    @settings(max_examples=300)
    @given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
    def test_damage_is_an_archive_error_or_told_as_ever(
        self, place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        members = [forge.file(b"d/%d" % number, b"x" * number) for number in range(5)]
        data = bytearray(forge.build(members, with_manifest=True))
        start = data.index(zr.CENTRAL_SIGNATURE)
        data[start + place % (len(data) - start)] ^= 1 << bit
        path = tmp_path_factory.mktemp("zip") / "a.zip"
        path.write_bytes(data)
        try:
            whole = listing([os.fsencode(path)])
        except ArchiveError:
            return  # a damaged record of another member need not be met
        found = listing([os.fsencode(path)], [b"d/3"])
        assert [one for one in told(found, [b"d/3"]) if not (one.fault or one.remark)] == [
            one for one in told(whole, [b"d/3"]) if not (one.fault or one.remark)
        ]


class TestManifests:
    """A manifest in other words than ours is read as a whole."""

    def rewritten(self, data: bytes, change: Any) -> bytes:
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        return gzip.compress(b"".join(change(lines)))

    @pytest.mark.parametrize("wrong", ["spaced", "turned", "extra", "count", "cut"])
    def test_the_verdict_is_the_same(
        self, zip_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(lines: list[dict[str, Any]]) -> Any:
            for line in lines:
                if wrong == "turned":
                    line = dict(reversed(line.items()))
                if wrong == "count" and "members" in line:
                    line["members"] += 1
                spaced = wrong in ("spaced", "turned")
                yield json.dumps(line, separators=None if spaced else (",", ":")).encode() + b"\n"
                if wrong == "extra" and line.get("path") == "d/2":
                    yield b'{"gone":["x"]}\n'

        members = [forge.file(b"d/%d" % number, b"x" * number) for number in range(5)]
        original = forge.manifest_bytes
        monkeypatch.setattr(
            forge,
            "manifest_bytes",
            lambda listed: self.rewritten(original(listed), change)[
                : -5 if wrong == "cut" else None
            ],
        )
        archive = forge.write(zip_path, members, with_manifest=True)
        for names in ([b"d/3"], [b"d/%d" % number for number in range(12)]):
            found = check([archive], names)
            assert bool(found.problems) == (wrong in ("count", "cut"))


Name = st.binary(min_size=1, max_size=6).filter(lambda name: b"\0" not in name) | st.sampled_from(
    ODD
)


@given(
    names=st.lists(Name, unique=True, max_size=30),
    others=st.lists(Name, unique=True, max_size=30),
    every=st.integers(1, 9),
)
def test_a_sieve_lets_pass_what_is_wanted_and_counts_the_rest(
    names: list[bytes], others: list[bytes], every: int
) -> None:
    """Blocks may begin and end with lines that are not about members."""
    wanted = frozenset(names)
    lines = [
        manifest.record_line(name, "f", 1, 2, 3, 4, 5, 6, 7, sha256="a" * 64, link=b'{"path":"a"')
        for name in sorted({*names, *others})
    ]
    sieve = Sieve(wanted)
    passed = 0
    seen: list[bytes] = []
    specials = 0
    for at in range(0, len(lines), every):
        part = lines[at : at + every]
        block = '{"pieces":[]}\n' + "".join(part) + '{"gone":["a"]}\n{"members": 3}\n'
        kept, count = sieve.sift(block.encode())
        passed += count
        found = [json.loads(line) for line in kept.splitlines()]
        assert kept.endswith(b"\n")
        specials += sum("path" not in line for line in found)
        seen += (os.fsencode(line["path"]) for line in found if "path" in line)
    assert wanted <= set(seen)
    assert passed + len(seen) == len(lines)
    assert specials == 3 * len(range(0, len(lines), every))
