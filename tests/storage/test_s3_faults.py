"""S3 over a connection that fails: what recovers, what ends, and how soon (cases 102-104).

The server behind the proxy is a real one. Pauses between attempts are made short.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, FaultProxy
from s3_servers import REGION, SECOND_ON_SWIFT, S3Server
from waiting import within

from blocks.s3 import S3Settings, S3Storage
from pybak.backup.output import Extent
from pybak.errors import ExistsError, NotFoundError, StorageError
from pybak.storage.body import BytesBody, ExtentsBody

PIECE = 5 << 20
CONTENT = bytes(range(256)) * 1000
ATTEMPTS, ROUNDS = 3, 2


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )
    monkeypatch.setattr("blocks.s3_client._LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def proxy(swift: S3Server, faulty: Callable[[str], FaultProxy]) -> FaultProxy:
    return faulty(swift.endpoint)


@pytest.fixture
def bucket(swift: S3Server) -> str:
    return swift.new_bucket()


@pytest.fixture
def storage(swift: S3Server, proxy: FaultProxy, bucket: str) -> S3Storage:
    return S3Storage(settings(swift, proxy.endpoint, bucket))


@pytest.fixture
def impatient(swift: S3Server, proxy: FaultProxy, bucket: str) -> S3Storage:
    """Give a storage that waits a second for an answer."""
    return S3Storage(settings(swift, proxy.endpoint, bucket, read_timeout_s=1))


def settings(server: S3Server, endpoint: str, bucket: str, **more: Any) -> S3Settings:
    return S3Settings(
        **{
            "bucket": bucket, "prefix": "backups", "endpoint": endpoint, "session": server.session,
            "connect_timeout_s": 5, "read_timeout_s": 10, "attempts": ATTEMPTS, "rounds": ROUNDS,
            **more,
        }
    )  # fmt: skip


def sent_in_parts(storage: S3Storage) -> bytes:
    """Send a file of three parts, complete it, and give what it must hold."""
    upload = storage.begin("big.zip")
    pieces = [bytes([1]) * PIECE, bytes([2]) * PIECE, b"end"]
    parts = [storage.send(upload, n, BytesBody(data)) for n, data in enumerate(pieces, 1)]
    assert storage.complete(upload, parts).size == 2 * PIECE + 3
    return b"".join(pieces)


def is_whole(server: S3Server, bucket: str, expected: bytes, name: str = "big.zip") -> bool:
    """Whether a file is on the server as it should be, and nothing is half done there."""
    client = server.client()
    got = client.get_object(Bucket=bucket, Key=f"backups/{name}")["Body"].read()
    return got == expected and "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize(
    ("method", "matches"),
    [
        ("POST", r"\?uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId="), ("HEAD", "big"),
    ],
)  # fmt: skip
def test_a_burst_of_errors_is_sat_out(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str,
    status: int, method: str, matches: str,
) -> None:  # fmt: skip
    """(case 102)"""
    code = "SlowDown" if status == 503 else "InternalError"
    fault = proxy.arm(Fault("status", method, matches, times=2, status=status, code=code))
    assert is_whole(swift, bucket, sent_in_parts(storage))
    assert fault.fired == 2


def test_errors_that_do_not_end_are_given_up_after_some_attempts(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 103)"""
    upload = storage.begin("big.zip")
    fault = proxy.arm(Fault("status", "PUT", times=1000, status=500, code="InternalError"))
    with pytest.raises(StorageError, match=r"InternalError.*as the test wants") as raised:
        storage.send(upload, 1, BytesBody(CONTENT))
    assert raised.value.retryable
    assert fault.fired == ATTEMPTS
    storage.abort(upload)
    assert "Uploads" not in swift.client().list_multipart_uploads(Bucket=bucket)


def test_a_server_that_stays_too_busy_gets_more_rounds_but_not_for_ever(
    storage: S3Storage, proxy: FaultProxy
) -> None:
    """(case 103)"""
    fault = proxy.arm(Fault("status", "PUT", times=1000, status=503, code="SlowDown"))
    with pytest.raises(StorageError, match="too busy") as raised:
        storage.put("a.zip", BytesBody(CONTENT))
    assert raised.value.retryable
    assert fault.fired == ATTEMPTS * ROUNDS


def test_a_connection_that_is_cut_in_a_part_sends_it_again(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    fault = proxy.arm(Fault("cut_up", "PUT", "partNumber=2", times=2, after=PIECE // 2))
    assert is_whole(swift, bucket, sent_in_parts(storage))
    assert fault.fired == 2


def test_a_connection_that_is_cut_while_reading_goes_on_where_it_was(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    data = bytes(7 << 20)
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=data)
    proxy.arm(Fault("cut_down", "GET", "a.zip", after=5 << 20))
    assert storage.read("a.zip", 1, len(data) - 1) == data[1:]
    first, second = (r.headers["range"] for r in proxy.requests if r.method == "GET")
    assert first == f"bytes=1-{len(data) - 1}"
    assert int(second[6:].split("-")[0]) >= 1 << 20


def test_a_reading_that_is_always_cut_ends(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 103)"""
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=CONTENT)
    fault = proxy.arm(Fault("cut_down", "GET", "a.zip", times=1000, after=1000))
    with pytest.raises(StorageError, match=r"a\.zip: the connection was cut") as raised:
        storage.read("a.zip", 0, len(CONTENT))
    assert raised.value.retryable
    assert fault.fired == ROUNDS


@pytest.mark.parametrize(
    ("method", "matches"), [("PUT", "partNumber=2"), ("POST", "uploadId="), ("HEAD", "big")]
)
def test_an_answer_that_never_comes_is_not_waited_for(
    impatient: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str, method: str, matches: str
) -> None:
    proxy.arm(Fault("stall", method, matches))
    assert is_whole(swift, bucket, sent_in_parts(impatient))


def test_an_answer_that_stops_half_way_is_read_on(
    impatient: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=CONTENT)
    proxy.arm(Fault("freeze", "GET", "a.zip", after=len(CONTENT) // 2))
    assert impatient.read("a.zip", 0, len(CONTENT)) == CONTENT


def test_a_slow_connection_is_no_failure(
    impatient: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=CONTENT)
    proxy.arm(Fault("slow", "GET", "a.zip", rate=len(CONTENT) // 2))
    start = time.monotonic()
    assert impatient.read("a.zip", 0, len(CONTENT)) == CONTENT
    assert time.monotonic() - start > 1.5, "longer than an answer may take"
    assert len([r for r in proxy.requests if r.method == "GET"]) == 1


def test_a_lost_answer_to_the_completion_is_asked_for_again(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 102)"""
    proxy.arm(Fault("lose", "POST", "uploadId="))
    assert is_whole(swift, bucket, sent_in_parts(storage))


def test_a_completion_that_is_answered_with_errors_though_it_was_done_is_found(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 102)"""
    proxy.arm(Fault("lose", "POST", "uploadId="))
    proxy.arm(Fault("status", "POST", "uploadId=", times=1000, status=404, code="NoSuchUpload"))
    assert is_whole(swift, bucket, sent_in_parts(storage))


def test_a_completion_that_is_never_answered_is_found_too(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 102)"""
    fault = proxy.arm(Fault("lose", "POST", "uploadId=", times=1000))
    assert is_whole(swift, bucket, sent_in_parts(storage))
    assert fault.fired == ATTEMPTS


def test_a_completion_that_is_never_answered_does_not_take_the_file_of_another(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    upload = storage.begin("a.zip")
    sent = storage.send(upload, 1, BytesBody(b"ours"))
    proxy.arm(Fault("status", "HEAD", "a.zip", status=404, code="NoSuchKey"))
    proxy.arm(Fault("status", "POST", "uploadId=", times=1000, status=404, code="NoSuchUpload"))
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=b"them")
    with pytest.raises(ExistsError):
        storage.complete(upload, [sent])
    assert is_whole(swift, bucket, b"them", "a.zip")


def test_a_file_that_appears_between_the_look_and_the_completion_stays(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    upload = storage.begin("a.zip")
    sent = storage.send(upload, 1, BytesBody(b"ours"))
    proxy.arm(Fault("status", "HEAD", "a.zip", status=404, code="NoSuchKey"))
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=b"them")
    with pytest.raises(ExistsError):
        storage.complete(upload, [sent])
    assert is_whole(swift, bucket, b"them", "a.zip")


def test_a_lost_answer_to_a_put_is_no_file_of_another(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 102)"""
    proxy.arm(Fault("lose", "PUT", "a.zip"))
    assert storage.put("a.zip", BytesBody(CONTENT)).size == len(CONTENT)
    assert is_whole(swift, bucket, CONTENT, "a.zip")


def test_a_put_that_is_never_answered_is_found(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    proxy.arm(Fault("lose", "PUT", "a.zip"))
    proxy.arm(Fault("status", "PUT", "a.zip", times=1000, status=500, code="InternalError"))
    storage.put("a.zip", BytesBody(CONTENT))
    assert is_whole(swift, bucket, CONTENT, "a.zip")


@pytest.mark.parametrize("method", ["DELETE", "HEAD"])
def test_a_lost_answer_to_a_deletion_is_no_failure(
    storage: S3Storage, proxy: FaultProxy, method: str
) -> None:
    storage.put("a.zip", BytesBody(CONTENT))
    proxy.arm(Fault("lose", method, "a.zip"))
    assert storage.delete("a.zip")
    assert storage.stat("a.zip") is None


def test_an_upload_whose_beginning_was_not_answered_is_listed(
    storage: S3Storage, proxy: FaultProxy
) -> None:
    """(case 93) Nobody knows its name, so the next run removes it."""
    proxy.arm(Fault("lose", "POST", r"\?uploads"))
    upload = storage.begin("a.zip")
    found = {other.token: other for other in storage.unfinished()}
    assert len(found) == 2
    assert upload.token in found
    for other in found.values():
        storage.abort(other)
    assert list(storage.unfinished()) == []


@pytest.mark.parametrize("checksums", ["sha256", "md5"])
def test_bytes_that_change_on_the_way_to_the_server_are_sent_again(
    proxy: FaultProxy, swift: S3Server, bucket: str, checksums: str
) -> None:
    storage = S3Storage(settings(swift, proxy.endpoint, bucket, checksums=checksums))
    proxy.arm(Fault("corrupt_up", "PUT", "partNumber=2"))
    assert is_whole(swift, bucket, sent_in_parts(storage))
    proxy.arm(Fault("corrupt_up", "PUT", "a.zip"))
    storage.put("a.zip", BytesBody(CONTENT))
    assert is_whole(swift, bucket, CONTENT, "a.zip")


def test_a_server_that_compares_no_digests_is_found_out_and_its_etags_are_compared(
    moto: S3Server, faulty: Callable[[str], FaultProxy]
) -> None:
    proxy, bucket = faulty(moto.endpoint), moto.new_bucket()
    storage = S3Storage(settings(moto, proxy.endpoint, bucket))
    upload = storage.begin("a.zip")
    assert upload.way == "sha256+etag"
    # moto gives back the digest that it was sent, whatever the bytes are.
    proxy.arm(Fault("corrupt_up", "PUT", "partNumber=2", times=1000))
    with pytest.raises(StorageError, match="other bytes arrived than were sent"):
        storage.send(upload, 2, BytesBody(CONTENT))
    proxy.arm(Fault("corrupt_up", "PUT", "b.zip", times=1000))
    with pytest.raises(StorageError, match="other bytes arrived than were sent"):
        storage.put("b.zip", BytesBody(CONTENT))
    storage.abort(upload)
    assert list(storage.list()) == []


def test_a_server_that_compares_digests_is_asked_once_whether_it_does(
    storage: S3Storage, proxy: FaultProxy
) -> None:
    for name in ("a.zip", "b.zip"):
        upload = storage.begin(name)
        assert upload.way == "sha256"
        storage.abort(upload)
    assert len([r for r in proxy.requests if r.method == "PUT"]) == 1


def test_bytes_that_change_on_the_way_from_the_server_pass_here(
    storage: S3Storage, proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """The SDK does not see it: what reads archives compares them with their own digests."""
    swift.client().put_object(Bucket=bucket, Key="backups/a.zip", Body=CONTENT)
    proxy.arm(Fault("corrupt", "GET", "a.zip"))
    got = storage.read("a.zip", 0, len(CONTENT))
    assert got != CONTENT
    assert got[:-1] == CONTENT[:-1]


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (507, "InsufficientStorage", "the storage is full; free space"),
        (403, "QuotaExceeded", "the storage is full; free space"),
        (403, "AccessDenied", "access denied: as the test wants; grant s3:PutObject"),
        (400, "ExpiredToken", "the credentials have expired; log in again"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (400, "KMS.NotFoundException", "no such KMS key"),
        (400, "SomethingNew", "SomethingNew.*as the test wants"),
    ],
)
def test_what_no_second_try_mends_ends_at_the_first(
    storage: S3Storage, proxy: FaultProxy, status: int, code: str, says: str
) -> None:
    """(cases 96, 97, 104)"""
    upload = storage.begin("a.zip")
    fault = proxy.arm(Fault("status", "PUT", times=1000, status=status, code=code))
    for write in (
        lambda: storage.put("a.zip", BytesBody(CONTENT)),
        lambda: storage.send(upload, 1, BytesBody(CONTENT)),
    ):
        fault.fired = 0
        with pytest.raises(StorageError, match=says) as raised:
            write()
        assert not raised.value.retryable
        assert "\n" not in str(raised.value)
        assert fault.fired == 1
    storage.abort(upload)
    assert list(storage.list()) == []


def every_call(storage: S3Storage) -> list[Callable[[], object]]:
    return [
        storage.check, lambda: storage.stat("a.zip"), lambda: list(storage.list()),
        lambda: storage.read("a.zip", 0, 1), lambda: storage.put("a.zip", BytesBody(b"x")),
        lambda: storage.begin("a.zip"), lambda: storage.delete("a.zip"),
        lambda: list(storage.unfinished()),
    ]  # fmt: skip


@pytest.mark.parametrize("key", [("test:tester", "wrong"), ("nobody", "testing")])
def test_wrong_credentials_end_every_call_at_once(
    proxy: FaultProxy, swift: S3Server, bucket: str, key: tuple[str, str]
) -> None:
    """(case 104)"""
    wrong = S3Server(proxy.endpoint, *key)
    storage = S3Storage(settings(wrong, proxy.endpoint, bucket))
    for call in every_call(storage):
        before = len(proxy.requests)
        said = pytest.raises(StorageError, match="access key or its secret is wrong")
        with within(5), said as raised:
            call()
        assert not raised.value.retryable
        assert raised.value.exit_code == 1
        assert len(proxy.requests) - before <= 2  # HEAD alone does not tell why


def test_a_missing_bucket_ends_every_call_at_once(proxy: FaultProxy, swift: S3Server) -> None:
    storage = S3Storage(settings(swift, proxy.endpoint, "no-such-bucket"))
    for call in every_call(storage):
        with pytest.raises(NotFoundError, match="no bucket no-such-bucket") as raised:
            call()
        assert raised.value.exit_code == 10


def test_no_credentials_at_all_are_told_within_seconds(
    monkeypatch: pytest.MonkeyPatch, swift: S3Server
) -> None:
    """(case 104) An instance's metadata service is asked, but not waited for."""
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with within(10):
        storage = S3Storage(S3Settings(bucket="bucket", endpoint=swift.endpoint))
        with pytest.raises(StorageError, match="no credentials for S3; set AWS_ACCESS_KEY_ID"):
            storage.check()


def test_a_profile_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    with pytest.raises(Exception, match=r"nobody-has-this.*check AWS_PROFILE") as raised:
        S3Storage(S3Settings(bucket="bucket")).check()
    assert raised.value.exit_code == 2  # type: ignore[attr-defined]


def test_credentials_that_expire_are_renewed_while_parts_are_sent(
    proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """(case 104)"""
    now = [datetime.now(UTC)]
    renewed: list[datetime] = []

    def session() -> Any:
        import boto3.session
        import botocore.session
        from botocore.credentials import RefreshableCredentials

        def renew() -> dict[str, str]:
            renewed.append(now[0])
            key, secret = SECOND_ON_SWIFT
            expiry = (now[0] + timedelta(hours=1)).isoformat()
            return {"access_key": key, "secret_key": secret, "token": "", "expiry_time": expiry}

        core = botocore.session.get_session()
        core._credentials = RefreshableCredentials(  # type: ignore[attr-defined]
            swift.key, swift.secret, "", now[0] + timedelta(hours=1), renew, "test",
            time_fetcher=lambda: now[0],
        )  # fmt: skip
        return boto3.session.Session(botocore_session=core, region_name=REGION)

    storage = S3Storage(settings(swift, proxy.endpoint, bucket, session=session))
    upload = storage.begin("big.zip")
    first = storage.send(upload, 1, BytesBody(bytes(PIECE)))
    assert renewed == []
    now[0] += timedelta(hours=2)
    second = storage.send(upload, 2, BytesBody(b"end"))
    storage.complete(upload, [first, second])
    assert len(renewed) == 1
    assert is_whole(swift, bucket, bytes(PIECE) + b"end")
    signed_by = {
        r.target: r.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for r in proxy.requests if r.method == "PUT"
    }  # fmt: skip
    assert list(signed_by.values()) == ["test:tester", "test:second"]


@pytest.mark.needs_tool("faketime")
def test_a_clock_that_is_wrong_is_told(s3_address: str) -> None:
    """(case 104)"""
    program = (
        "import sys; from pybak.storage.opening import open_storage\n"
        "from pybak.errors import StorageError\n"
        "try: open_storage(sys.argv[1]).check()\n"
        "except StorageError as error: sys.exit(str(error))"
    )
    faketime = shutil.which("faketime")
    assert faketime is not None
    done = subprocess.run(
        [faketime, "-f", "+20m", sys.executable, "-c", program, s3_address],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "set the clock" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_told_and_may_be_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = S3Server(endpoint, "key", "secret")
    with pytest.raises(
        StorageError, match=r"can't be reached.*check network and endpoint"
    ) as found:
        S3Storage(settings(server, endpoint, "bucket")).check()
    assert found.value.retryable


def test_a_server_without_conditions_is_looked_at_first(
    proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    """What is then left open is documented: two may write one name at the same moment."""
    storage = S3Storage(settings(swift, proxy.endpoint, bucket, checksums="md5"))
    proxy.arm(Fault("status", "PUT", "a.zip", status=501, code="NotImplemented"))
    storage.put("a.zip", BytesBody(b"first"))
    with pytest.raises(ExistsError):
        storage.put("a.zip", BytesBody(b"second"))
    assert is_whole(swift, bucket, b"first", "a.zip")
    last = [r for r in proxy.requests if r.method == "PUT"][-1]
    assert "if-none-match" not in last.headers
    storage = S3Storage(settings(swift, proxy.endpoint, bucket))
    proxy.arm(Fault("status", "POST", "uploadId=", status=501, code="NotImplemented"))
    assert is_whole(swift, bucket, sent_in_parts(storage))


def test_a_server_that_does_not_know_sha256_gets_md5(
    proxy: FaultProxy, swift: S3Server, bucket: str
) -> None:
    storage = S3Storage(settings(swift, proxy.endpoint, bucket))
    proxy.arm(Fault("status", "POST", r"\?uploads", status=501, code="NotImplemented"))
    assert is_whole(swift, bucket, sent_in_parts(storage))
    part = next(r for r in proxy.requests if "partNumber=1" in r.target)
    assert "content-md5" in part.headers
    assert "x-amz-checksum-sha256" not in part.headers


def test_what_can_not_be_read_here_is_no_failure_of_the_storage(
    storage: S3Storage, proxy: FaultProxy, tmp_path: Path
) -> None:
    """(case 103)"""
    upload = storage.begin("a.zip")
    sent = len(proxy.requests)
    gone = Extent(size=5, path=os.fsencode(tmp_path / "gone"))
    for write in (
        lambda: storage.put("a.zip", ExtentsBody([gone])),
        lambda: storage.send(upload, 1, ExtentsBody([gone])),
    ):
        with pytest.raises(StorageError, match=r"a\.zip: what is to be sent can't be read.*gone"):
            write()
    assert len(proxy.requests) == sent
    storage.abort(upload)
