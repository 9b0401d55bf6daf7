"""Encrypted members of ZIP archives: what opens them, and what never gets out of them unchecked.

WinZip AES (AE-1 and AE-2, 128 to 256 bits) is read; ZipCrypto and PKWARE's strong encryption are
refused by name. A member's MAC is over its ciphertext: `open_whole` checks it before it decrypts.
A member that is read in pieces is decrypted on the way, and `Stream.check` tells at the end
whether it was genuine, so what was read must not be given out as good before; `Sealed.authenticate`
checks first, in a pass of its own.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

import msgspec

from pybak import aes
from pybak.errors import ArchiveError, WrongPasswordError
from pybak.formats import zip_records as zr
from pybak.formats.manifest import MEMBER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybak.formats.source import Source
    from pybak.formats.zip_directory import Directory, Member
    from pybak.formats.zip_members import MemberReader

ADVICE: Final = "give the password with -p, PYBAK_PASSWORD or --password-block"

_FLAG_STRONG = 1 << 6
_FLAG_MASKED = 1 << 13
_READ = 1 << 20
_PROBES = 8


class Packing(msgspec.Struct, frozen=True, gc=False):
    """How a member's content is packed: compression first, encryption around it.

    `size` is in bytes after compression, before encryption. Without encryption `salt_size` is 0.
    """

    method: int
    size: int
    has_crc: bool = True
    salt_size: int = 0

    @property
    def is_encrypted(self) -> bool:
        """Whether there is encryption around it."""
        return self.salt_size > 0


def packing_of(member: Member) -> Packing | None:
    """Give how a member is packed; None if it is encrypted in a way that can't be read."""
    if not member.is_encrypted:
        return Packing(member.method, member.stored_size)
    field = zr.read_aes_field(member.extra) if member.method == zr.AES else None
    if field is None or member.flags & (_FLAG_STRONG | _FLAG_MASKED):
        return None
    size = member.stored_size - field.salt_size - aes.VERIFIER_SIZE - aes.MAC_SIZE
    # A negative size is left for whoever compares claims.
    return Packing(field.method, size, field.has_crc, field.salt_size)


def foreign_encryption(member: Member) -> str:
    """Say what a member is encrypted with that `packing_of` knows no way into."""
    if member.flags & (_FLAG_STRONG | _FLAG_MASKED):
        return "is encrypted with PKWARE's strong encryption; unpack it with what made it"
    if member.method == zr.AES:
        return "is encrypted with AES in a way that is not WinZip's; unpack it with what made it"
    return "is encrypted with ZipCrypto, which PyBak doesn't read; unpack it with 7z or unzip"


def open_whole(payload: memoryview, salt_size: int, password: bytes, subject: str) -> bytes:
    """Authenticate and decrypt all of a member's stored data; `subject` names it in errors.

    Raises WrongPasswordError if the verifier does not match, ArchiveError if the MAC does not.
    """
    head = salt_size + aes.VERIFIER_SIZE
    keys = _keys(payload[:head], salt_size, password, subject)
    ciphertext = payload[head : len(payload) - aes.MAC_SIZE]
    if not aes.is_mac(keys.mac(ciphertext), payload[len(payload) - aes.MAC_SIZE :]):
        raise _tampered(subject)
    return keys.apply(ciphertext)


def _keys(head: bytes | memoryview, salt_size: int, password: bytes, subject: str) -> aes.Keys:
    keys = aes.derive(password, bytes(head[:salt_size]))
    if not aes.is_mac(keys.verifier, head[salt_size:]):
        raise WrongPasswordError(f"{subject} does not open with this password; try another one")
    return keys


def _tampered(subject: str) -> ArchiveError:
    return ArchiveError(
        f"{subject} is damaged or was tampered with: its authentication code is wrong; "
        "use another copy of it"
    )


class Sealed:
    """One member's encrypted data in `source`, opened by its verifier. Threads may share one.

    `at` is where the stored data starts, `size` how many bytes of content it holds. Raises
    WrongPasswordError if the verifier does not match; one wrong password in 65,536 passes.
    """

    def __init__(
        self, source: Source, at: int, size: int, salt_size: int, password: bytes, subject: str
    ) -> None:
        self.size = size
        self._source = source
        self._subject = subject
        self._at = at + salt_size + aes.VERIFIER_SIZE
        self._keys = _keys(self._fetch(self._at - at, at), salt_size, password, subject)

    def _fetch(self, length: int, at: int) -> bytes:
        data = self._source.pread(length, at)
        if len(data) < length:
            raise ArchiveError(f"{self._subject} is cut short; use another copy of it")
        return data

    def pread(self, length: int, offset: int) -> bytes:
        """Read at most `length` bytes at `offset` of the content, decrypted, not authenticated."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        return self._keys.apply(self._fetch(length, self._at + offset), offset)

    def expect(self, length: int, offset: int) -> None:
        """Say that these bytes of the content will be read next."""
        self._source.expect(length, self._at + offset)

    def stream(self) -> Stream:
        """Give the content from its start on, with a check at its end."""
        return Stream(self)

    def authenticate(self, advance: Callable[[int], None] = lambda _size: None) -> None:
        """Check the MAC over all of the ciphertext; raise ArchiveError if it is wrong.

        `advance` is told the bytes done since the last call; what it raises goes through.
        """
        if not self.is_genuine(advance):
            raise _tampered(self._subject)

    def is_genuine(self, advance: Callable[[int], None] = lambda _size: None) -> bool:
        """Tell whether the MAC is right, in a pass over all of the ciphertext."""
        mac = self._keys.running_mac()
        self.expect(self.size, 0)
        for at in range(0, self.size, _READ):
            data = self._fetch(min(_READ, self.size - at), self._at + at)
            mac.update(data)
            advance(len(data))
        return self._is_mac(mac)

    def _is_mac(self, mac: aes.RunningMac) -> bool:
        return aes.is_mac(mac.digest(), self._fetch(aes.MAC_SIZE, self._at + self.size))


class Stream:
    """The content of a sealed member, read once from start to end. For one thread."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        self._mac = sealed._keys.running_mac()
        self._done = 0

    def pread(self, length: int, offset: int) -> bytes:
        """Read on: at most `length` bytes; `offset` must be where the last read ended."""
        if offset != self._done:
            raise ValueError("a stream is read in order")
        sealed = self._sealed
        length = min(length, sealed.size - offset)
        if length <= 0:
            return b""
        ciphertext = sealed._fetch(length, sealed._at + offset)
        self._mac.update(ciphertext)
        self._done += length
        return sealed._keys.apply(ciphertext, offset)

    def check(self) -> None:
        """Raise ArchiveError unless all was read and the MAC is right."""
        if self._done != self._sealed.size or not self._sealed._is_mac(self._mac):
            raise _tampered(self._sealed._subject)


def check_password(reader: MemberReader, directory: Directory, label: str) -> None:
    """Make sure of the password before anything is unpacked.

    The manifest is tried first, without one the smallest encrypted member: verifier and MAC. If it
    is not genuine, other members (which have other salts) tell a wrong password, even one that a
    verifier let pass, from damage. Damage is not raised here: whoever reads the members names them.
    Does nothing if no member is encrypted with AES. Raises WrongPasswordError for a wrong
    password, and for none where one is needed.
    """
    probes = heapq.nsmallest(
        _PROBES,
        (
            (member.name != MEMBER_NAME, member.stored_size, index)
            for index, member in enumerate(directory.members)
            if member.method == zr.AES and index not in directory.clashes
        ),
    )
    if not probes:
        return
    if not reader.has_password:
        raise WrongPasswordError(f"{label}: is encrypted; {ADVICE}")
    passed = failed = 0
    for _, _, index in probes:
        try:
            sealed = reader.open(directory.members[index], directory.limits[index])
        except WrongPasswordError:
            failed += 1
        except ArchiveError:
            continue  # tells nothing about the password
        else:
            if sealed.is_genuine():
                return
            passed += 1
    if failed > passed:
        raise WrongPasswordError(f"{label}: wrong password; try another one")
