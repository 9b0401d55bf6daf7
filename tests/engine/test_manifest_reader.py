"""Manifests read back: every field, every release's, and what no honest program writes."""

from __future__ import annotations

import gzip
import json
import os
import random
from typing import Any

import msgspec
import pytest

from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats.manifest_bounds import Bounds
from pybak.formats.manifest_reader import Stream, read_manifest, read_whole_manifest
from pybak.formats.streams import Piece
from pybak.problems import Problem

HEADER = manifest.Header(
    run_id="r1", job="docs", mode="full", format="zip", created="2026-01-01T00:00:00Z",
    sources=["/home/me/docs", "/caf\udce9"], program="PyBak 1", split=5,
)  # fmt: skip
SHA = "ab" * 32
# What the first release wrote: header, one gzip member a batch, trailer.
FIRST_RELEASE = (
    gzip.compress(
        b'{"pybak_manifest": 1, "run_id": "r", "job": "j", "mode": "full", "format": "zip", '
        b'"created": "2026-01-01T00:00:00Z", "sources": ["/s"], "program": "PyBak 0.1.0"}\n'
    )
    + gzip.compress(
        b'{"path":"s","type":"d","size":0,"mtime_ns":1,"ctime_ns":2,"inode":3,"mode":493,"uid":0,'
        b'"gid":0}\n{"path":"s/caf\\udce9","type":"f","size":5,"mtime_ns":-1,"ctime_ns":2,"inode":3,'
        b'"mode":420,"uid":0,"gid":0,"parts":[[3,2,"aa"],[2,2,"bb"]],"changed":true}\n'
        b'{"path":"s/l","type":"l","size":1,"mtime_ns":1,"ctime_ns":2,"inode":3,"mode":511,"uid":0,'
        b'"gid":0,"link":"\\udcff"}\n'
    )
    + gzip.compress(b'{"members": 3, "users": {"0": "root"}, "groups": {"0": "wheel"}}\n')
)


def line(name: str = "a", **more: Any) -> str:
    fields: dict[str, Any] = {"path": name, "type": "f", "size": 1, "mtime_ns": 2, "mode": 0o644}
    return json.dumps(fields | more) + "\n"


def pack(*lines: str, members: int | None = None, end: str | None = None) -> bytes:
    last = json.dumps({"members": len(lines) if members is None else members}) + "\n"
    text = "".join(lines) + (last if end is None else end)
    return manifest.pack_line(HEADER) + gzip.compress(text.encode("ascii"))


def read(data: bytes, members: int = 100, chunk: int = 7) -> Any:
    chunks = (data[at : at + chunk] for at in range(0, len(data), chunk))
    return read_manifest(chunks, Bounds(members, 1 << 20))


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
def test_manifests_of_the_first_release_are_read(chunk: int) -> None:
    """(case 73)"""
    found = read(FIRST_RELEASE, chunk=chunk)
    facts = found.by_name()
    assert list(facts) == [b"s", b"s/caf\xe9", b"s/l"]
    assert facts[b"s/caf\xe9"].parts == [manifest.Part(3, 2, "aa"), manifest.Part(2, 2, "bb")]
    assert (facts[b"s/caf\xe9"].mtime_ns, facts[b"s/caf\xe9"].changed) == (-1, True)
    assert facts[b"s/l"].link == "\udcff"
    assert (found.users, found.groups) == ({0: "root"}, {0: "wheel"})
    assert (found.head.job, found.head.split) == ("j", None)


def test_all_that_is_written_today_comes_back() -> None:
    pieces = [Piece(10, 20, 0xFFFFFFFF), Piece(5, 7, 0)]
    lines = (
        manifest.pieces_line(pieces)
        + manifest.record_line(
            b"caf\xe9",
            "f",
            1 << 40,
            -5,
            6,
            7,
            0o4755,
            8,
            9,
            sha256=SHA,
            changed=True,
            at=(0, 1536),
            sparse=[(512, 1024)],
            holes=True,
        )
        + manifest.record_line(
            b"tty", "c", 0, 1, 2, 3, 0o600, 0, 0, device=(4, 65), at=(3072, 3584)
        )
    )
    lines += manifest.record_line(b"h", "h", 0, 1, 2, 3, 0o600, 0, 0, link=b"\xff", at=(4096, 4608))
    data = manifest.pack_line(HEADER) + manifest.pack_lines(lines) + manifest.pack_line(
        manifest.Trailer(members=3, users={"8": "me"})
    )  # fmt: skip
    found = read_whole_manifest(data)
    first, file, device, link = found.lines
    assert first.pieces == [(10, 20, 0xFFFFFFFF), (5, 7, 0)]
    assert (file.name, file.size, file.mtime_ns, file.ctime_ns, file.inode) == (
        b"caf\xe9", 1 << 40, -5, 6, 7,
    )  # fmt: skip
    assert (file.mode, file.uid, file.gid, file.sha256) == (0o4755, 8, 9, SHA)
    assert (file.at, file.sparse, file.holes, file.changed) == (
        (0, 1536), [(512, 1024)], True, True,
    )  # fmt: skip
    assert device.device == (4, 65)
    assert link.link == "\udcff"
    assert found.members == 3
    assert msgspec.structs.asdict(found.head) == msgspec.structs.asdict(HEADER)


def references() -> list[manifest.Reference]:
    return [
        manifest.Reference(
            path="caf\udce9", type="f", size=5, mtime_ns=-1, ctime_ns=2, inode=3, mode=0o600, uid=4,
            gid=5, run="r", member="\udcff", parts=[(3, SHA), (2, SHA)],
        ),
        manifest.Reference(
            path="d", type="d", size=0, mtime_ns=1, ctime_ns=2, inode=3, mode=0o700, uid=0, gid=0,
            run="q", dev=7,
        ),
    ]  # fmt: skip


def test_references_come_back_and_are_no_members() -> None:
    closing = manifest.pack_closing([b"gone"], [], references())
    head = msgspec.structs.replace(
        HEADER, pybak_manifest=manifest.WITH_REFERENCES, lenders={"r": "a\udcff.zip"}
    )
    ends = manifest.Ends(head, manifest.Trailer(members=1), closing)
    data = ends.around([manifest.pack_lines(line("a") + "\n")])
    found = read_whole_manifest(data)
    assert (found.references, found.gone) == (references(), ["gone"])
    assert (found.head.lenders, found.members) == ({"r": "a\udcff.zip"}, 1)
    assert [one.path for one in found.lines] == ["a"]
    assert read(data).references == references()
    assert read_manifest([data], Bounds(10, 1 << 20), {b"a"}).references == []
    stream = Stream([data], len(data))
    told = [one.reference for one in stream.lines() if one.reference is not None]
    assert (told, stream.members) == (references(), 1)


def test_lines_longer_than_a_block_are_put_together() -> None:
    long = [[number * 1024, 512] for number in range(200_000)]
    found = read(pack(line("a", sparse=long), line("b")), chunk=1 << 16)
    assert len(found.lines[0].sparse) == 200_000


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no header line"),
        (b"text", "cut short"),
        (gzip.compress(b"[]\n", mtime=0), "no header line"),
        (gzip.compress(b'{"pybak_manifest": "x"}\n', mtime=0), "no header line"),
        (gzip.compress(b'{"pybak_manifest":1,"sources":5}\n', mtime=0), "header line that is none"),
        (gzip.compress(b'{"pybak_manifest": 4}\n', mtime=0), "version 4, this PyBak reads up to 3"),
        (gzip.compress(b"[" * 100_000, mtime=0), "cut short"),
        (gzip.compress(b"[" * 100_000 + b"\n", mtime=0), "no header line"),
        (manifest.pack_line(HEADER), "before its last line"),
        (pack(line(), members=2), "lists 1 members, its last line says 2"),
        (pack(line(), end=""), "before its last line"),
        (pack(line(), end='{"members": 1}'), "cut short"),
        (pack(line(), end='{"members": 1}\n{"members": 1}\n'), "behind its last line"),
        (pack(line(size=-1)), "a line that is none"),
        (pack(line(mode=1 << 40)), "a line that is none"),
        (pack(line(at=[1])), "a line that is none"),
        (pack(line("\ud800")), "a line that is none"),
        (pack(line(link="\udcff\ud800")), "a line that is none"),
        (pack(line(sha256="\udcff")), "a line that is none"),
        (pack('{"pieces":[[1,2]]}\n'), "a line that is none"),
        (pack("no json\n"), "a line that is none"),
        (pack(*(line(str(number)) for number in range(101))), "far more than the archive holds"),
        (pack('{"pieces":[]}\n' * 2000, members=0), "far more than the archive holds"),
        (pack(line()) + b"garbage", "cut short"),
        (pack(line())[:-9], "cut short"),
        (pack(line(), end=" " * (17 << 20)), "endless line"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_told(data: bytes, told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        read(data, chunk=1 << 16)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"pieces":[' + "[1,1,1]," * 2000 + "[1,1,1]]}\n"], "far more than the archive holds"),
        ([line(sparse=[[1, 1]] * 110_000)], "far more than the archive holds"),
        ([line(parts=[[1, 1, "a"]] * 110_000)], "far more than the archive holds"),
        ([line("a" * 70_000)], "an endless name"),
        ([line(link="a" * 70_000)], "an endless name"),
        ([line("a", x="a" * 3_000_000)], "an endless line"),
        ([line(str(number), x="a" * 1_000_000) for number in range(20)], "says far more"),
    ],
)  # fmt: skip
def test_a_manifest_takes_no_more_memory_than_a_small_archive_explains(
    lines: list[str], told: str
) -> None:
    data = pack(*lines, members=sum('"path"' in one for one in lines))
    with pytest.raises(ArchiveError, match=told):
        read_manifest([data], Bounds(100, 4000))
    if "name" not in told:
        assert read_manifest([data], Bounds(100, 1 << 30)).lines


def test_a_zip_has_no_pieces() -> None:
    with pytest.raises(ArchiveError, match="which a ZIP has not"):
        read_manifest([pack('{"pieces":[]}\n', members=0)], Bounds(100, 1000, has_pieces=False))


def test_owner_ids_that_no_system_knows_are_left_out() -> None:
    end = json.dumps({"members": 0, "users": {"9" * 5000: "x", "5": "me"}}) + "\n"
    assert read(pack(end=end)).users == {5: "me"}


def test_a_name_that_is_listed_twice_is_told() -> None:
    found = read(pack(line("a"), line("a")))
    with pytest.raises(ArchiveError, match="lists a member twice"):
        found.by_name()


def test_no_flipped_bit_passes_for_another_manifest() -> None:
    """(case 59)"""
    right = [msgspec.structs.asdict(one) for one in read(FIRST_RELEASE, chunk=1 << 20).lines]
    for at in range(0, len(FIRST_RELEASE) * 8, 5):
        data = bytearray(FIRST_RELEASE)
        data[at // 8] ^= 1 << at % 8
        try:
            found = read(bytes(data), chunk=1 << 20)
        except ArchiveError:
            continue
        assert [msgspec.structs.asdict(one) for one in found.lines] == right


def test_damage_of_any_kind_is_an_archive_error() -> None:
    rng = random.Random(8)
    text = gzip.decompress(FIRST_RELEASE)
    for _ in range(1000):
        data = bytearray(text)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(
                [b'"', b"{", b"\\ud8", b"9" * 40, b"\n", b"\xff"]
            )
        try:
            for fact in read(gzip.compress(bytes(data), 1), chunk=1 << 20).lines:
                assert isinstance(fact.name, bytes)
        except ArchiveError:
            pass


# ---- what is gone, and what failed


def closed(gone: list[bytes], errors: list[Problem]) -> bytes:
    end = manifest.Trailer(members=1, status="partial", counts={"new": 1, "failed": 2})
    lines = manifest.Ends(HEADER, end, manifest.pack_closing(gone, errors))
    return lines.around([manifest.pack_lines(line())])


def test_what_is_gone_and_what_failed_comes_back() -> None:
    """Names keep every byte (cases 3, 4)."""
    gone = [b"a", b"caf\xe9", "\U0001f600".encode(), b"new\nline"] * 1500
    errors = [Problem(f"/s/{n}\udcff", "unreadable", 'it said "no"') for n in range(2500)]
    found = read_whole_manifest(closed(gone, errors))
    assert [os.fsencode(name) for name in found.gone] == gone
    assert [Problem(*one) for one in found.errors] == errors
    assert (found.status, found.counts) == ("partial", {"new": 1, "failed": 2})
    assert [one.name for one in found.lines] == [b"a"]


def test_a_reader_of_the_archive_keeps_none_of_that() -> None:
    data = closed([b"x"] * 3000, [Problem("/s/y", "unreadable", "no")])
    found = read(data, chunk=1 << 16)
    assert (len(found.lines), found.gone, found.errors) == (1, [], [])
    assert list(found.by_name()) == [b"a"]


def test_no_line_lists_more_than_a_thousand_or_is_endless() -> None:
    lines = [*manifest.gone_lines(b"%d" % n for n in range(2500))]
    assert [len(json.loads(one)["gone"]) for one in lines] == [1000, 1000, 500]
    long = [*manifest.gone_lines([b"\xff" * 4096] * 100)]
    assert max(map(len, long)) < 300_000
    assert sum(len(json.loads(one)["gone"]) for one in long) == 100


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"gone":[' + '"a",' * 1000 + '"a"]}\n'], "too much in one line"),
        (['{"errors":[' + '["a","b","c"],' * 1000 + '["a","b","c"]]}\n'], "too much in one line"),
        (['{"gone":["' + "a" * 70_000 + '"]}\n'], "an endless name"),
        (['{"gone":[5]}\n'], "a line that is none"),
        (['{"gone":["\\ud800"]}\n'], "a line that is none"),
        (['{"errors":[["a","b"]]}\n'], "a line that is none"),
        (['{"gone":["' + "a" * 60_000 + '"]}\n'] * 400, "says far more"),
    ],
)
def test_hostile_lists_of_what_is_gone_are_bounded(lines: list[str], told: str) -> None:
    with pytest.raises(ArchiveError, match=told):
        read_manifest([pack(*lines, members=0)], Bounds(100, 4000))


def test_a_manifest_can_be_read_line_by_line() -> None:
    data = closed([b"x", b"y"], [Problem("/s/y", "unreadable", "no")])
    stream = Stream([data[:50], data[50:]], len(data))
    assert stream.head.job == HEADER.job
    member, gone, errors = stream.lines()
    assert (member.name, gone.gone) == (b"a", ["x", "y"])
    assert errors.errors == [("/s/y", "unreadable", "no")]
    assert (stream.status, stream.members) == ("partial", 1)
    with pytest.raises(ArchiveError, match="cut short"):
        list(Stream([data[:-4]], len(data)).lines())


def test_the_archives_of_a_chain_name_each_other() -> None:
    header = msgspec.structs.replace(
        HEADER,
        mode="incremental",
        seq=7,
        base_run="r0",
        full_run="f",
        tags=["monday"],
        bases=["r0", "f"],
        needs=["f"],
    )
    data = manifest.pack_line(header) + manifest.pack_line(manifest.Trailer(members=0))
    head = read(data).head
    assert (head.seq, head.base_run, head.full_run, head.tags) == (7, "r0", "f", ["monday"])
    assert (head.bases, head.needs) == (["r0", "f"], ["f"])
    assert read(FIRST_RELEASE).head.base_run is None
    assert read(FIRST_RELEASE).head.bases is None
