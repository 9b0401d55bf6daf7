"""Google Cloud Storage: how files are composed, what is written with them, what goes wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from commands import PROJECT
from gcs_fixtures import bucket, gcs, gcs_process, guard, tokens  # noqa: F401 - fixtures
from gcs_server import Fault, Guard, TokenServer
from hypothesis import given
from hypothesis import strategies as st
from waiting import within

from blocks import crc32c, gcs_upload
from blocks.gcs import GcsSettings, GcsStorage, ServiceAccount, open_address
from blocks.gcs_errors import GcsError
from pybak.errors import ExistsError, NotFoundError, PlanError, StorageError
from pybak.storage.body import BytesBody
from pybak.storage.protocol import SentPart, Stored, Upload

# ruff: noqa: F811 - fixtures are imported by name

BIG = 9 << 20  # more than is sent in one request


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_crcs_combine_to_that_of_the_whole(pieces: list[bytes]) -> None:
    crc = 0
    for piece in pieces:
        crc = crc32c.combine(crc, google_crc32c.value(piece), len(piece))
    assert crc == google_crc32c.value(b"".join(pieces))


def test_crcs_of_large_files_combine() -> None:
    zeros = google_crc32c.value(bytes(1 << 20))
    crc = 0
    for _ in range(64):
        crc = crc32c.combine(crc, zeros, 1 << 20)
    whole = google_crc32c.Checksum()
    for _ in range(64):
        whole.update(bytes(1 << 20))
    assert crc == int.from_bytes(whole.digest(), "big")


def send_all(storage: GcsStorage, name: str, pieces: list[bytes]) -> tuple[Upload, list[SentPart]]:
    upload = storage.begin(name)
    with ThreadPoolExecutor(8) as pool:
        sent = pool.map(
            lambda numbered: storage.send(upload, numbered[0], BytesBody(numbered[1])),
            enumerate(pieces, 1),
        )
        return upload, list(sent)


def names(guard: Guard, bucket: str) -> set[str]:
    return set(guard.objects(bucket))


class TestComposing:
    """Parts become a file."""

    def test_more_than_32_parts_are_composed_in_levels(
        self, gcs: GcsStorage, guard: Guard, bucket: str
    ) -> None:
        pieces = [bytes([n]) * (n + 1) for n in range(33)]
        upload, sent = send_all(gcs, "big.zip", pieces)
        stored = gcs.complete(upload, sent)
        assert gcs.read("big.zip", 0, 1 << 20) == b"".join(pieces)
        assert stored.size == sum(map(len, pieces))
        composed = [target for _, target in guard.requests if "/compose" in target]
        assert len(composed) == 2  # 32 of them, and that with the last one
        assert names(guard, bucket) == {"a/b/big.zip"}

    def test_levels_go_as_deep_as_they_must(
        self, gcs: GcsStorage, guard: Guard, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gcs_upload, "_SOURCES", 2)
        pieces = [bytes([n]) * (n + 1) for n in range(9)]
        upload, sent = send_all(gcs, "big.zip", pieces)
        gcs.complete(upload, sent)
        assert gcs.read("big.zip", 0, 1 << 20) == b"".join(pieces)
        levels = {t.split("level")[1][0] for _, t in guard.requests if "level" in t}
        assert levels == {"1", "2", "3"}
        assert names(guard, bucket) == {"a/b/big.zip"}

    def test_all_parts_have_the_class_of_the_file_and_are_deleted_with_it(
        self, guard: Guard, bucket: str
    ) -> None:
        """Parts of another class can't be composed; deleted later they cost a fee."""
        storage = GcsStorage(GcsSettings(bucket=bucket, storage_class="COLDLINE"))
        upload, sent = send_all(storage, "big.zip", [b"one", b"two"])
        storage.complete(upload, sent)
        assert guard.objects(bucket)["big.zip"]["storageClass"] == "COLDLINE"
        assert guard.uploaded[-1]["deleteSourceObjects"] is True
        storage.put("small.zip", BytesBody(b"x"))
        assert guard.objects(bucket)["small.zip"]["storageClass"] == "COLDLINE"

    def test_temporary_files_get_no_retention_and_no_class(self, guard: Guard, bucket: str) -> None:
        settings = GcsSettings(
            bucket=bucket, retention_mode="Locked", retention_days=7, storage_class="COLDLINE"
        )
        GcsStorage(settings).put("soon-gone", BytesBody(b"x"), temporary=True)
        (sent,) = guard.uploaded
        assert "retention" not in sent
        assert "storageClass" not in sent

    def test_keys_and_retention_go_with_what_is_written(self, guard: Guard, bucket: str) -> None:
        storage = GcsStorage(
            GcsSettings(
                bucket=bucket, kms_key="projects/p/k", retention_mode="Locked", retention_days=7
            ),
            now=lambda: 1_700_000_000,
        )
        upload, sent = send_all(storage, "big.zip", [b"one", b"two"])
        storage.complete(upload, sent)
        storage.put("small.zip", BytesBody(b"x"))
        kept = {"mode": "Locked", "retainUntilTime": "2023-11-21T22:13:20.000000Z"}
        begun, one, two, composed, small = guard.uploaded
        assert composed["destination"]["retention"] == small["retention"] == kept
        assert all("retention" not in part for part in (begun, one, two))
        keyed = [t for m, t in guard.requests if m == "POST"]
        assert len(keyed) == 5
        assert all("kmsKeyName=projects%2Fp%2Fk" in target for target in keyed)

    def test_a_completion_that_is_asked_for_again_finds_what_it_made(
        self, gcs: GcsStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gcs_upload, "_SOURCES", 2)
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two", b"three"])
        stored = gcs.complete(upload, sent)
        assert gcs.complete(upload, sent) == stored

    def test_it_goes_on_where_an_earlier_try_broke_off(
        self, gcs: GcsStorage, guard: Guard, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gcs_upload, "_SOURCES", 2)
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two", b"three"])
        broken = guard.add("POST", "big.zip/compose", status=403, times=99)
        with pytest.raises(StorageError, match="access denied"):
            gcs.complete(upload, sent)
        assert broken.fired == 2  # with and without deleting
        assert "a/b/big.zip" not in names(guard, bucket)
        broken.times = 0
        gcs.complete(upload, sent)
        assert gcs.read("big.zip", 0, 99) == b"onetwothree"
        assert names(guard, bucket) == {"a/b/big.zip"}

    def test_what_was_joined_wrongly_is_noticed_and_removed(
        self, gcs: GcsStorage, guard: Guard, bucket: str
    ) -> None:
        """The storage's CRC-32C of the whole is compared with those of the parts."""
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two"])
        swapped = [
            SentPart(1, 3, sent[0].sha256, sent[0].token),
            SentPart(2, 3, sent[1].sha256, _with_crc_of(sent[1].token, b"too")),
        ]
        with pytest.raises(StorageError, match="not joined as they were sent"):
            gcs.complete(upload, swapped)
        assert gcs.stat("big.zip") is None
        gcs.abort(upload)
        assert names(guard, bucket) == set()


def _with_crc_of(token: str, data: bytes) -> str:
    import base64

    crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    return " ".join([*token.split()[:2], crc])


class TestFaults:
    """What goes wrong on the way; every fault must have happened (case 102)."""

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_burst_of_failures_is_outlasted(
        self, gcs: GcsStorage, guard: Guard, status: int
    ) -> None:
        faults = [
            guard.add("POST", "/upload/", status=status, times=2),
            guard.add("POST", "/compose", status=status),
            guard.add("GET", "alt=media", status=status),
        ]
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two"])
        gcs.complete(upload, sent)
        assert gcs.read("big.zip", 0, 99) == b"onetwo"
        assert [fault.fired for fault in faults] == [2, 1, 1]

    @pytest.mark.parametrize("size", [5, BIG])
    @pytest.mark.parametrize("cut", ["before", "after"])
    def test_a_cut_or_an_answer_that_is_lost_while_sending(
        self, gcs: GcsStorage, guard: Guard, size: int, cut: str
    ) -> None:
        upload = gcs.begin("big.zip")
        fault = guard.add("PUT" if size == BIG else "POST", "/upload/", cut=cut)
        data = bytes(range(256)) * (size // 256) or b"small"
        sent = gcs.send(upload, 1, BytesBody(data))
        stored = gcs.complete(upload, [sent])
        assert stored.size == len(data)
        assert gcs.read("big.zip", 0, BIG) == data
        assert fault.fired == 1

    @pytest.mark.parametrize("cut", ["before", "after"])
    def test_an_answer_to_a_whole_file_that_is_lost(
        self, gcs: GcsStorage, guard: Guard, cut: str
    ) -> None:
        fault = guard.add("POST", "/upload/", cut=cut)
        stored = gcs.put("a.zip", BytesBody(b"content"))
        assert gcs.stat("a.zip") == stored
        assert fault.fired == 1
        with pytest.raises(ExistsError):  # though it is the same content
            gcs.put("a.zip", BytesBody(b"content"))

    @pytest.mark.parametrize("size", [300, BIG])
    def test_bytes_that_change_on_the_way_are_sent_again(
        self, gcs: GcsStorage, guard: Guard, bucket: str, size: int
    ) -> None:
        """The CRC-32C goes with every part and every file."""
        data = b"content" * (size // 7)
        faults = [guard.add("PUT" if size == BIG else "POST", "/upload/", spoil=True, skip=1)]
        upload = gcs.begin("big.zip")
        if size == BIG:  # it began with a small one
            faults[0].skip = 0
        gcs.complete(upload, [gcs.send(upload, 1, BytesBody(data))])
        faults.append(guard.add("PUT" if size == BIG else "POST", "/upload/", spoil=True))
        gcs.put("a.zip", BytesBody(data))
        for name in ("big.zip", "a.zip"):
            assert gcs.read(name, 0, size) == data
        assert [fault.fired for fault in faults] == [1, 1]
        assert names(guard, bucket) == {"a/b/big.zip", "a/b/a.zip"}

    @pytest.mark.parametrize("count", [2, 3])
    def test_a_lost_answer_to_composing_is_asked_for(
        self,
        gcs: GcsStorage,
        guard: Guard,
        bucket: str,
        count: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(gcs_upload, "_SOURCES", 2)
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two", b"three"][:count])
        fault = guard.add("POST", "/compose", cut="after", times=count - 1)
        stored = gcs.complete(upload, sent)
        assert fault.fired == count - 1
        assert gcs.stat("big.zip") == stored
        assert gcs.read("big.zip", 0, 99) == b"onetwothree"[: stored.size]
        assert names(guard, bucket) == {"a/b/big.zip"}

    def test_a_download_that_is_cut_is_read_again(self, gcs: GcsStorage, guard: Guard) -> None:
        gcs.put("a.zip", BytesBody(b"content" * 1000))
        fault = guard.add("GET", "alt=media", cut="within")
        assert gcs.read("a.zip", 0, 7000) == b"content" * 1000
        assert fault.fired == 1

    def test_a_server_that_stalls_is_left_and_asked_again(
        self, gcs: GcsStorage, guard: Guard
    ) -> None:
        fault = guard.add("GET", "/o", stall=4)
        storage = GcsStorage(
            GcsSettings(bucket=gcs.settings.bucket, read_timeout_s=0.3, retry_s=10)
        )
        with within(3.5):
            assert list(storage.list()) == []
        assert fault.fired == 1

    def test_a_server_that_stays_away_is_told_soon(self, bucket: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        storage = GcsStorage(
            GcsSettings(
                bucket=bucket, endpoint=f"http://127.0.0.1:{port}", retry_s=2,
                credentials=_anonymous,
            )
        )  # fmt: skip
        for call in _calls(storage):
            with (
                within(6),
                pytest.raises(StorageError, match="check network and endpoint") as caught,
            ):
                call()
            assert caught.value.retryable
            assert "\n" not in str(caught.value)

    def test_a_server_that_keeps_failing_is_told_in_the_end(
        self, gcs: GcsStorage, guard: Guard
    ) -> None:
        """(case 103)"""
        fault = guard.add("GET", "/o", status=503, times=99)
        with pytest.raises(GcsError, match=r"failed \(503\): backendError; try again") as caught:
            gcs.check()
        assert caught.value.retryable
        assert 2 <= fault.fired < 20

    def test_an_aborted_upload_leaves_nothing_that_came_late(
        self, gcs: GcsStorage, guard: Guard, bucket: str
    ) -> None:
        upload = gcs.begin("big.zip")
        gcs.abort(upload)
        with pytest.raises(StorageError, match="was ended while it was sent"):
            gcs.send(upload, 1, BytesBody(b"late"))
        assert names(guard, bucket) == set()

    def test_parts_that_can_not_be_deleted_do_not_fail_what_is_complete(
        self, gcs: GcsStorage, guard: Guard
    ) -> None:
        """(case 97)"""
        upload, sent = send_all(gcs, "big.zip", [b"one", b"two"])
        denied = guard.add("DELETE", ".pybak-parts", status=403, times=99)
        with_deleting = guard.add("POST", "/compose", status=403)
        gcs.complete(upload, sent)
        assert (with_deleting.fired, denied.fired) == (1, 1)
        assert gcs.read("big.zip", 0, 99) == b"onetwo"
        assert [found.name for found in gcs.unfinished()] == ["big.zip"]
        with pytest.raises(GcsError, match=r"access denied.*storage\.objects\.delete"):
            gcs.abort(upload)

    def test_a_retention_is_told(self, gcs: GcsStorage, guard: Guard) -> None:
        """(case 107)"""
        gcs.put("a.zip", BytesBody(b"x"))
        for said in ("subject to bucket's retention policy", "under active Temporary hold"):
            _saying(guard, f"Object 'a.zip' is {said}.")
            with pytest.raises(StorageError, match=r"a\.zip: is kept by .*wait until") as told:
                gcs.delete("a.zip")
            assert not told.value.is_denied

    def test_a_deletion_that_is_denied_is_told_apart(self, guard: Guard, gcs: GcsStorage) -> None:
        """(case 97)"""
        gcs.put("a.zip", BytesBody(b"x"))
        _saying(guard, "Permission denied on resource.")
        with pytest.raises(StorageError, match=r"grant storage\.objects\.delete") as told:
            gcs.delete("a.zip")
        assert told.value.is_denied


def _saying(guard: Guard, text: str) -> Fault:
    fault = guard.add("DELETE", "a.zip", status=403)
    fault.message = text
    return fault


def _anonymous() -> Any:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()


def _calls(storage: GcsStorage) -> list[Callable[[], object]]:
    return [storage.check, lambda: storage.put("a.zip", BytesBody(b"x"))]


class TestCredentials:
    """Who may, who may not (case 104)."""

    @pytest.fixture
    def account(self, guard: Guard, tokens: TokenServer, bucket: str) -> Callable[..., GcsStorage]:
        """Give what opens the bucket with the key of a service account."""
        import json

        guard.token = tokens.token = "tok"
        tokens.hits = 0

        def opened(**more: bool) -> GcsStorage:
            key = ServiceAccount(key=json.dumps(tokens.account(**more)))
            return GcsStorage(GcsSettings(bucket=bucket, credentials=key, retry_s=2))

        return opened

    def test_an_expired_token_is_renewed(
        self, account: Callable[..., GcsStorage], guard: Guard, tokens: TokenServer
    ) -> None:
        storage = account()
        storage.put("a.zip", BytesBody(b"x"))
        before = tokens.hits
        assert before >= 1
        guard.token = tokens.token = "another"
        assert storage.read("a.zip", 0, 9) == b"x"
        upload, sent = send_all(storage, "b.zip", [b"one", b"two"])
        storage.complete(upload, sent)
        assert tokens.hits > before

    def test_a_wrong_key_fails_at_once(self, account: Callable[..., GcsStorage]) -> None:
        storage = account(foreign=True)
        for call in _calls(storage):
            with (
                within(5),
                pytest.raises(GcsError, match=r"credentials are refused: .*invalid_grant") as why,
            ):
                call()
            assert not why.value.retryable
            assert "\n" not in str(why.value)
            assert "PRIVATE" not in str(why.value)

    def test_a_token_that_is_refused_fails_at_once(
        self, account: Callable[..., GcsStorage], guard: Guard
    ) -> None:
        guard.token = "of someone else"
        with pytest.raises(GcsError, match="credentials are refused: Invalid Credentials; run"):
            account().check()

    def test_what_is_no_key_is_told(self, bucket: str, tmp_path: Path) -> None:
        (tmp_path / "key.json").write_text('{"type": "service_account"}')
        for account in (
            ServiceAccount(key="not json"),
            ServiceAccount(file=str(tmp_path / "key.json")),
            ServiceAccount(file=str(tmp_path / "none.json")),
        ):
            storage = GcsStorage(GcsSettings(bucket=bucket, credentials=account))
            with pytest.raises(StorageError, match="service account") as caught:
                storage.check()
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("silent", [False, True])
    def test_without_any_credentials_it_is_told_within_seconds(
        self, tmp_path: Path, silent: bool
    ) -> None:
        """Also in a network where what is asked for the machine's own account never answers."""
        code = (
            "import time\nfrom blocks.gcs import open_address\nstarted = time.monotonic()\n"
            "try: open_address('gs://bucket/p').check()\n"
            "except Exception as e: print(type(e).__name__, e)\n"
            "print(time.monotonic() - started < 8)"
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
            if silent:
                env["GCE_METADATA_IP"] = f"127.0.0.1:{listener.getsockname()[1]}"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=PROJECT, env=env, check=True, timeout=60,
                capture_output=True, text=True,
            )  # fmt: skip
        first, second = done.stdout.splitlines()
        assert first.startswith("GcsError gs://bucket/p: there are no credentials for Google Cloud")
        assert second == "True"
        assert done.stderr == ""

    def test_rights_that_are_missing_are_named(self, gcs: GcsStorage, guard: Guard) -> None:
        """(case 97)"""
        guard.add("POST", "/upload/", status=403)
        with pytest.raises(GcsError, match=r"access denied.*grant storage\.objects\.create"):
            gcs.put("a.zip", BytesBody(b"x"))
        guard.add("GET", "/o", status=403, times=2)
        with pytest.raises(GcsError, match=r"access denied.*grant storage\.objects\.list"):
            list(gcs.list())


class TestPlaces:
    """Where files are."""

    @pytest.mark.parametrize("call", ["check", "list", "unfinished"])
    def test_a_missing_bucket_is_told(self, guard: Guard, call: str) -> None:
        storage = open_address("gs://nowhere-at-all/p")
        with pytest.raises(NotFoundError, match="there is no bucket nowhere-at-all"):
            list(getattr(storage, call)() or ())

    def test_a_missing_bucket_is_told_from_a_missing_file(
        self, guard: Guard, gcs: GcsStorage
    ) -> None:
        assert gcs.stat("a.zip") is None
        with pytest.raises(NotFoundError, match="there is no bucket"):
            open_address("gs://nowhere-at-all").stat("a.zip")

    @pytest.mark.parametrize("address", ["gs://", "gs:", "gs:///x", "gs:bucket", "s3://bucket"])
    def test_an_address_without_a_bucket_is_refused(self, address: str) -> None:
        with pytest.raises(PlanError, match="names no bucket"):
            open_address(address)

    def test_a_bucket_itself_is_a_folder_too(self, bucket: str, guard: Guard) -> None:
        storage = open_address(f"gs://{bucket}")
        stored = storage.put("a.zip", BytesBody(b"x"))
        storage.begin("b.zip")
        assert list(storage.list()) == [stored]
        assert [found.name for found in storage.unfinished()] == ["b.zip"]
        assert names(guard, bucket) > {"a.zip"}
        assert storage.address == f"gs://{bucket}"

    def test_a_started_upload_tells_when(self, bucket: str) -> None:
        storage = GcsStorage(GcsSettings(bucket=bucket), now=lambda: 1_700_000_000)
        upload = storage.begin("b.v1.zip")
        assert list(storage.unfinished()) == [upload]
        assert upload.started_ns == 1_700_000_000 * 10**9

    def test_a_storage_goes_to_another_process(self, gcs: GcsStorage) -> None:
        import pickle

        stored: Stored = gcs.put("a.zip", BytesBody(b"x"))
        assert pickle.loads(pickle.dumps(gcs)).stat("a.zip") == stored

    def test_nothing_of_a_key_shows(self) -> None:
        settings = GcsSettings(bucket="b", credentials=ServiceAccount(key="hunter2"))
        assert "hunter2" not in repr(settings) + str(GcsStorage(settings))
