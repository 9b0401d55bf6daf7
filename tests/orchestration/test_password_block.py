"""Passwords in Prefect blocks: kept there, loaded by name, shown nowhere."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from commands import PROJECT
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from blocks import EncryptionPassword
from blocks.password import load_password
from pybak.errors import PlanError, StorageError
from pybak.password import PASSWORD_VARIABLE
from tasks._password import password_for

PASSWORD = "h\N{LATIN SMALL LETTER U WITH DIAERESIS}nter2 correct horse"


@pytest.fixture
def stored(in_prefect: None) -> Iterator[str]:
    """Give the name of a block that holds PASSWORD."""
    EncryptionPassword(password=PASSWORD).save("photos", overwrite=True)
    yield "photos"
    EncryptionPassword.delete("photos")


class TestStandards(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    @pytest.fixture
    def block(self) -> type[EncryptionPassword]:
        return EncryptionPassword

    test_has_a_valid_image = None  # type: ignore[assignment]  # it has no logo


def test_its_type_can_be_registered_by_the_package(
    prefect_server: str, prefect_api: httpx.Client
) -> None:
    subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"], cwd=PROJECT,
        env={"PREFECT_API_URL": prefect_server, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    found = prefect_api.get("/block_types/slug/pybak-encryption-password")
    assert found.json()["name"] == "PyBak Encryption Password"


def test_a_stored_password_comes_back_as_bytes(stored: str) -> None:
    assert load_password(stored) == PASSWORD.encode()
    assert load_password(f"pybak-encryption-password/{stored}") == PASSWORD.encode()
    assert password_for(stored) == PASSWORD.encode()


def test_prefects_own_secret_block_does_as_well(in_prefect: None) -> None:
    Secret(value=PASSWORD).save("plain", overwrite=True)  # type: ignore[arg-type]
    assert load_password("secret/plain") == PASSWORD.encode()
    Secret(value={"a": 1}).save("plain", overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="block secret/plain: holds no text"):
        load_password("secret/plain")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("missing", r"EncryptionPassword\(\.\.\.\)\.save\(\"missing\"\)"),
        ("pybak-encryption-password/missing", r"save\(\"missing\"\)"),
        ("secret/missing", r"Secret\(\.\.\.\)\.save\(\"missing\"\)"),
        ("", "there is none"),
        ("pybak-encryption-password/", "there is none"),
        ("s3-bucket/mine", r"is no password; name .* secret/NAME"),
        ("a/b/c", "is no password"),
    ],
)
def test_a_missing_block_is_told_in_one_line_with_how_to_make_it(
    name: str, advice: str, in_prefect: None
) -> None:
    with pytest.raises(PlanError, match=advice) as caught:
        load_password(name)
    assert str(caught.value).startswith(f"block {name}: ")
    assert "\n" not in str(caught.value)


def test_an_empty_password_is_refused(in_prefect: None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EncryptionPassword(password="")
    Secret(value="").save("empty", overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"secret/empty.*empty"):
        load_password("secret/empty")


def test_without_a_block_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert password_for(None) is None
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    assert password_for(None) == PASSWORD.encode()


def test_the_environment_alone_does_not_import_the_blocks() -> None:
    code = (
        "import sys, tasks._password as p\nassert p.password_for(None) is None\n"
        "print('blocks' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == b"False\n"


def test_it_shows_in_no_repr(stored: str) -> None:
    block = EncryptionPassword.load(stored)
    assert isinstance(block, EncryptionPassword)
    for shown in (repr(block), str(block), block.model_dump_json(), repr(block.model_dump())):
        assert "hunter2" not in shown.replace("\N{LATIN SMALL LETTER U WITH DIAERESIS}", "u")
        assert "nter2" not in shown


@task
def use(block: str) -> int:
    password = password_for(block)
    assert password is not None
    get_run_logger().info("the password has %d bytes", len(password))
    return len(password)


@flow
def using(password_block: str) -> int:
    return use.submit(password_block).result()


def test_a_run_that_uses_it_leaves_no_trace_of_it(
    stored: str, prefect_api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Parameters, task inputs, states, logs and the block's plain view (case 63)."""
    with caplog.at_level(logging.DEBUG):
        assert using(stored) == len(PASSWORD.encode())
    APILogWorker.drain_all(timeout=10)
    seen = caplog.text
    newest_first = {
        "flow_runs": "START_TIME_DESC",
        "task_runs": "EXPECTED_START_TIME_DESC",
        "logs": "TIMESTAMP_DESC",
        "artifacts": "CREATED_DESC",
        "block_documents": "BLOCK_TYPE_AND_NAME_ASC",
    }
    for what, order in newest_first.items():
        answer = prefect_api.post(f"/{what}/filter", json={"sort": order})
        assert answer.status_code == 200, answer.text
        seen += answer.text
    assert '"password_block":"photos"' in seen
    logs = prefect_api.post("/logs/filter", json={"sort": newest_first["logs"]})
    assert "the password has 22 bytes" in logs.text
    assert "nter2" not in seen


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", None])
def test_a_server_that_is_away_is_told_in_one_line(url: str | None) -> None:
    settings = {PREFECT_API_URL: url, PREFECT_SERVER_EPHEMERAL_ENABLED: False}
    where = "at http://127.0.0.1:9/api " if url else ""
    with (
        temporary_settings(settings),
        pytest.raises(StorageError, match=f"block photos: Prefect's server {where}can't be") as why,
    ):
        load_password("photos")
    assert "-p" in str(why.value)
    assert "\n" not in str(why.value)


def test_a_server_of_prefects_own_that_does_not_come_up_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

    monkeypatch.setattr(EncryptionPassword, "load", load)
    with pytest.raises(StorageError, match="block photos: Prefect's server "):
        load_password("photos")
