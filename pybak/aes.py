"""WinZip AES as bytes: keys from a password, AES in counter mode, and the authentication code.

A member's data is salt, verifier (2 bytes), ciphertext and MAC (10 bytes), as WinZip's "AES
Encryption Information" (AE-1 and AE-2) lays them out. Keys are PBKDF2-HMAC-SHA1 (RFC 2898) with
1000 rounds, the counter is little-endian and starts at 1, the MAC is HMAC-SHA1 over the
ciphertext, cut to 10 bytes. PyBak writes AES-256; the salt's length tells the key's, so 128 and
192 bits are read as well.

The counter always starts at 1, so two members must never share a salt: each gets its own from
the system's random numbers. Everything here lets other threads run while it works.
"""

from __future__ import annotations

import hmac
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

SALT_SIZE: Final = 16
"""Bytes of salt before AES-256 data: half of the key's length, as for every strength."""
VERIFIER_SIZE: Final = 2
MAC_SIZE: Final = 10
HEAD_SIZE: Final = SALT_SIZE + VERIFIER_SIZE
OVERHEAD: Final = HEAD_SIZE + MAC_SIZE
"""What AES-256 adds to a member's data, in bytes."""

Data = bytes | bytearray | memoryview

_ROUNDS = 1000
_AES_BLOCK = 16
_SALT_SIZES = frozenset({8, 12, 16})
# A step of a stream; smaller ones pass the interpreter's lock to and fro.
_STEP = 1 << 20
_GATHER = 64 << 10


class Keys:
    """What a password and a salt give; made by `derive`. Threads may share one."""

    __slots__ = ("_cipher_key", "_mac_key", "verifier")

    def __init__(self, cipher_key: bytes, mac_key: bytes, verifier: bytes) -> None:
        self._cipher_key = cipher_key
        self._mac_key = mac_key
        self.verifier = verifier

    def apply(self, data: Data, offset: int = 0) -> bytes:
        """Encrypt or decrypt, which is the same, data that lies at `offset` in the content.

        `offset` is in bytes and need not be a multiple of 16.
        """
        # Without a buffer of ours the library is a third slower at 1 MiB.
        result = bytearray(len(data))
        self.apply_into(result, data, offset)
        return bytes(result)

    def apply_into(self, output: bytearray | memoryview, data: Data, offset: int = 0) -> None:
        """Do as `apply` does, but put the result into `output`, which has the size of `data`.

        `output` may be `data` itself.
        """
        block, skip = divmod(offset, _AES_BLOCK)
        cipher = _counter_mode(self._cipher_key, block + 1)
        if skip:
            cipher.encrypt(bytes(skip))
        cipher.encrypt(data, output=output)

    def mac(self, ciphertext: Data) -> bytes:
        """Give the MAC of a whole ciphertext."""
        return hmac.digest(self._mac_key, ciphertext, "sha1")[:MAC_SIZE]

    def running_mac(self) -> RunningMac:
        """Give what makes the MAC of a ciphertext that comes in pieces."""
        return RunningMac(self._mac_key)


class RunningMac:
    """The MAC of a ciphertext that is fed piece by piece, in order."""

    __slots__ = ("_hmac", "update")

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac.new(key, digestmod="sha1")
        self.update = self._hmac.update

    def digest(self) -> bytes:
        """Give the MAC of what was fed so far."""
        return self._hmac.digest()[:MAC_SIZE]


def derive(password: bytes, salt: bytes) -> Keys:
    """Give the keys of AES-128, 192 or 256, for a salt of 8, 12 or 16 bytes.

    Takes about half a millisecond: this, not the cipher, is what many small members cost.
    """
    # Twice as fast as hashlib's, which starts HMAC from the key in every round. Imported here
    # because most runs encrypt nothing.
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    if len(salt) not in _SALT_SIZES:
        raise ValueError(f"a salt of {len(salt)} bytes")
    key_size = 2 * len(salt)
    # SHA-1 is the format's; as a MAC and in PBKDF2 its known collisions do not matter.
    made = PBKDF2HMAC(SHA1(), 2 * key_size + VERIFIER_SIZE, salt, _ROUNDS).derive(password)  # noqa: S303
    return Keys(made[:key_size], made[key_size : 2 * key_size], made[2 * key_size :])


def _counter_mode(key: bytes, block: int) -> Any:
    """Give the library's cipher, set to the `block`th 16 bytes, counted from 1."""
    from Cryptodome.Cipher import AES
    from Cryptodome.Util import Counter

    counter = Counter.new(8 * _AES_BLOCK, little_endian=True, initial_value=block)
    return AES.new(key, AES.MODE_CTR, counter=counter)


def is_mac(made: bytes, stored: Data) -> bool:
    """Compare two MACs, taking the same time wherever they differ."""
    return hmac.compare_digest(made, stored)


def new_salt() -> bytes:
    """Give a fresh random salt for one member."""
    return os.urandom(SALT_SIZE)


def encrypt(password: bytes, data: Data, *, salt: bytes | None = None) -> bytes:
    """Encrypt a whole member: head, ciphertext and MAC, OVERHEAD bytes more than `data`.

    `salt` is for tests only.
    """
    salt = salt or new_salt()
    keys = derive(password, salt)
    ciphertext = bytearray(len(data))
    if data:
        keys.apply_into(ciphertext, data)
    return b"".join((salt, keys.verifier, ciphertext, keys.mac(ciphertext)))


def password_check(password: bytes) -> bytes:
    """Give bytes that `is_password` knows the password by; they tell as much as any member."""
    return encrypt(password, b"")


def is_password(password: bytes, check: bytes) -> bool:
    """Whether `check` was made with this password."""
    return is_mac(encrypt(password, b"", salt=check[:SALT_SIZE]), check)


class Encryptor:
    """Encrypts a member that comes in pieces: `head`, then what `update` gives, then `tail()`."""

    def __init__(self, password: bytes, salt: bytes | None = None) -> None:
        salt = salt or new_salt()
        self._keys = derive(password, salt)
        self._mac = self._keys.running_mac()
        self._offset = 0
        self.head = salt + self._keys.verifier

    def update(self, data: Data) -> bytes:
        """Give the ciphertext of the next piece; pieces may be of any size."""
        ciphertext = self._keys.apply(data, self._offset)
        self._offset += len(data)
        self._mac.update(ciphertext)
        return ciphertext

    def tail(self) -> bytes:
        """Give the MAC, once all pieces are through."""
        return self._mac.digest()


def encrypt_stream(
    chunks: Iterable[bytes], password: bytes, *, threads: int = 1, salt: bytes | None = None
) -> Iterator[bytes]:
    """Encrypt a large member on `threads` cores: head, ciphertext in pieces, MAC.

    Holds a few pieces in memory, whatever the sizes of `chunks`, which are read in the caller's
    thread. The pieces are encrypted side by side; the MAC is one pass behind them.
    """
    salt = salt or new_salt()
    keys = derive(password, salt)
    mac = keys.running_mac()
    yield salt + keys.verifier
    for ciphertext in apply_stream(chunks, keys, threads=threads):
        mac.update(ciphertext)
        yield ciphertext
    yield mac.digest()


def apply_stream(
    chunks: Iterable[bytes], keys: Keys, *, offset: int = 0, threads: int = 1
) -> Iterator[bytes]:
    """Encrypt or decrypt a run of bytes that starts at `offset` in the content, in order.

    Pieces that come out are not those that went in. No MAC is made or checked here.
    """
    if threads < 2:
        for piece in _even(chunks):
            yield keys.apply(piece, offset)
            offset += len(piece)
        return
    # Buffers are used again: fresh ones would be filled with zeros, and that under the
    # interpreter's lock.
    free = [bytearray(_STEP) for _ in range(2 * threads + 1)]
    waiting: deque[tuple[Future[None], memoryview, bytearray]] = deque()

    def finished() -> bytes:
        future, made, buffer = waiting.popleft()
        future.result()
        free.append(buffer)
        return bytes(made)

    with ThreadPoolExecutor(threads, thread_name_prefix="pybak-aes") as pool:
        try:
            for piece in _even(chunks):
                if not free:
                    yield finished()
                buffer = free.pop()
                output = memoryview(buffer)[: len(piece)]
                future = pool.submit(keys.apply_into, output, piece, offset)
                waiting.append((future, output, buffer))
                offset += len(piece)
            while waiting:
                yield finished()
        finally:
            for future, _, _ in waiting:
                future.cancel()


def _even(chunks: Iterable[bytes]) -> Iterator[Data]:
    """Cut large chunks and put small ones together, so that every piece is worth a step."""
    gathered = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        if gathered or len(chunk) < _GATHER:
            gathered += chunk
            if len(gathered) < _GATHER:
                continue
            view, gathered = memoryview(gathered), bytearray()
        for at in range(0, len(view), _STEP):
            yield view[at : at + _STEP]
    if gathered:
        yield gathered
