"""The health check of containers."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import PROJECT

from deployments import health


@contextmanager
def answering(
    status: int, context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A server that gives every request this status; yields its port and the paths asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield str(server.server_address[1]), asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("prefect server start --host 0.0.0.0", "server"),
        ("/opt/venv/bin/python3 -m prefect worker start --pool backup", "worker"),
        ("/sbin/docker-init -- python3 -m deployments.shepherd python3 deployments/start.py worker",
         "worker"),
        ("python3 deployments/start.py server", "server"),
        ("python3 -m deployments.shepherd python3 deployments/start.py on-request", "on-request"),
        ("/opt/venv/bin/python3 /app/deployments/on_request.py --limit=3", "on-request"),
        ("/sbin/docker-init -- python3 deployments/service.py", "api"),
        ("python3 flows/backup.py /srv/service.py --to /api", "command"),
        ("python3 flows/backup.py /srv/server start.py --to /worker", "command"),
        ("", "command"),
    ],
)  # fmt: skip
def test_the_role_is_told_by_the_first_process(line: str, role: str) -> None:
    assert health.role_of(line.split()) == role


@pytest.mark.parametrize(
    ("role", "variable", "path"),
    [
        ("server", "PREFECT_SERVER_API_PORT", "/api/health"),
        ("worker", "PREFECT_WORKER_WEBSERVER_PORT", "/health"),
        ("on-request", "PREFECT_RUNNER_SERVER_PORT", "/health"),
        ("api", "PYBAK_API_PORT", "/health"),
    ],
)
def test_what_stays_is_asked(
    role: str, variable: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    with answering(200) as (port, asked), pytest.MonkeyPatch.context() as environment:
        environment.setenv("http_proxy", proxy["http_proxy"])
        assert health.main([role], {variable: port}) == 0
    assert asked == [path]
    with answering(503) as (port, _):
        assert health.main([role], {variable: port}) == 1
    assert "answers 503" in capsys.readouterr().err
    assert health.main([role], {variable: port}) == 1  # nobody listens any more
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "refused" in said


def test_an_api_with_tls_is_asked_whatever_name_its_certificate_is_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("backups.example").configure_cert(context)
    with answering(200, context) as (port, asked):
        told = {"PYBAK_API_PORT": port, "PYBAK_API_TLS_CERTIFICATE": "/run/secrets/certificate"}
        assert health.main(["api"], told) == 0, capsys.readouterr().err
    assert asked == ["/health"]


def test_a_command_is_well_if_it_can_keep_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert health.main(["command"], {"PYBAK_HOME": str(tmp_path / "not" / "yet")}) == 0
    assert list(tmp_path.iterdir()) == []
    assert health.main(["command"], {"PYBAK_HOME": "/proc/1"}) == 1
    assert capsys.readouterr().err.startswith("command: /proc/1: ")


def test_an_unknown_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main(["sever"], {}) == 2
    assert "server, worker, on-request, api, command" in capsys.readouterr().err


def test_it_imports_nothing_heavy() -> None:
    """It runs every half minute, in every container."""
    code = (
        "import sys, deployments.health; "
        "print([m for m in ('prefect', 'pydantic', 'click', 'httpx', 'pybak') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == "[]\n"
