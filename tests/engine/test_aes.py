"""WinZip AES: vectors of others, round trips at every border, streams, random access."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator

import pytest
from Cryptodome.Cipher import AES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pybak import aes

PASSWORD = b"correct horse"
SALT = bytes(range(16))


def reference(password: bytes, salt: bytes, data: bytes) -> bytes:
    """The format's rules once more, block by block, with other libraries."""
    size = 2 * len(salt)
    made = hashlib.pbkdf2_hmac("sha1", password, salt, 1000, 2 * size + 2)
    cipher = AES.new(made[:size], AES.MODE_ECB)
    out = bytearray()
    for number, at in enumerate(range(0, len(data), 16), 1):
        stream = cipher.encrypt(number.to_bytes(16, "little"))
        out += bytes(a ^ b for a, b in zip(data[at : at + 16], stream, strict=False))
    mac = hmac.new(made[size : 2 * size], out, "sha1").digest()[:10]
    return salt + made[2 * size :] + bytes(out) + mac


KEYS = aes.derive(PASSWORD, SALT)
LENGTHS = st.one_of(
    st.integers(0, 100),
    st.integers(0, 70).flatmap(lambda blocks: st.integers(-1, 1).map(lambda by: blocks * 16 + by)),
).map(lambda length: max(length, 0))


@settings(max_examples=40, deadline=None)
@given(length=LENGTHS, salt_size=st.sampled_from([8, 12, 16]), password=st.binary(max_size=70))
@example(length=16, salt_size=16, password=b"x" * 65)  # longer than SHA-1's block
def test_a_member_is_what_the_format_says(length: int, salt_size: int, password: bytes) -> None:
    data = hashlib.shake_128(b"data").digest(length)
    salt = SALT[:salt_size]
    made = aes.encrypt(password, data, salt=salt)
    assert made == reference(password, salt, data)
    assert len(made) == length + salt_size + aes.VERIFIER_SIZE + aes.MAC_SIZE


def test_the_overhead_is_what_is_added() -> None:
    assert len(aes.encrypt(PASSWORD, b"")) == aes.OVERHEAD == 28


def test_every_member_gets_a_salt_of_its_own() -> None:
    """The counter starts at 1, so one salt twice would give away both contents."""
    assert len({aes.encrypt(PASSWORD, b"")[:16] for _ in range(20)}) == 20
    assert len({aes.Encryptor(PASSWORD).head for _ in range(20)}) == 20
    assert len({next(aes.encrypt_stream([b"x"], PASSWORD)) for _ in range(20)}) == 20


def test_a_salt_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="13"):
        aes.derive(PASSWORD, bytes(13))


@settings(deadline=None)
@given(pieces=st.lists(LENGTHS, max_size=6))
def test_pieces_of_any_size_make_the_same_member(pieces: list[int]) -> None:
    data = hashlib.shake_128(b"more").digest(sum(pieces))
    writer = aes.Encryptor(PASSWORD, SALT)
    made = writer.head
    at = 0
    for size in pieces:
        made += writer.update(data[at : at + size])
        at += size
    assert made + writer.tail() == aes.encrypt(PASSWORD, data, salt=SALT)


@settings(deadline=None)
@given(length=LENGTHS, offset=st.integers(0, 1200), size=st.integers(0, 1200))
def test_any_range_can_be_decrypted_alone(length: int, offset: int, size: int) -> None:
    data = hashlib.shake_128(b"range").digest(length)
    ciphertext = KEYS.apply(data)
    assert KEYS.apply(ciphertext[offset : offset + size], offset) == data[offset : offset + size]


@pytest.mark.parametrize("block", [1 << 8, 1 << 16, 1 << 32, 1 << 40])
def test_the_counter_carries_over_every_byte(block: int) -> None:
    """The counter of the block numbered `block` stands where it should, for huge members too."""
    raw = AES.new(hashlib.pbkdf2_hmac("sha1", PASSWORD, SALT, 1000, 66)[:32], AES.MODE_ECB)
    expected = b"".join(raw.encrypt((block + by).to_bytes(16, "little")) for by in (-1, 0, 1))
    assert KEYS.apply(bytes(48), (block - 2) * 16) == expected


def test_data_can_be_encrypted_in_place() -> None:
    data = bytearray(b"0123456789" * 10)
    expected = KEYS.apply(bytes(data), 5)
    KEYS.apply_into(data, data, 5)
    assert data == expected


def sizes_of(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


MIB = 1 << 20
NOISE = hashlib.shake_128(b"noise").digest(5 * MIB + 7)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0, 0],
        [1] * 300,
        [15, 17, 16],
        [MIB] * 5,
        [MIB - 1, MIB + 1, MIB],
        [64 << 10, (64 << 10) - 1, 3],
        [100_000] * 30,
        [3, 4 * MIB],
    ],
    ids=lambda sizes: f"{len(sizes)} chunks, first {sizes[:3]}",
)
def test_a_stream_is_the_same_whatever_its_chunks_and_threads(
    sizes: list[int], threads: int
) -> None:
    made = list(aes.encrypt_stream(sizes_of(NOISE, sizes), PASSWORD, threads=threads, salt=SALT))
    assert b"".join(made) == aes.encrypt(PASSWORD, NOISE, salt=SALT)
    assert max(map(len, made)) <= MIB


@pytest.mark.parametrize("threads", [1, 3])
def test_an_empty_stream_is_an_empty_member(threads: int) -> None:
    made = b"".join(aes.encrypt_stream([], PASSWORD, threads=threads, salt=SALT))
    assert made == aes.encrypt(PASSWORD, b"", salt=SALT)


def test_a_stream_can_be_decrypted_from_any_offset() -> None:
    ciphertext = KEYS.apply(NOISE)
    pieces = aes.apply_stream([ciphertext[MIB + 3 :]], KEYS, offset=MIB + 3, threads=2)
    assert b"".join(pieces) == NOISE[MIB + 3 :]


def test_a_stream_reads_no_further_ahead_than_it_must() -> None:
    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(MIB)

    stream = aes.encrypt_stream(chunks(), PASSWORD, threads=2)
    next(stream)
    for done in range(1, 6):
        next(stream)
        assert taken <= done + 6


def test_what_goes_wrong_in_the_chunks_ends_the_stream_and_its_threads() -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(3 * MIB)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(aes.encrypt_stream(chunks(), PASSWORD, threads=2))
    assert not [one for one in threading.enumerate() if one.name.startswith("pybak-aes")]


def test_a_stream_that_is_left_early_leaves_no_threads() -> None:
    stream = aes.encrypt_stream([NOISE] * 3, PASSWORD, threads=2)
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("pybak-aes")]


def test_keys_show_nothing() -> None:
    assert "cipher" not in repr(KEYS)
    assert KEYS.verifier.hex() not in repr(KEYS)
    assert not hasattr(KEYS, "__dict__")
