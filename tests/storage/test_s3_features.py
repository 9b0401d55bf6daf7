"""What S3 offers beside keeping bytes: locks, classes, encryption, digests, TLS (moto, Swift)."""

from __future__ import annotations

import base64
import hashlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from botocore.exceptions import ClientError
from faults import Fault, FaultProxy
from s3_servers import S3Server, running_swift

from blocks.s3 import S3Settings, S3Storage, open_address
from blocks.s3_errors import translate
from pybak.errors import PlanError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.opening import open_storage

DAY = 86_400


@pytest.fixture
def plain(moto: S3Server) -> S3Settings:
    """Give the settings of an empty folder on moto."""
    return S3Settings(
        bucket=moto.new_bucket(), prefix="p", endpoint=moto.endpoint, session=moto.session
    )


def both_ways(storage: S3Storage) -> list[str]:
    """Put a file whole and one in parts; give their keys."""
    storage.put("whole.zip", BytesBody(b"content"))
    upload = storage.begin("parts.zip")
    first = storage.send(upload, 1, BytesBody(bytes(5 << 20)))
    storage.complete(upload, [first, storage.send(upload, 2, BytesBody(b"end"))])
    return [f"{storage.settings.folder}{name}" for name in ("whole.zip", "parts.zip")]


def heads(moto: S3Server, storage: S3Storage) -> list[Any]:
    return [
        moto.client().head_object(Bucket=storage.settings.bucket, Key=key, ChecksumMode="ENABLED")
        for key in both_ways(storage)
    ]


def test_files_get_the_class_and_the_encryption_of_the_settings(
    moto: S3Server, plain: S3Settings
) -> None:
    for settings in (
        replace(plain, prefix="a", storage_class="STANDARD_IA", encryption="AES256"),
        replace(plain, prefix="b", encryption="aws:kms", kms_key="alias/backups"),
    ):
        for head in heads(moto, S3Storage(settings)):
            assert head.get("StorageClass") == settings.storage_class
            assert head["ServerSideEncryption"] == settings.encryption
            assert head.get("SSEKMSKeyId") == settings.kms_key


def test_files_keep_the_digests_that_were_sent(moto: S3Server, plain: S3Settings) -> None:
    whole, parts = heads(moto, S3Storage(plain))
    assert whole["ChecksumSHA256"] == "7XACtDnprIRfIjV9giusFERzD722AW0+yUMil7nsn3M="
    # moto leaves out the number of parts that Amazon puts behind it.
    pieces = hashlib.sha256(bytes(5 << 20)).digest() + hashlib.sha256(b"end").digest()
    assert base64.b64decode(parts["ChecksumSHA256"]) == hashlib.sha256(pieces).digest()


def test_a_lock_keeps_files_for_the_days_of_the_settings(
    moto: S3Server, plain: S3Settings, faulty: Callable[[str], FaultProxy]
) -> None:
    """(case 107)"""
    proxy = faulty(moto.endpoint)
    bucket = moto.new_bucket(ObjectLockEnabledForBucket=True)
    now = float(int(time.time()))
    settings = replace(
        plain, bucket=bucket, endpoint=proxy.endpoint, lock_mode="COMPLIANCE", lock_days=3
    )
    storage = S3Storage(settings, now=lambda: now)
    whole, _ = heads(moto, storage)
    assert whole["ObjectLockMode"] == "COMPLIANCE"
    assert whole["ObjectLockRetainUntilDate"].timestamp() == now + 3 * DAY
    # moto forgets the lock of a file in parts, so what it was asked for must do.
    put = next(r.headers for r in proxy.requests if r.method == "PUT")
    begin = next(r.headers for r in proxy.requests if r.target.endswith("?uploads"))
    for header in ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date"):
        assert put[header] == begin[header]

    with pytest.raises(
        StorageError, match=r"whole\.zip: is locked \(COMPLIANCE\) until 20"
    ) as told:
        storage.delete("whole.zip")
    assert not told.value.retryable
    assert {found.name for found in storage.list()} == {"parts.zip", "whole.zip"}
    later = S3Storage(settings, now=lambda: now + 4 * DAY)
    assert later.delete("whole.zip")
    assert {found.name for found in storage.list()} == {"parts.zip"}


def test_a_legal_hold_is_told(moto: S3Server, plain: S3Settings) -> None:
    """(case 107)"""
    bucket = moto.new_bucket(ObjectLockEnabledForBucket=True)
    storage = S3Storage(replace(plain, bucket=bucket))
    storage.put("a.zip", BytesBody(b"content"))
    hold = {"Bucket": bucket, "Key": "p/a.zip", "LegalHold": {"Status": "ON"}}
    moto.client().put_object_legal_hold(**hold)
    with pytest.raises(StorageError, match="legal hold"):
        storage.delete("a.zip")


def test_temporary_files_are_neither_locked_nor_of_a_class_that_costs_for_a_while(
    moto: S3Server, plain: S3Settings
) -> None:
    """(case 107)"""
    bucket = moto.new_bucket(ObjectLockEnabledForBucket=True)
    storage = S3Storage(
        replace(
            plain, bucket=bucket, lock_mode="COMPLIANCE", lock_days=3, storage_class="STANDARD_IA"
        )
    )
    storage.put("soon-gone", BytesBody(b"content"), temporary=True)
    key = storage.settings.folder + "soon-gone"
    found = moto.client().head_object(Bucket=bucket, Key=key)
    assert "ObjectLockMode" not in found
    assert found.get("StorageClass", "STANDARD") == "STANDARD"
    assert storage.delete("soon-gone")


def test_a_lock_is_refused_by_a_bucket_that_has_none(plain: S3Settings) -> None:
    storage = S3Storage(replace(plain, lock_mode="GOVERNANCE", lock_days=1))
    with pytest.raises(StorageError, match=r"a\.zip: "):
        storage.put("a.zip", BytesBody(b"content"))


def test_in_a_versioned_bucket_a_deleted_name_is_free_again(
    moto: S3Server, plain: S3Settings
) -> None:
    moto.client().put_bucket_versioning(
        Bucket=plain.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    storage = S3Storage(plain)
    storage.put("a.zip", BytesBody(b"first"))
    assert storage.delete("a.zip")
    assert storage.stat("a.zip") is None
    assert list(storage.list()) == []
    storage.put("a.zip", BytesBody(b"second"))
    assert storage.read("a.zip", 0, 10) == b"second"


def test_more_files_than_one_answer_holds_are_listed(moto: S3Server, plain: S3Settings) -> None:
    client, names = moto.client(), [f"{n:04}.zip" for n in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.put_object(Bucket=plain.bucket, Key=f"p/{n}"), names))
    assert [found.name for found in S3Storage(plain).list()] == names


@pytest.mark.parametrize("code", ["AccessDenied", "403"])
def test_credentials_that_may_only_write_can_make_archives(
    moto: S3Server, plain: S3Settings, faulty: Callable[[str], FaultProxy], code: str
) -> None:
    """(case 97)"""
    proxy = faulty(moto.endpoint)
    for method, matches in (("GET", ""), ("HEAD", ""), ("DELETE", r"zip(\?x-id=DeleteObject)?$")):
        proxy.arm(Fault("status", method, matches, times=1000, status=403, code=code))
    storage = S3Storage(replace(plain, endpoint=proxy.endpoint))
    storage.check()
    both_ways(storage)
    with pytest.raises(StorageError, match=r"s3:(GetObject|ListBucket)"):
        storage.stat("whole.zip")
    proxy.faults[1].times = 0
    with pytest.raises(StorageError, match="s3:DeleteObject"):
        storage.delete("whole.zip")
    stored = {found.name: found.size for found in S3Storage(plain).list()}
    assert stored == {"whole.zip": 7, "parts.zip": (5 << 20) + 3}


def test_credentials_that_may_do_nothing_are_refused_by_the_check(
    moto: S3Server, plain: S3Settings, faulty: Callable[[str], FaultProxy]
) -> None:
    """(case 97)"""
    proxy = faulty(moto.endpoint)
    proxy.arm(Fault("status", times=1000, status=403, code="AccessDenied"))
    with pytest.raises(StorageError, match="grant s3:ListBucket"):
        S3Storage(replace(plain, endpoint=proxy.endpoint)).check()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give the file of an authority, and that of a certificate of 127.0.0.1 with its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "authority.pem")
    made.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder / "authority.pem", folder / "server.pem"


@pytest.fixture(scope="module")
def over_tls(
    authority: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    with running_swift(tmp_path_factory.mktemp("swift-tls"), authority) as server:
        yield server


@pytest.mark.needs_component("swift")
def test_archives_go_over_tls_and_the_environment_names_the_authority(
    over_tls: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = over_tls.new_bucket()
    for name, value in over_tls.environment().items():
        monkeypatch.setenv(name, value)
    storage = open_address(f"s3://{bucket}/over/tls")
    for key in both_ways(storage):
        assert over_tls.client().head_object(Bucket=bucket, Key=key)
    assert storage.read("parts.zip", 5 << 20, 10) == b"end"


@pytest.mark.needs_component("swift")
def test_a_certificate_that_is_not_trusted_is_told(over_tls: S3Server) -> None:
    settings = S3Settings(
        bucket="bucket", endpoint=over_tls.endpoint, session=over_tls.session, attempts=1
    )
    with pytest.raises(StorageError, match=r"certificate is not trusted.*AWS_CA_BUNDLE") as told:
        S3Storage(settings).check()
    assert not told.value.retryable


def test_an_address_opens_the_storage_that_the_environment_describes(s3_address: str) -> None:
    storage = open_storage(s3_address)
    assert storage.address == s3_address
    assert open_storage(f"{s3_address}/") is storage
    storage.put("a.zip", BytesBody(b"content"))
    assert open_storage(s3_address).read("a.zip", 0, 3) == b"con"


@pytest.mark.parametrize("address", ["s3://", "s3:bucket", "s3:///prefix"])
def test_an_address_without_a_bucket_is_refused(address: str) -> None:
    with pytest.raises(PlanError, match="s3://BUCKET/PREFIX"):
        open_address(address)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"encryption": "rot13"}, "rot13.*AES256"),
        ({"kms_key": "k"}, "KMS key.*aws:kms"),
        ({"lock_mode": "COMPLIANCE"}, "mode and its days"),
        ({"lock_mode": "COMPLIANCE", "lock_days": 0}, "1 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        S3Settings(bucket="bucket", **more)


def test_a_bucket_whose_name_can_not_be_one_is_told(moto: S3Server) -> None:
    settings = S3Settings(bucket="no name!", endpoint=moto.endpoint, session=moto.session)
    with pytest.raises(PlanError, match="check bucket, region and endpoint"):
        S3Storage(settings).check()


def test_a_storage_can_be_sent_to_another_process(s3_address: str) -> None:
    storage = open_address(s3_address)
    storage.check()
    copy = pickle.loads(pickle.dumps(storage))
    copy.put("a.zip", BytesBody(b"content"))
    assert storage.read("a.zip", 0, 10) == b"content"
    storage.close()
    assert storage.read("a.zip", 0, 10) == b"content"


def test_the_sdk_is_not_imported_before_a_storage_is_used() -> None:
    program = (
        "import sys, blocks.s3, pybak.storage.opening as o\n"
        "o.open_storage('s3://bucket/prefix')\n"
        "sys.exit(bool({'boto3', 'botocore', 'google.cloud'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_what_is_no_name_of_a_bucket_is_a_wrong_address() -> None:
    answer: Any = {"Error": {"Code": "InvalidBucketName", "Message": "not valid"}}
    error = translate(ClientError(answer, "ListObjectsV2"), "list_objects_v2", "s3://Bad", "Bad")
    assert type(error) is PlanError
    assert "Bad is no name of a bucket" in str(error)
