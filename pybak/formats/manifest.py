r"""The file list inside an archive: what the archive's own directory can't tell.

A manifest is the archive's last member, `.pybak/manifest.jsonl.gz`: JSON lines in gzip members
laid end to end. The first line describes the run (`Header`), then one line a member (`Record`),
then what its snapshot has of older archives in a new way (`Reference`), what the run found gone
(`gone_lines`) and could not save (`error_lines`), and the last one closes it (`Trailer`). Each
batch writes its own lines as one gzip member, so the manifest is made side by side as well.

An archive of a run that was compared with an earlier snapshot holds what is new and changed. What
its own snapshot is: the members of any of its `bases`, less those gone, with those of the archives
since in place of older ones. For this the names gone are those of every archive since the full run,
and the header says which archives must be there (`needs`).

In tar archives a batch's lines follow one that lists its pieces (`pieces_line`). All those pieces,
in order, are the archive up to the manifest's own.

A path is text; bytes that are not UTF-8 are surrogate escapes (PEP 383), which JSON writes as
`\udcXX`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from json.encoder import encode_basestring_ascii
from os import fsdecode
from typing import Annotated, Final, NamedTuple

import deflate as libdeflate
import msgspec
from isal import isal_zlib

from pybak.formats.sparse import Run
from pybak.formats.streams import Piece
from pybak.problems import Problem

MEMBER_NAME: Final = b".pybak/manifest.jsonl.gz"
VERSION: Final = 2
"""Version 1 had neither gone nor error lines, and no fields that tell of other runs."""
WITH_REFERENCES: Final = 3
"""The version of a manifest that has references: who does not know them would miss files."""
NEWEST: Final = WITH_REFERENCES

LINE_NAMES: Final = 1000
"""How many names or errors a line lists at most."""
_LINE_TEXT = 256 << 10
_PACKED_LINES = 16
_GZIP_WBITS = 31
_FAST_LEVELS = (1, 2, 3)

Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""Bytes of a file, or of a part of one, as far as any file system can count."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: which run made this archive, from what.

    `created` is ISO 8601 in UTC. `seq` is the run's number in its job. `mode` is `full`, or names
    how the run relates to `base_run`, whose snapshot it was compared with; that one goes back to
    `full_run`. `bases` are all runs from `base_run` to that one, the nearest first, and `needs`
    the runs whose archives hold members of this run's snapshot. `split` is how many of the
    archive's bytes a volume holds. `lenders` are the names of the archives that references name by
    their runs.
    """

    pybak_manifest: int = VERSION
    run_id: str
    job: str
    mode: str
    format: str
    created: str
    sources: list[str]
    program: str
    split: int | None = None
    seq: int | None = None
    base_run: str | None = None
    full_run: str | None = None
    bases: list[str] | None = None
    needs: list[str] | None = None
    tags: list[str] = []
    lenders: dict[str, str] = {}


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A run of a large member: bytes in the file, bytes in the archive, SHA-256 of the former.

    Parts follow each other in the member's deflate stream, and each inflates on its own.
    """

    size: Size
    stored_size: Size
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One member. `type` is a kind of `pybak.entries`; `sha256` is hex, of files only.

    A large file that was read by several workers has `parts` instead of `sha256`.
    `changed` marks a file whose content moved while it was read. `link` is a symbolic link's
    target, or the member name that a hard link stands for; `device` a device's two numbers; `dev`
    the number of the file system that a folder lay on.

    In tar archives `at` tells where the member's first header block and its content start, in
    bytes of the tar stream from where the pieces begin that were listed last (`pieces_line`);
    `sparse` lists where a sparse file has data, and digests are of that data alone. `holes` marks
    a sparse file that was stored in full.
    """

    path: str
    type: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    sha256: str | None = None
    parts: list[Part] | None = None
    link: str | None = None
    changed: bool = False
    device: tuple[int, int] | None = None
    dev: int | None = None
    at: tuple[int, int] | None = None
    sparse: list[Run] | None = None
    holes: bool = False


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A member of the snapshot that an older archive holds, and that is not as the base has it.

    Most fields are as in `Record`; `parts` are size and SHA-256. `run` is the one that made the
    archive. With `member` only the content is there, under that name, and the rest is said here;
    without it all of the member is there, under its own name.
    """

    path: str
    type: str
    size: Size
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    run: str
    member: str | None = None
    sha256: str | None = None
    parts: list[tuple[Size, str]] = []
    changed: bool = False
    dev: int | None = None


VOLUME_START: Final = 4096
"""Bytes at the start of a volume by which it is told from others."""


class Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line: how many member lines came before it, and what the owner ids meant.

    `volume_starts` are the CRC-32 of the first VOLUME_START bytes of each volume, as far as they
    lie before the manifest: by them a volume that was swapped is known. `status` and `counts` are
    how the run ended, as its report says.
    """

    members: int
    users: dict[str, str] = msgspec.field(default_factory=dict)
    groups: dict[str, str] = msgspec.field(default_factory=dict)
    volume_starts: list[int] = msgspec.field(default_factory=list)
    status: str = ""
    counts: dict[str, int] = msgspec.field(default_factory=dict)


class Ends(NamedTuple):
    """What stands around the lines of members; `closing` is as `pack_closing` gives it."""

    header: Header
    trailer: Trailer
    closing: bytes = b""

    def around(self, members: Iterable[bytes]) -> bytes:
        """Give the whole manifest; `members` are packed lines."""
        return b"".join((pack_line(self.header), *members, self.closing, pack_line(self.trailer)))


def record_line(
    name: bytes,
    kind: str,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    mode: int,
    uid: int,
    gid: int,
    *,
    sha256: str | None = None,
    parts: list[Part] | None = None,
    link: bytes | None = None,
    changed: bool = False,
    device: tuple[int, int] | None = None,
    dev: int | None = None,
    at: tuple[int, int] | None = None,
    sparse: Sequence[Run] | None = None,
    holes: bool = False,
) -> str:
    """Give one `Record` as a line of JSON, newline included.

    Put together by hand: a tenth of the time of building a struct and encoding it.
    """
    tail = f',"sha256":"{sha256}"' if sha256 is not None else ""
    if parts is not None:
        tail += f',"parts":{msgspec.json.encode(parts).decode()}'
    if link is not None:
        tail += f',"link":{encode_basestring_ascii(fsdecode(link))}'
    if changed:
        tail += ',"changed":true'
    if device is not None:
        tail += f',"device":[{device[0]},{device[1]}]'
    if dev is not None:
        tail += f',"dev":{dev}'
    if at is not None:
        tail += f',"at":[{at[0]},{at[1]}]'
    if sparse is not None:
        tail += f',"sparse":{msgspec.json.encode(sparse).decode()}'
    if holes:
        tail += ',"holes":true'
    return (
        f'{{"path":{encode_basestring_ascii(fsdecode(name))},"type":"{kind}","size":{size},'
        f'"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"inode":{inode},"mode":{mode},'
        f'"uid":{uid},"gid":{gid}{tail}}}\n'
    )


def file_line(
    name: bytes,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
    inode: int,
    mode: int,
    uid: int,
    gid: int,
    sha256: str,
    at: tuple[int, int] | None = None,
) -> str:
    """Give the line of a plain file; the same text as `record_line`, for the many small ones."""
    place = "" if at is None else f',"at":[{at[0]},{at[1]}]'
    return (
        f'{{"path":{encode_basestring_ascii(fsdecode(name))},"type":"f","size":{size},'
        f'"mtime_ns":{mtime_ns},"ctime_ns":{ctime_ns},"inode":{inode},"mode":{mode},'
        f'"uid":{uid},"gid":{gid},"sha256":"{sha256}"{place}}}\n'
    )


def pieces_line(pieces: Sequence[Piece]) -> str:
    """Give the line that lists the pieces which hold the members of the lines behind it."""
    return f'{{"pieces":{msgspec.json.encode(pieces).decode()}}}\n'


def reference_lines(references: Iterable[Reference]) -> Iterator[str]:
    """Yield texts of many lines, one line for each reference."""
    for group in _grouped(map(_reference_line, references)):
        yield "".join(group)


def _reference_line(reference: Reference) -> str:
    # msgspec refuses what is no UTF-8 in a path.
    fields = msgspec.to_builtins(reference)
    return f'{{"reference":{json.dumps(fields, separators=(",", ":"))}}}\n'


def gone_lines(names: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines that list member names which the snapshot lacks."""
    texts = (encode_basestring_ascii(fsdecode(name)) for name in names)
    for group in _grouped(texts):
        yield f'{{"gone":[{",".join(group)}]}}\n'


def error_lines(errors: Iterable[Problem]) -> Iterator[str]:
    """Yield the lines that list what could not be saved: path on disk, code, message."""
    texts = (json.dumps((error.path, error.code, error.message)) for error in errors)
    for group in _grouped(texts):
        yield f'{{"errors":[{",".join(group)}]}}\n'


def _grouped(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if len(group) >= LINE_NAMES or size >= _LINE_TEXT:
            yield group
            group, size = [], 0
    if group:
        yield group


def pack_closing(
    gone: Iterable[bytes], errors: Iterable[Problem], references: Iterable[Reference] = ()
) -> bytes:
    """Give the lines of references, of what is gone and of what failed, packed.

    Nothing where there is none.
    """
    packed = []
    lines: list[str] = []
    for line in chain(reference_lines(references), gone_lines(gone), error_lines(errors)):
        lines.append(line)
        if len(lines) >= _PACKED_LINES:
            packed.append(pack_lines("".join(lines)))
            lines.clear()
    if lines:
        packed.append(pack_lines("".join(lines)))
    return b"".join(packed)


def pack_lines(lines: str, level: int = 2) -> bytes:
    """Compress lines into one gzip member without time or name, at the archive's level."""
    text = lines.encode("ascii")
    if level in _FAST_LEVELS:
        return bytes(isal_zlib.compress(text, level, _GZIP_WBITS))
    return bytes(libdeflate.gzip_compress(text, level))


def pack_line(line: Header | Trailer) -> bytes:
    """Give a header or trailer as a gzip member of its own."""
    return pack_lines(json.dumps(msgspec.to_builtins(line)) + "\n")
