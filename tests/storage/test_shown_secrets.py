"""What an SDK says is shown without the passwords and queries of the URLs in it."""

from __future__ import annotations

import pytest

from blocks.gcs import GcsSettings, GcsStorage
from blocks.gcs_errors import shortened
from blocks.s3 import S3Settings, S3Storage
from pybak.bare import bare
from pybak.errors import PlanError, PyBakError

SECRET = "HUNTER2"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        f"http://me:{SECRET}/{SECRET}@127.0.0.1:1",
        f"http://127.0.0.1:1/?sig={SECRET}",
        f"http://127.0.0.1:1/x?a=b&sig={SECRET}",
        f"me:{SECRET}@127.0.0.1:1",
        f"http://me:{SECRET}@[::1",
    ],
)
def test_an_endpoint_of_the_environment_is_shown_without_its_secrets(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(PyBakError) as caught:
        S3Storage(S3Settings(bucket="bucket", addressing="path", attempts=1)).check()
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    with pytest.raises(PyBakError) as caught:
        GcsStorage(GcsSettings(bucket="bucket", retry_s=0.1)).check()
    assert SECRET not in str(caught.value)


def test_a_long_text_is_cut_after_its_secrets_are_gone() -> None:
    said = f"{'x' * 150} http://me:{SECRET}{'y' * 100}@host/ and so on"
    assert SECRET not in shortened(said)
    assert "http://host/" in shortened(said)


def test_what_is_no_secret_stays() -> None:
    said = "serviceAccount:a@b.iam does not have\n access to bucket x (or it may not exist)?"
    assert bare(said) == " ".join(said.split())
    assert bare('url: "https://host:9000/bucket/a%20b"') == 'url: "https://host:9000/bucket/a%20b"'


@pytest.mark.parametrize("settings", [S3Settings, GcsSettings])
@pytest.mark.parametrize(
    "endpoint", [f"https://me:{SECRET}@host", f"https://{SECRET}@host/x", f"me:{SECRET}@host:1"]
)
def test_a_block_s_endpoint_with_a_password_is_refused(
    settings: type[S3Settings] | type[GcsSettings], endpoint: str
) -> None:
    with pytest.raises(PlanError, match="no user and no password") as caught:
        settings(bucket="bucket", endpoint=endpoint)
    assert SECRET not in str(caught.value)
    settings(bucket="bucket", endpoint="https://host:9000/a@b")
