"""Digests that go with what is sent to S3, and what the server's answers tell of the bytes it has.

An ETag is the MD5 of a file or a part, and of a file in parts the MD5 of theirs with their number
behind it, unless a key of KMS encrypts it. Where a server gives a SHA-256 back, that is compared.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from pybak.storage.protocol import Body, SentPart

SHA256: Final = "sha256"
"""Goes with every part; the server refuses what does not fit."""
SHA256_AND_ETAG: Final = "sha256+etag"
"""Goes with every part, but whether the server looks is not known: ETags are compared, too."""
MD5: Final = "md5"
NONE: Final = "none"

_BLOCK: Final = 1 << 20
_PLAIN_ETAG: Final = re.compile(r"[0-9a-f]{32}")
_PARTS_ETAG: Final = re.compile(r"[0-9a-f]{32}-\d+")


def headers(body: Body, digest: str) -> dict[str, str]:
    """Give what goes with a body, as parameters of the SDK. Raises OSError."""
    if digest in (SHA256, SHA256_AND_ETAG):
        return sha256_headers(body.sha256)
    if digest == MD5:
        return {"ContentMD5": base64.b64encode(bytes.fromhex(md5_of(body))).decode()}
    return {}


def sha256_headers(sha256: str) -> dict[str, str]:
    """Give what says that a body has this digest."""
    return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": in_base64(sha256)}


def is_body(answer: Any, body: Body, digest: str, *, known_md5: str = "") -> bool:
    """Whether a server tells of these bytes; True where it tells no digest. Raises OSError."""
    checksum = answer.get("ChecksumSHA256")
    if checksum is not None and checksum != in_base64(body.sha256):
        return False
    tag = etag(answer)
    if digest in (SHA256, NONE) or not _tells_md5(answer) or not _PLAIN_ETAG.fullmatch(tag):
        return True
    return tag == (known_md5 or md5_of(body))


def is_made_of(found: Any, parts: Sequence[SentPart], *, compared: bool) -> bool:
    """Whether what is told of a file fits these parts: its size, and its digest of digests.

    With `compared` false, only its size.
    """
    if found["ContentLength"] != sum(part.size for part in parts):
        return False
    ending = f"-{len(parts)}"
    checksum = str(found.get("ChecksumSHA256", ""))
    if checksum.endswith(ending):
        digests = b"".join(bytes.fromhex(part.sha256) for part in parts)
        return checksum == base64.b64encode(hashlib.sha256(digests).digest()).decode() + ending
    etags = [etag_of(part) for part in parts]
    known = compared and _tells_md5(found) and all(map(_PLAIN_ETAG.fullmatch, etags))
    if not known:
        return True
    if _PARTS_ETAG.fullmatch(etag(found)):
        md5 = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
        return etag(found) == md5.hexdigest() + ending
    return not _PLAIN_ETAG.fullmatch(etag(found))  # that of a file that was put whole


def _tells_md5(answer: Any) -> bool:
    """Whether an answer's ETag can be a digest: the bucket itself may encrypt with KMS."""
    return not str(answer.get("ServerSideEncryption") or "").startswith("aws:kms")


def etag(answer: Any) -> str:
    """Give the ETag of an answer, without its quotes."""
    return str(answer.get("ETag", "")).strip('"')


def etag_of(part: SentPart) -> str:
    """Give the ETag in a part's token, which is `sha256:ETAG` or `:ETAG`."""
    return part.token.partition(":")[2]


def in_base64(digest: str) -> str:
    """Give a digest in hex as headers have it."""
    return base64.b64encode(bytes.fromhex(digest)).decode()


def md5_of(body: Body) -> str:
    """Give the MD5 of a body in hex; reads all of it. Raises OSError."""
    digest = hashlib.md5(usedforsecurity=False)
    with body.open() as source:
        while block := source.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
