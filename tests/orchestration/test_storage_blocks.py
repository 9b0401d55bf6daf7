"""Storages in Prefect blocks: what they bring along, how they are found, what they never show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from commands import PROJECT, Commands
from prefect.blocks.core import Block
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_aws.client_parameters import AwsClientParameters
from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from prefect_aws.s3 import S3Bucket
from pydantic import SecretStr

from blocks import GcsStorageBlock, LocalFolder, S3StorageBlock
from blocks.aws_session import AwsSession
from blocks.described import FolderSettings, dumps, loads
from blocks.gcs_settings import GcsSettings, ServiceAccount
from blocks.s3 import S3Storage
from blocks.s3_block import settings_of_bucket
from blocks.s3_settings import S3Settings
from blocks.storages import _settings, open_address, parse
from pybak.errors import PlanError, StorageError

SECRET = "hunter2-secret"
KEYS = AwsCredentials(
    aws_access_key_id="AKIAX",
    aws_secret_access_key=SecretStr(SECRET),
    region_name="eu-central-1",
    aws_client_parameters=AwsClientParameters(
        endpoint_url="http://127.0.0.1:9",
        config={
            "s3": {"addressing_style": "path"},
            "connect_timeout": 3,
            "retries": {"max_attempts": 2},
        },
    ),
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    _settings.cache_clear()
    yield
    _settings.cache_clear()


@pytest.fixture
def save(in_prefect: None) -> Iterator[Callable[[Block, str], None]]:
    """Give what saves a block until the end of the test."""
    saved: list[tuple[type[Block], str]] = []

    def saving(block: Block, name: str) -> None:
        block.save(name, overwrite=True)
        saved.append((type(block), name))

    yield saving
    for kind, name in saved:
        kind.delete(name)


class TestStandards(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    @pytest.fixture(params=[S3StorageBlock, GcsStorageBlock, LocalFolder])
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        kind: type[Block] = request.param
        return kind

    test_has_a_valid_image = None  # type: ignore[assignment]  # they have no logo


def test_all_types_are_registered_by_the_package(
    prefect_server: str, prefect_api: httpx.Client
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"], cwd=PROJECT,
        env={"PREFECT_API_URL": prefect_server, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120, text=True,
    )  # fmt: skip
    assert "registered 8 blocks" in done.stdout
    for slug in ("pybak-s3-storage", "pybak-gcs-storage", "pybak-local-folder"):
        assert prefect_api.get(f"/block_types/slug/{slug}").status_code == 200


def test_the_storages_are_used_without_prefect_and_without_any_cloud() -> None:
    code = (
        "import sys, blocks.s3, blocks.gcs, blocks.storages\n"
        "from pybak.storage.opening import open_storage\n"
        "print(open_storage('gs://b/p').address, open_storage('s3://b/p/').address)\n"
        "print([m for m in ('prefect', 'boto3', 'google.cloud', 'requests') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"gs://b/p s3://b/p\n[]\n"


def test_what_a_block_of_ours_says_reaches_the_storage(
    save: Callable[[Block, str], None],
) -> None:
    block = S3StorageBlock(
        bucket="archive",
        prefix="/a/b/",
        credentials=KEYS,
        region="eu-west-1",
        storage_class="STANDARD_IA",
        encryption="aws:kms",
        kms_key="key",
        lock_mode="COMPLIANCE",
        lock_days=7,
        concurrency=3,
    )
    save(block, "offsite")
    storage = open_address("block:offsite/c")
    assert isinstance(storage, S3Storage)
    assert storage.address == "block:offsite/c"
    found = storage.settings
    assert isinstance(found.session, AwsSession)
    assert (found.session.access_key_id, found.session.secret_access_key) == ("AKIAX", SECRET)
    assert (found.bucket, found.prefix, found.region) == ("archive", "a/b/c", "eu-west-1")
    assert (found.endpoint, found.addressing) == ("http://127.0.0.1:9", "path")
    assert (found.storage_class, found.encryption, found.kms_key) == (
        "STANDARD_IA", "aws:kms", "key",
    )  # fmt: skip
    assert (found.lock_mode, found.lock_days) == ("COMPLIANCE", 7)
    assert (found.concurrency, found.connect_timeout_s, found.attempts) == (3, 3, 3)
    session = found.session().get_credentials()
    assert session is not None
    assert session.secret_key == SECRET


def test_without_credentials_the_environment_counts(
    save: Callable[[Block, str], None],
) -> None:
    save(S3StorageBlock(bucket="archive"), "plain")
    save(GcsStorageBlock(bucket="archive", storage_class="COLDLINE", retry_s=4), "plain-gcs")
    assert _settings("", "plain") == S3Settings(bucket="archive")
    assert _settings("", "plain-gcs") == GcsSettings(
        bucket="archive", storage_class="COLDLINE", retry_s=4
    )


def test_prefects_own_bucket_blocks_do_as_well(save: Callable[[Block, str], None]) -> None:
    minio = MinIOCredentials(
        minio_root_user="root",
        minio_root_password=SecretStr(SECRET),
        aws_client_parameters=AwsClientParameters(endpoint_url="https://minio:9000", verify=False),
    )
    bucket = S3Bucket(bucket_name="archive", credentials=minio, bucket_folder="x/y/")
    save(bucket, "theirs")
    found = _settings("s3-bucket", "theirs")
    assert found == settings_of_bucket(bucket)
    assert isinstance(found, S3Settings)
    assert (found.bucket, found.prefix, found.addressing) == ("archive", "x/y", "path")
    assert (found.endpoint, found.verify) == ("https://minio:9000", False)
    assert isinstance(found.session, AwsSession)
    assert found.session.secret_access_key == SECRET


def test_minio_credentials_in_our_block_are_told_from_those_of_aws(
    save: Callable[[Block, str], None],
) -> None:
    minio = MinIOCredentials(minio_root_user="root", minio_root_password=SecretStr(SECRET))
    save(minio, "minio-keys")
    save(S3StorageBlock(bucket="archive", credentials=MinIOCredentials.load("minio-keys")), "own")
    save(S3StorageBlock(bucket="archive", credentials=minio), "inline")
    for name in ("own", "inline"):
        found = _settings("", name)
        assert isinstance(found, S3Settings)
        assert isinstance(found.session, AwsSession)
        assert (found.session.access_key_id, found.session.secret_access_key) == ("root", SECRET)
        assert found.addressing == "path"


def test_a_folder_block_opens_the_folder_below_it(
    save: Callable[[Block, str], None], tmp_path: Path
) -> None:
    (tmp_path / "nas" / "deep").mkdir(parents=True)
    (tmp_path / "nas" / "deep" / "a.zip").write_bytes(b"abc")
    save(LocalFolder(path=f"{tmp_path}/nas"), "nas")
    assert open_address("block:nas/deep").read("a.zip", 1, 9) == b"bc"
    for address in ("block:nas/../x", "block:nas/a/../../x", "block:nas/./x"):
        with pytest.raises(PlanError, match="leads out of the block's folder"):
            open_address(address)


@pytest.mark.parametrize("path", ["nas", "", "s3://bucket"])
def test_a_folder_is_named_in_full(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        LocalFolder(path=path)


def test_one_name_for_two_storages_is_refused(
    save: Callable[[Block, str], None], tmp_path: Path
) -> None:
    save(LocalFolder(path=str(tmp_path)), "twice")
    save(S3StorageBlock(bucket="archive"), "twice")
    with pytest.raises(PlanError) as caught:
        open_address("block:twice")
    assert str(caught.value) == (
        "block twice: there is more than one; "
        "write block:pybak-local-folder/twice or block:pybak-s3-storage/twice"
    )
    assert open_address("block:pybak-local-folder/twice").address == str(tmp_path)
    assert open_address("block:pybak-s3-storage/twice/x").address == (
        "block:pybak-s3-storage/twice/x"
    )


def test_a_missing_block_is_told_with_those_that_exist(
    save: Callable[[Block, str], None], tmp_path: Path
) -> None:
    save(LocalFolder(path=str(tmp_path)), "usb")
    for address, name in (
        ("block:usbb", "usbb"),
        ("block:pybak-s3-storage/usb", "pybak-s3-storage/usb"),
    ):
        with pytest.raises(PlanError, match=r"there are .*-folder/usb\b.*; make it") as caught:
            open_address(address)
        assert str(caught.value).startswith(f"block {name}: there is none; ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["block:", "block:/x", "block:s3-bucket/", "block:s3-bucket"])
def test_an_address_without_a_name_is_refused(address: str) -> None:
    with pytest.raises(PlanError, match="names no block"):
        parse(address)


def test_a_server_that_is_away_is_told_in_one_line() -> None:
    settings = {
        PREFECT_API_URL: "http://127.0.0.1:9/api",
        PREFECT_SERVER_EPHEMERAL_ENABLED: False,
    }
    with (
        temporary_settings(settings),
        pytest.raises(StorageError, match=r"127\.0\.0\.1:9/api can't be reached; start it, or"),
    ):
        open_address("block:offsite")


def test_a_process_without_prefect_gets_it_too_and_stays_without(
    save: Callable[[Block, str], None], prefect_server: str
) -> None:
    save(S3StorageBlock(bucket="archive", prefix="p", credentials=KEYS), "offsite")
    code = (
        "import sys\nfrom pybak.storage.opening import open_storage\n"
        "storage = open_storage('block:offsite/x')\n"
        "print(storage.address, storage.settings.prefix, 'prefect' in sys.modules)\n"
        f"assert storage.settings.session().get_credentials().secret_key == {SECRET!r}\n"
        "try: open_storage('block:missing')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True,
        env={"PREFECT_API_URL": prefect_server, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == "block:offsite/x p/x False"
    assert second.startswith("PlanError block missing: there is none; there are ")
    assert SECRET not in second + done.stderr


def test_secrets_show_nowhere(
    save: Callable[[Block, str], None], prefect_api: httpx.Client
) -> None:
    """(case 63)"""
    save(S3StorageBlock(bucket="archive", credentials=KEYS), "offsite")
    block = S3StorageBlock.load("offsite")
    assert isinstance(block, S3StorageBlock)
    shown = [repr(block), str(block), block.model_dump_json(), repr(block.model_dump())]
    shown += [repr(block.settings()), str(open_address("block:offsite"))]
    answer = prefect_api.post("/block_documents/filter", json={})
    assert "offsite" in answer.text
    for text in (*shown, answer.text):
        assert SECRET not in text


@pytest.mark.parametrize(
    "settings",
    [
        S3Settings(
            bucket="b",
            session=AwsSession(
                access_key_id="a", secret_access_key="s", role_arn="r",
                role_arguments={"Tags": [{"Key": "k", "Value": "v"}]},
            ),
            verify=False,
        ),
        S3Settings(bucket="b", encryption="AES256"),
        GcsSettings(bucket="b", credentials=ServiceAccount(key="{}"), retry_s=1.5),
        GcsSettings(bucket="b"),
        FolderSettings("~/x"),
    ],
)  # fmt: skip
def test_settings_cross_a_pipe_unchanged(
    settings: S3Settings | GcsSettings | FolderSettings,
) -> None:
    assert loads(dumps(settings)) == settings


def test_a_role_is_taken_on_and_renewed() -> None:
    import moto

    role = "arn:aws:iam::123456789012:role/backup"
    session = AwsSession(
        access_key_id="a", secret_access_key="s", region="eu-central-1", role_arn=role,
        role_arguments={"RoleSessionName": "nightly", "DurationSeconds": 900},
    )  # fmt: skip
    with moto.mock_aws():
        made = session()
        credentials = made.get_credentials()
        assert credentials is not None
        assert credentials.get_frozen_credentials().token
        identity = made.client("sts").get_caller_identity()
        assert ":assumed-role/backup/nightly" in identity["Arn"]
        assert credentials.method == "assume-role"


@pytest.mark.parametrize("kind", [S3StorageBlock, GcsStorageBlock, LocalFolder])
def test_the_guide_describes_every_field(kind: type[Block]) -> None:
    guide = (PROJECT / "docs" / "storage.md").read_text()
    title = f"### {kind.get_block_type_name()} (`{kind.get_block_type_slug()}`)"
    section = guide.split(title)[1].split("\n#")[0]
    for field in kind.model_fields:
        assert f"`{field}`" in section, field


def test_a_backup_goes_where_a_block_says_and_comes_back_from_there(
    save: Callable[[Block, str], None], run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("content")
    (tmp_path / "nas" / "here").mkdir(parents=True)
    save(LocalFolder(path=f"{tmp_path}/nas"), "nas")
    done = run_command("backup", "docs", "--to", "block:nas/here", "--json")
    assert done.rc == 0, done
    assert len([p for p in (tmp_path / "nas" / "here").iterdir() if p.suffix == ".zip"]) == 1
    back = run_command("restore", done.json["archive"], "--to", "out", "--json")
    assert back.rc == 0, back
    assert (tmp_path / "out" / "docs" / "a.txt").read_text() == "content"
