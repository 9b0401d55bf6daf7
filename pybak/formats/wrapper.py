"""The wrapper around a volume: an encrypted ZIP with the volume as its only member.

For formats that have no encryption of their own, and for ZIP archives whose names must not show.
`backup.tar.zst.001.zip` holds `backup.tar.zst.001`, stored and encrypted by AES-256 (AE-2,
`pybak.aes`), so any program that opens such ZIP files takes it off. All sizes are known
beforehand: headers say them, ZIP64 fields are there when they are needed, and what a wrapper adds
to a volume can be told before a byte is written. A wrapped volume is read at any place, for the
cipher allows it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pybak import aes
from pybak.errors import PlanError, WrongPasswordError
from pybak.formats import zip_records as zr
from pybak.writing import write_all

if TYPE_CHECKING:
    from pybak.formats.source import Identity, Source
    from pybak.formats.zip_aes import Sealed

SUFFIX: Final = b".zip"
WRAPPER_HEAD: Final = 512
"""Bytes that hold a wrapper's first header: a file's name has 255 at most."""

_MODE = stat.S_IFREG | 0o600
_INNER_NAME = re.compile(
    rb"[^/]+\.(?:zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.zst|tzst)(?:\.(\d{3,}))?",
    re.DOTALL | re.IGNORECASE,
)
_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"BZh", b"\x28\xb5\x2f\xfd")
_TAR_MAGIC_AT = 257
_HEAD = 512


# -- writing


def wrapped_name(name: bytes) -> bytes:
    """Give the wrapper's file name for the volume `name`."""
    return name + SUFFIX


def wrapper_head(
    name: bytes, inner_size: int, *, mtime_ns: int, force_zip64: bool = False
) -> bytes:
    """Give what stands before the encrypted data of a volume of `inner_size` bytes.

    With `force_zip64` its length does not depend on that size.
    """
    return zr.local_header(
        name, method=zr.STORED, crc=0, stored_size=inner_size + aes.OVERHEAD, size=inner_size,
        dos=zr.dos_time(mtime_ns // 1_000_000_000), extra=zr.time_extras(mtime_ns),
        flags=zr.name_flags(name), force_zip64=force_zip64, encrypted=True,
    )  # fmt: skip


def wrapper_end(name: bytes, inner_size: int, *, mtime_ns: int, force_zip64: bool = False) -> bytes:
    """Give what stands behind it: directory and end records; `force_zip64` as for the head."""
    stored_size = inner_size + aes.OVERHEAD
    central = zr.central_record(
        name, method=zr.STORED, crc=0, stored_size=stored_size, size=inner_size, offset=0,
        dos=zr.dos_time(mtime_ns // 1_000_000_000), extra=zr.time_extras(mtime_ns),
        flags=zr.name_flags(name), mode=_MODE, encrypted=True,
    )  # fmt: skip
    head = wrapper_head(name, inner_size, mtime_ns=mtime_ns, force_zip64=force_zip64)
    directory_at = len(head) + stored_size
    return central + zr.end_records(1, len(central), directory_at)


def wrapper_overhead(name: bytes, inner_size: int, *, mtime_ns: int) -> int:
    """Give how many bytes larger the wrapper of a volume is; grows with `inner_size`."""
    head = wrapper_head(name, inner_size, mtime_ns=mtime_ns)
    return len(head) + aes.OVERHEAD + len(wrapper_end(name, inner_size, mtime_ns=mtime_ns))


def largest_inner_size(name: bytes, size: int, *, mtime_ns: int) -> int:
    """Give how large a volume may be whose wrapper has at most `size` bytes.

    `name` is the volume's, or one as long. Raises PlanError if not a single byte fits.
    """
    inner_size = size - wrapper_overhead(name, size, mtime_ns=mtime_ns)
    if inner_size < 1:
        raise PlanError(
            f"--split: {size} bytes are too few for an encrypted volume; "
            f"take at least {size - inner_size + 1}"
        )
    return inner_size


def wrap(
    name: bytes,
    inner_size: int,
    chunks: Iterable[bytes],
    password: bytes,
    *,
    mtime_ns: int,
    threads: int = 1,
    salt: bytes | None = None,
) -> Iterator[bytes]:
    """Yield a wrapper piece by piece, encrypting on `threads` cores; `chunks` is the volume.

    Raises ValueError if the volume turns out not to have `inner_size` bytes: then what was
    yielded is worth nothing. `salt` is for tests only.
    """
    yield wrapper_head(name, inner_size, mtime_ns=mtime_ns)
    size = 0
    for piece in aes.encrypt_stream(chunks, password, threads=threads, salt=salt):
        size += len(piece)
        yield piece
    if size != inner_size + aes.OVERHEAD:
        raise ValueError(f"a volume of {size - aes.OVERHEAD} bytes, announced with {inner_size}")
    yield wrapper_end(name, inner_size, mtime_ns=mtime_ns)


def write_wrapper(
    out_fd: int,
    name: bytes,
    inner_size: int,
    chunks: Iterable[bytes],
    password: bytes,
    *,
    mtime_ns: int,
    threads: int = 1,
) -> int:
    """Write a wrapper where `out_fd` stands; give its size in bytes. Raises as `wrap` does."""
    size = 0
    for piece in wrap(name, inner_size, chunks, password, mtime_ns=mtime_ns, threads=threads):
        size += write_all(out_fd, piece)
    return size


# -- reading


def unwrap(source: Source, password: bytes | None) -> WrappedSource | None:
    """Give what is inside if `source` is a wrapper, None if it is anything else.

    A wrapper is a ZIP whose only member is stored, AES-encrypted and named like an archive or a
    volume of one; how the file itself is called does not matter. Raises WrongPasswordError for a
    wrong password or none, ArchiveError for a damaged wrapper.
    """
    if not starts_like_wrapper(source.pread(WRAPPER_HEAD, 0)):
        return None
    from pybak.formats.zip_aes import ADVICE, packing_of
    from pybak.formats.zip_directory import read_directory
    from pybak.formats.zip_members import MemberReader

    directory = read_directory(source)
    if len(directory.members) != 1:
        return None
    member = directory.members[0]
    packing = packing_of(member)
    if packing is None or packing.method != zr.STORED or not _INNER_NAME.fullmatch(member.name):
        return None
    if password is None:
        raise WrongPasswordError(f"{source.label}: is encrypted; {ADVICE}")
    try:
        sealed = MemberReader(source, password).open(member, directory.limits[0])
    except WrongPasswordError as error:
        raise _wrong_password(source) from error
    return WrappedSource(source, sealed, member.name)


def starts_like_wrapper(head: bytes) -> bool:
    """Tell by the first WRAPPER_HEAD bytes, so that no other archive's directory is read."""
    if len(head) < zr.LOCAL.size or head[:4] != zr.LOCAL_SIGNATURE:
        return False
    fields = zr.LOCAL.unpack_from(head)
    method, name_size = fields[3], fields[9]
    name = head[zr.LOCAL.size :][:name_size]
    return method == zr.AES and len(name) == name_size and bool(_INNER_NAME.fullmatch(name))


def _wrong_password(source: Source) -> WrongPasswordError:
    return WrongPasswordError(f"{source.label}: wrong password; try another one")


class WrappedSource:
    """The volume inside a wrapper, as a Source: decrypted at any place. Made by `unwrap`.

    Decrypted is not authenticated: before anything that was read is taken for good, call
    `authenticate`. Closing it closes the wrapper's own source. `inner_name` is the volume's name.
    """

    def __init__(self, source: Source, sealed: Sealed, inner_name: bytes) -> None:
        """Look at the start, if an archive starts here, to find a wrong password early."""
        self.label = source.label
        self.size = sealed.size
        self.inner_name = inner_name
        self._source = source
        self._sealed = sealed
        # The verifier lets one wrong password in 65,536 pass. What it decrypts is noise.
        if not self._starts_well() and not sealed.is_genuine():
            raise _wrong_password(source)

    def _starts_well(self) -> bool:
        """Tell whether the start looks like an archive; true for volumes that have none."""
        found = _INNER_NAME.fullmatch(self.inner_name)
        if found and found[1] and int(found[1]) != 1:
            return True
        head = self.pread(_HEAD, 0)
        return head.startswith(_STARTS) or head[_TAR_MAGIC_AT:].startswith(b"ustar")

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What the wrapper's file looked like when it was opened."""
        return self._source.identity

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset`: fewer, or none, only at the end."""
        return self._sealed.pread(length, offset)

    def place(self, offset: int, length: int) -> str:  # noqa: ARG002 - a Source's signature
        """Give nothing: the label names the volume."""
        return ""

    def expect(self, length: int, offset: int) -> None:
        """Say that these bytes will be read next."""
        self._sealed.expect(length, offset)

    def forget(self) -> bool:
        """Have further reads fetch anew, if the wrapper is fetched at all."""
        return self._source.forget()

    def authenticate(self, advance: Callable[[int], None] = lambda _size: None) -> None:
        """Check the authentication code, in a pass over the whole file.

        Raises ArchiveError if the volume is damaged or was tampered with. `advance` is told the
        bytes done since the last call; what it raises goes through.
        """
        self._sealed.authenticate(advance)

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()
