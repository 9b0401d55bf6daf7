"""Archives put together by hand: sound ones, and ones that no honest program would write."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pybak.entries import FILE, FOLDER, LINK
from pybak.formats import manifest
from pybak.formats import zip_records as zr

NOON = 1_700_000_000_123_456_789
"""A modification time with nanoseconds, in ns since 1970."""


@dataclass(frozen=True)
class Forged:
    """A member to write; what is None is worked out from the rest."""

    name: bytes
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    mtime_ns: int = NOON
    deflate: bool = False
    stored: bytes | None = None
    crc: int | None = None
    size: int | None = None
    stored_size: int | None = None
    method: int | None = None
    flags: int | None = None
    local_name: bytes | None = None
    local_extra: bytes = b""
    extra: bytes | None = None
    offset: int | None = None
    gap_before: bytes = b""
    is_listed: bool = True
    uid: int = 0
    gid: int = 0
    sha256: str | None = None
    with_local: bool = True

    @property
    def kind(self) -> str:
        if self.name.endswith(b"/"):
            return FOLDER
        return LINK if stat.S_ISLNK(self.mode) else FILE


def file(name: bytes, data: bytes = b"", mode: int = 0o644, **more: object) -> Forged:
    return replace(Forged(name, data, stat.S_IFREG | mode), **more)  # type: ignore[arg-type]


def folder(name: bytes, mode: int = 0o755, **more: object) -> Forged:
    return replace(Forged(name + b"/", b"", stat.S_IFDIR | mode), **more)  # type: ignore[arg-type]


def link(name: bytes, target: bytes, **more: object) -> Forged:
    return replace(Forged(name, target, stat.S_IFLNK | 0o777), **more)  # type: ignore[arg-type]


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(6, zlib.DEFLATED, -15)
    return engine.compress(data) + engine.flush()


def manifest_bytes(members: Iterable[Forged], count: int | None = None) -> bytes:
    """Give a manifest that lists `members`."""
    listed = [member for member in members if member.is_listed]
    lines = "".join(
        manifest.record_line(
            member.name.rstrip(b"/"), member.kind, len(member.data), member.mtime_ns,
            member.mtime_ns, 1, stat.S_IMODE(member.mode), member.uid, member.gid,
            sha256=(member.sha256 or hashlib.sha256(member.data).hexdigest())
            if member.kind == FILE else None,
            link=member.data if member.kind == LINK else None,
        )
        for member in listed
    )  # fmt: skip
    header = manifest.Header(
        run_id="r", job="j", mode="full", format="zip", created="2026-01-01T00:00:00Z",
        sources=["/s"], program="test",
    )  # fmt: skip
    trailer = manifest.Trailer(members=len(listed) if count is None else count)
    return (
        manifest.pack_line(header)
        + (manifest.pack_lines(lines) if lines else b"")
        + manifest.pack_line(trailer)
    )


def build(
    members: Iterable[Forged],
    *,
    with_manifest: bool = False,
    prefix: bytes = b"",
    comment: bytes = b"",
    made_by: int | None = None,
    count: int | None = None,
    change_end: Callable[[bytes], bytes] = lambda end: end,
) -> bytes:
    """Give the bytes of an archive that holds `members` in order."""
    members = list(members)
    if with_manifest:
        data = manifest_bytes(members)
        members.append(Forged(manifest.MEMBER_NAME, data, stat.S_IFREG | 0o600))
    out = bytearray(prefix)
    directory = bytearray()
    for member in members:
        out += member.gap_before
        stored = member.stored
        if stored is None:
            stored = raw_deflate(member.data) if member.deflate else member.data
        flags = zr.name_flags(member.name) if member.flags is None else member.flags
        method = member.method
        if method is None:
            method = zr.DEFLATED if member.deflate else zr.STORED
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        size = len(member.data) if member.size is None else member.size
        stored_size = len(stored) if member.stored_size is None else member.stored_size
        dos = zr.dos_time(member.mtime_ns // 10**9)
        extra = zr.time_extras(member.mtime_ns) if member.extra is None else member.extra
        offset = len(out) - len(prefix) if member.offset is None else member.offset
        if member.with_local:
            out += zr.local_header(
                member.name if member.local_name is None else member.local_name,
                method=method, crc=crc, stored_size=stored_size, size=size, dos=dos,
                extra=extra + zr.owner_extra(member.uid, member.gid) + member.local_extra,
                flags=flags,
            )  # fmt: skip
            out += stored
        record = bytearray(
            zr.central_record(
                member.name,
                method=method,
                crc=crc,
                stored_size=stored_size,
                size=size,
                offset=offset,
                dos=dos,
                extra=extra,
                flags=flags,
                mode=member.mode,
            )
        )
        if made_by is not None:
            record[5] = made_by
        directory += record
    at = len(out) - len(prefix)
    out += directory
    end = bytearray(zr.end_records(len(members) if count is None else count, len(directory), at))
    end[-2:] = len(comment).to_bytes(2, "little")
    return bytes(out) + change_end(bytes(end)) + comment


def write(path: Path, members: Iterable[Forged], **how: object) -> bytes:
    """Write an archive and give its path as the engine takes it."""
    path.write_bytes(build(members, **how))  # type: ignore[arg-type]
    return os.fsencode(path)
