"""The file list inside an archive: what is written reads back, and damage is told."""

from __future__ import annotations

import gzip
import json
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybak.entries import CHAR_DEVICE, FILE, FOLDER, HARD_LINK, LINK
from pybak.errors import ArchiveError
from pybak.formats import manifest
from pybak.formats.manifest import Header, Part, Record, Trailer
from pybak.formats.manifest_facts import FullFact
from pybak.formats.manifest_reader import Manifest, read_whole_manifest
from pybak.formats.streams import Piece

HEADER = Header(
    run_id="r", job="j", mode="full", format="zip", created="2026-01-01T00:00:00+00:00",
    sources=["/s"], program="pybak",
)  # fmt: skip
DIGEST = "ab" * 32
NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name),
    st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable()).map(os.fsencode),
)
NUMBERS = st.integers(0, 2**63 - 1)
TIMES = st.integers(-(2**63), 2**63 - 1)
IDS = st.integers(0, 2**32 - 1)


@st.composite
def records(draw: st.DrawFn) -> Record:
    kind = draw(st.sampled_from([FILE, FOLDER, LINK, HARD_LINK, CHAR_DEVICE]))
    whole = draw(st.booleans())
    part = st.builds(Part, size=NUMBERS, stored_size=NUMBERS, sha256=st.just(DIGEST))
    return Record(
        path=os.fsdecode(draw(NAMES)), type=kind, size=draw(NUMBERS), mtime_ns=draw(TIMES),
        ctime_ns=draw(TIMES), inode=draw(NUMBERS), mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 1)), gid=draw(st.integers(0, 2**32 - 1)),
        sha256=DIGEST if kind == FILE and whole else None,
        parts=draw(st.lists(part, min_size=1, max_size=3)) if kind == FILE and not whole else None,
        link=os.fsdecode(draw(NAMES)) if kind in (LINK, HARD_LINK) else None,
        changed=draw(st.booleans()),
        device=draw(st.tuples(IDS, IDS)) if kind == CHAR_DEVICE else None,
        dev=draw(IDS) if kind == FOLDER else None,
        at=draw(st.none() | st.tuples(NUMBERS, NUMBERS)),
        sparse=draw(st.none() | st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)),
        holes=draw(st.booleans()),
    )  # fmt: skip


def line_of(record: Record) -> str:
    return manifest.record_line(
        os.fsencode(record.path), record.type, record.size, record.mtime_ns, record.ctime_ns,
        record.inode, record.mode, record.uid, record.gid, sha256=record.sha256,
        parts=record.parts, link=None if record.link is None else os.fsencode(record.link),
        changed=record.changed, device=record.device, dev=record.dev, at=record.at,
        sparse=record.sparse, holes=record.holes,
    )  # fmt: skip


def pack(batches: list[list[Record]], members: int | None = None) -> bytes:
    count = sum(map(len, batches)) if members is None else members
    return (
        manifest.pack_line(HEADER)
        + b"".join(manifest.pack_lines("".join(map(line_of, batch))) for batch in batches if batch)
        + manifest.pack_line(Trailer(members=count, users={"0": "root"}))
    )


def as_records(found: Manifest[FullFact]) -> list[Record]:
    return [
        Record(**{**{name: getattr(line, name) for name in Record.__struct_fields__},
                  "parts": line.parts or None})
        for line in found.lines
    ]  # fmt: skip


@given(batches=st.lists(st.lists(records(), max_size=3), max_size=3))
def test_what_is_written_reads_back(batches: list[list[Record]]) -> None:
    """Names and link targets keep every byte, UTF-8 or not (cases 3, 4)."""
    back = read_whole_manifest(pack(batches))
    assert msgspec.structs.asdict(back.head) == msgspec.structs.asdict(HEADER)
    assert as_records(back) == [record for batch in batches for record in batch]


@given(batches=st.lists(st.lists(records(), max_size=3), max_size=3))
def test_it_is_json_lines_in_gzip_for_anyone(batches: list[list[Record]]) -> None:
    lines = [json.loads(line) for line in gzip.decompress(pack(batches)).splitlines()]
    assert lines[0]["pybak_manifest"] == manifest.VERSION
    assert [line["path"] for line in lines[1:-1]] == [r.path for batch in batches for r in batch]
    assert lines[-1] == {
        "members": len(lines) - 2,
        "users": {"0": "root"},
        "groups": {},
        "volume_starts": [],
        "status": "",
        "counts": {},
    }


@given(name=NAMES, size=NUMBERS, mtime=TIMES, mode=st.integers(0, 0o7777))
def test_the_quick_line_of_a_file_is_the_same(
    name: bytes, size: int, mtime: int, mode: int
) -> None:
    args = (size, mtime, 2, 3, mode, 4, 5)
    assert manifest.file_line(name, *args, DIGEST) == manifest.record_line(
        name, FILE, *args, sha256=DIGEST
    )
    assert manifest.file_line(name, *args, DIGEST, (7, 8)) == manifest.record_line(
        name, FILE, *args, sha256=DIGEST, at=(7, 8)
    )


@given(pieces=st.lists(st.builds(Piece, NUMBERS, NUMBERS, IDS), max_size=4))
def test_pieces_are_on_a_line_of_their_own(pieces: list[Piece]) -> None:
    (line,) = manifest.pieces_line(pieces).splitlines(keepends=True)
    assert line.endswith("\n")
    assert json.loads(line) == {"pieces": [[one.stored, one.plain, one.crc] for one in pieces]}


def some_records() -> list[Record]:
    return [
        Record(path=f"d/{n}", type=FILE, size=n, mtime_ns=n, ctime_ns=n, inode=n, mode=0o644,
               uid=0, gid=0, sha256=DIGEST)
        for n in range(5)
    ]  # fmt: skip


def read_all(data: bytes) -> list[Record]:
    return as_records(read_whole_manifest(data))


def test_a_manifest_cut_anywhere_says_so() -> None:
    data = pack([some_records(), some_records()])
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            read_all(data[:length])


def test_a_flipped_byte_is_told_or_changes_nothing() -> None:
    data = pack([some_records()])
    whole = read_all(data)
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x55
        try:
            assert read_all(bytes(bad)) == whole
        except ArchiveError:
            continue


@pytest.mark.parametrize("members", [4, 6])
def test_missing_and_surplus_lines_are_told(members: int) -> None:
    with pytest.raises(ArchiveError, match=f"lists 5 members, its last line says {members}"):
        read_all(pack([some_records()], members))


def test_a_later_version_says_what_to_do() -> None:
    later = Header(**{**_fields(HEADER), "pybak_manifest": manifest.NEWEST + 1})
    with pytest.raises(ArchiveError, match="update PyBak"):
        read_whole_manifest(manifest.pack_line(later))


def _fields(header: Header) -> dict[str, object]:
    return {name: getattr(header, name) for name in header.__struct_fields__}
