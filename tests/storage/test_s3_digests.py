"""What S3's answers tell of the bytes that it has, in the ways of the servers there are."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from blocks.s3 import S3Settings, S3Storage
from blocks.s3_digests import MD5, NONE, SHA256, SHA256_AND_ETAG, is_body, is_made_of
from pybak.errors import StorageError
from pybak.storage.body import BytesBody
from pybak.storage.protocol import SentPart

BODY = BytesBody(b"content")
TAG = hashlib.md5(b"content").hexdigest()
OTHER_TAG = hashlib.md5(b"other").hexdigest()
SUM = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
OTHER_SUM = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
KMS = {"ServerSideEncryption": "aws:kms"}


@pytest.mark.parametrize(
    ("answer", "digest", "fits"),
    [
        ({"ETag": f'"{TAG}"'}, MD5, True),
        ({"ETag": f'"{OTHER_TAG}"'}, MD5, False),
        ({"ETag": f'"{OTHER_TAG}"'}, SHA256_AND_ETAG, False),
        ({"ETag": f'"{OTHER_TAG}"'}, SHA256, True),  # the server compared
        ({"ETag": f'"{OTHER_TAG}"'}, NONE, True),
        ({"ETag": f'"{OTHER_TAG}"', **KMS}, MD5, True),
        ({"ETag": '"0x8DC1"'}, MD5, True),
        ({"ETag": f'"{TAG}"', "ChecksumSHA256": SUM}, SHA256, True),
        ({"ETag": f'"{TAG}"', "ChecksumSHA256": OTHER_SUM}, SHA256, False),
        ({"ETag": f'"{OTHER_TAG}"', "ChecksumSHA256": SUM}, SHA256_AND_ETAG, False),
        ({"ETag": f'"{OTHER_TAG}"', "ChecksumSHA256": OTHER_SUM, **KMS}, SHA256_AND_ETAG, False),
    ],
)
def test_an_answer_is_compared_by_the_digests_that_it_tells(
    answer: dict[str, str], digest: str, fits: bool
) -> None:
    assert is_body(answer, BODY, digest) is fits


def parts() -> list[SentPart]:
    return [
        SentPart(
            n, len(data), hashlib.sha256(data).hexdigest(), f":{hashlib.md5(data).hexdigest()}"
        )
        for n, data in ((1, b"one"), (4, b"four"))
    ]


def md5_of_md5s(*pieces: bytes) -> str:
    whole = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    return f'"{hashlib.md5(whole).hexdigest()}-{len(pieces)}"'


def sum_of_sums(*pieces: bytes) -> str:
    whole = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    return f"{base64.b64encode(hashlib.sha256(whole).digest()).decode()}-{len(pieces)}"


RIGHT, WRONG = md5_of_md5s(b"one", b"four"), md5_of_md5s(b"four", b"one")


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ({"ETag": RIGHT}, True),
        ({"ETag": WRONG}, False),
        ({"ETag": md5_of_md5s(b"onefour")}, False),
        ({"ETag": f'"{hashlib.md5(b"onefour").hexdigest()}"'}, False),  # put whole by another
        ({"ETag": WRONG, **KMS}, True),
        ({"ETag": '"0x8DC1"'}, True),
        ({"ETag": RIGHT, "ContentLength": 8}, False),
        ({"ETag": WRONG, "ChecksumSHA256": sum_of_sums(b"one", b"four")}, True),
        ({"ETag": RIGHT, "ChecksumSHA256": sum_of_sums(b"four", b"one")}, False),
        ({"ETag": WRONG, "ChecksumSHA256": sum_of_sums(b"four", b"one"), **KMS}, False),
    ],
)
def test_a_file_is_compared_by_the_digest_of_its_parts_digests(
    found: dict[str, Any], fits: bool
) -> None:
    assert is_made_of({"ContentLength": 7, **found}, parts(), compared=True) is fits


def test_only_sizes_are_compared_where_etags_are_no_digests() -> None:
    assert is_made_of({"ContentLength": 7, "ETag": WRONG}, parts(), compared=False)
    assert not is_made_of({"ContentLength": 8, "ETag": WRONG}, parts(), compared=False)


def test_a_file_of_which_the_server_made_something_else_is_deleted(
    s3_address: str, swift: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 102)"""
    bucket, _, prefix = s3_address.removeprefix("s3://").partition("/")
    storage = S3Storage(S3Settings(bucket=bucket, prefix=prefix))
    upload = storage.begin("a.zip")
    sent = storage.send(upload, 1, BODY)
    real = storage._reader.head_if_allowed

    def changed(name: str) -> Any:
        found = real(name)
        return found and {**found, "ETag": WRONG}

    monkeypatch.setattr(storage._reader, "head_if_allowed", changed)
    with pytest.raises(StorageError, match=r"a\.zip: the storage made other bytes of the parts"):
        storage.complete(upload, [sent])
    assert storage.stat("a.zip") is None
