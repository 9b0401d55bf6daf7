"""A Prefect server that answers, but refuses, is not said to be away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
from commands import PROJECT
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)
from refusing import refusing

from blocks.password import load_password
from blocks.storages import open_address
from deployments.refusals import failures_told
from pybak.errors import PlanError, StorageError


@pytest.mark.parametrize(
    ("code", "told", "again"),
    [
        (500, "the server can't read its blocks (500): it probably has another PREFECT_SERVER", 0),
        (401, "the server's password is asked for; set PREFECT_API_AUTH_STRING", 0),
        (504, "the server answers 504", 1),
    ],
)
def test_what_it_answers_is_told_of_a_block(code: int, told: str, again: int) -> None:
    with refusing(code) as url:
        settings = {PREFECT_API_URL: url, PREFECT_SERVER_EPHEMERAL_ENABLED: False}
        with temporary_settings(settings):
            for ask in (lambda: load_password("archives"), lambda: open_address("block:offsite")):
                with pytest.raises(StorageError) as caught:
                    ask()
                assert told in str(caught.value)
                assert "can't be reached" not in str(caught.value)
                assert "\n" not in str(caught.value)
                assert caught.value.retryable == bool(again)


def test_a_refusal_ends_a_command_in_one_line() -> None:
    request = httpx.Request("POST", "http://h/api/block_documents/filter")
    error = PrefectHTTPStatusError(
        "Server error '500'", request=request, response=httpx.Response(500, request=request)
    )
    with pytest.raises(click.ClickException, match="can't read its blocks"), failures_told():
        raise error
    with pytest.raises(click.ClickException, match="no such place"), failures_told():
        raise PlanError("no such place")
    with pytest.raises(ZeroDivisionError), failures_told():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "words", [("deploy.py", "--wait", "30"), ("start.py", "worker"), ("register_blocks.py",)]
)
def test_a_password_that_lacks_is_told_at_once(words: tuple[str, ...], tmp_path: Path) -> None:
    with refusing(500, password="x") as url:
        done = subprocess.run(
            [sys.executable, PROJECT / "deployments" / words[0], *words[1:]], cwd=tmp_path,
            env={"PREFECT_API_URL": url, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin",
                 "PYTHONPATH": str(PROJECT)},
            capture_output=True, text=True, timeout=25, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "password is asked for; set PREFECT_API_AUTH_STRING" in done.stderr
    assert "Traceback" not in done.stderr
