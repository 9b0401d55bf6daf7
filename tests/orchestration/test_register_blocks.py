"""Blocks that a deployment makes from its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
from commands import PROJECT

from blocks.described import FolderSettings
from blocks.gcs_settings import GcsSettings, ServiceAccount
from blocks.loading import load_storage
from blocks.password import load_password
from blocks.s3_settings import S3Settings
from blocks.storages import _settings
from deployments.register_blocks import make_documents

SECRETS = ("hunter2", "sesame", "correct-horse")


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account", "project_id": "p", "private_key_id": "1",
        "private_key": pem.decode(), "client_email": "x@p.iam.gserviceaccount.com",
        "client_id": "1", "token_uri": "http://127.0.0.1:9/token",
    }  # fmt: skip
    file = tmp_path_factory.mktemp("keys") / "key.json"
    file.write_text(json.dumps(account))
    return file


def test_they_are_made_once_and_again_changes_nothing(
    in_prefect: None, prefect_server: str, prefect_api: httpx.Client, tmp_path: Path, key_file: Path
) -> None:
    variables = {
        "PYBAK_BLOCK_PASSWORD": "correct-horse",
        "PYBAK_BLOCK_PASSWORD_NAME": "env-photos",
        "PYBAK_BLOCK_CATALOG_URL": "postgresql://u:sesame@db/x",
        "PYBAK_BLOCK_FOLDER_PATH": str(tmp_path),
        "PYBAK_BLOCK_S3_BUCKET": "archive",
        "PYBAK_BLOCK_S3_NAME": "env-offsite",
        "PYBAK_BLOCK_S3_ACCESS_KEY_ID": "AKIAX",
        "PYBAK_BLOCK_S3_SECRET_ACCESS_KEY": "hunter2",
        "PYBAK_BLOCK_S3_PATH_STYLE": "true",
        "PYBAK_BLOCK_S3_CONCURRENCY": "4",
        "PYBAK_BLOCK_GCS_BUCKET": "archive",
        "PYBAK_BLOCK_GCS_KEY_FILE": str(key_file),
        "PYBAK_BLOCK_GCS_STORAGE_CLASS": "NEARLINE",
        "PYBAK_BLOCK_MAIL_HOST": "smtp.example.org",
        "PYBAK_BLOCK_MAIL_SENDER": "nas@example.org",
        "PYBAK_BLOCK_MAIL_RECIPIENTS": "you@example.org, me@example.org",
        "PYBAK_BLOCK_MAIL_USER": "nas",
        "PYBAK_BLOCK_MAIL_PASSWORD": "hunter2",
    }
    command = [sys.executable, str(PROJECT / "deployments" / "register_blocks.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables | {"PREFECT_API_URL": prefect_server},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = [
        "pybak-encryption-password/env-photos", "pybak-catalog-url/catalog",
        "pybak-local-folder/folder", "aws-credentials/env-offsite",
        "pybak-s3-storage/env-offsite", "gcp-credentials/gcs", "pybak-gcs-storage/gcs",
        "pybak-mail-server/mail",
    ]  # fmt: skip
    assert [line for line in done.stdout.splitlines() if ": made" in line] == [
        f"{name}: made" for name in documents
    ]
    assert "PyBak GCS Storage: registered" in done.stdout
    for secret in (*SECRETS, "PRIVATE KEY"):
        assert secret not in done.stdout + done.stderr

    updated = _updated(prefect_api)
    assert [*make_documents(variables)] == [(name, "unchanged") for name in documents]
    assert _updated(prefect_api) == updated
    changed = dict(
        make_documents(variables | {"PYBAK_BLOCK_S3_SECRET_ACCESS_KEY": "another-hunter2"})
    )
    assert changed["aws-credentials/env-offsite"] == "changed"
    assert changed["pybak-local-folder/folder"] == "unchanged"

    assert load_password("env-photos") == b"correct-horse"
    _settings.cache_clear()
    assert load_storage("", "folder") == FolderSettings(str(tmp_path))
    offsite, gcs = load_storage("", "env-offsite"), load_storage("", "gcs")
    assert isinstance(offsite, S3Settings)
    assert offsite.session is not None
    credentials = offsite.session().get_credentials()
    assert credentials is not None
    assert credentials.secret_key == "another-hunter2"
    assert (offsite.addressing, offsite.concurrency) == ("path", 4)
    assert isinstance(gcs, GcsSettings)
    assert gcs.storage_class == "NEARLINE"
    assert isinstance(gcs.credentials, ServiceAccount)
    assert json.loads(gcs.credentials.key or "") == json.loads(key_file.read_text())


def _updated(api: httpx.Client) -> dict[str, str]:
    found = api.post("/block_documents/filter", json={}).json()
    return {f"{d['block_type']['slug']}/{d['name']}": d["updated"] for d in found}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"S3_BUCKET": "archive", "S3_CONCURRENCY": "hunter2"}, "S3_…: concurrency: makes no"),
        ({"FOLDER_PATH": "hunter2"}, "FOLDER_…: path: makes no LocalFolder"),
        ({"GCS_BUCKET": "archive", "GCS_KEY_FILE": "/hunter2"}, "GCS_KEY_FILE: can't be read"),
        ({"MAIL_HOST": "localhost"}, "MAIL_…: recipients, sender: makes no MailServer"),
        ({"WEBHOOK_URL": "hunter2"}, "WEBHOOK_…: url: makes no Webhook"),
        ({"PING_URL": "hunter2"}, "PING_…: url: makes no Ping"),
    ],
)
def test_what_makes_no_block_is_told_without_its_value(
    variables: dict[str, str], told: str
) -> None:
    named = {f"PYBAK_BLOCK_{name}": value for name, value in variables.items()}
    with pytest.raises(click.ClickException, match=told) as caught:
        list(make_documents(named))
    assert "hunter2" not in str(caught.value)


def test_a_key_that_is_none_is_told_without_it(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{"private_key": "hunter2"}')
    variables = {
        "PYBAK_BLOCK_GCS_BUCKET": "archive",
        "PYBAK_BLOCK_GCS_KEY_FILE": str(tmp_path / "key.json"),
    }
    with pytest.raises(click.ClickException, match="makes no GcpCredentials") as caught:
        list(make_documents(variables))
    assert "hunter2" not in str(caught.value)


def test_nothing_is_made_of_an_empty_environment() -> None:
    assert list(make_documents({"PYBAK_BLOCK_S3_PREFIX": "x", "PATH": "/usr/bin"})) == []
