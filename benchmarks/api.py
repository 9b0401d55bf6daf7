"""How quickly the REST API answers many at once, and how large its process gets.

    python -m benchmarks.api                    # 10 000 runs, 50 clients, SQLite
    python -m benchmarks.api --catalog postgresql+psycopg://…   # an empty database

The service runs as its command does, before a catalog with many runs of 20 jobs and a stand-in of
Prefect's server that answers at once. The load comes from a second process over loopback: each
client sends its next request when it has the answer to the last one. Requests differ: besides the
same page for all there are pages of runs by job, status and cursor, which no cache has.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil

_JOBS = 20
_FILES = {"total": 1204, "new": 3, "changed": 2, "unchanged": 1199, "excluded": 0, "failed": 0}


def main() -> None:
    """Measure each path and print p50, p99 and the service's memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--catalog", help="URL of an empty database; by default an SQLite file")
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        port, token, path, requests = arguments.load
        print(json.dumps(asyncio.run(_load(int(port), token, path, int(requests), arguments))))
        return
    with tempfile.TemporaryDirectory(prefix="pybak-api-") as folder, _prefect() as prefect:
        url = arguments.catalog or f"sqlite:///{folder}/catalog.db"
        _fill(url, arguments.runs)
        with _service(Path(folder), url, prefect) as (process, port, token):
            for path in ("/status", "/runs", "/runs?varied", "/jobs", "/metrics"):
                figures = _measured(arguments, port, token, path)
                cpu = sum(process.cpu_times()[:2])
                print(
                    f"GET {path:13} {arguments.clients} clients: p50 {figures['p50']:6.1f} ms   "
                    f"p99 {figures['p99']:6.1f} ms   max {figures['max']:6.1f} ms   "
                    f"{figures['rate']:6.0f} a second   {figures['bytes']:7.0f} bytes   "
                    f"cpu so far {cpu:5.1f} s",
                    flush=True,
                )
            memory = process.memory_full_info()
            print(f"memory of the service: {memory.rss / 1e6:.0f} MB (USS {memory.uss / 1e6:.0f})")


def _fill(url: str, runs: int) -> None:
    """Record runs of all jobs, one every few minutes; each full one has an archive."""
    from pybak.catalog.engine import Database
    from pybak.catalog.models import Archive, Run

    database = Database(url)
    begun = datetime.now(UTC) - timedelta(minutes=3 * runs)
    with database.writing() as session:
        for number in range(runs):
            job, seq = f"job-{number % _JOBS:02}", number // _JOBS + 1
            at = begun + timedelta(minutes=3 * number)
            name = f"/srv/backups/{job}_{seq}.zip"
            is_failed = number % 97 == 0
            session.add(
                Run(
                    run_id=f"{number:08x}-0000-4000-8000-000000000000", seq=seq, kind="backup",
                    job=job, status="failed" if is_failed else "success", started_at=at,
                    finished_at=at + timedelta(seconds=9), mode="incremental",
                    archive=None if is_failed else name, counts=_FILES, is_snapshot=not is_failed,
                    message="the disk is full; make room" if is_failed else None,
                )
            )  # fmt: skip
            if not is_failed:
                session.add(
                    Archive(
                        run_id=f"{number:08x}-0000-4000-8000-000000000000", job=job, name=name,
                        format="zip", size=41_000 + number, members=5, created_at=at,
                    )
                )  # fmt: skip
    database.close()


@contextmanager
def _prefect() -> Iterator[str]:
    """Stand in for Prefect's server: nothing runs and nothing is scheduled."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


@contextmanager
def _service(folder: Path, url: str, prefect: str) -> Iterator[tuple[psutil.Process, int, str]]:
    """Start the service as its command does; give its process, its port and a token."""
    import socket

    from pybak.api.auth.clients import Clients

    secret = Clients(folder).add("load", ["backup:read"], now=datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environ = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("PYBAK_", "PREFECT_"))
    } | {
        "PYBAK_HOME": str(folder), "PYBAK_CATALOG_URL": url, "PREFECT_API_URL": prefect,
        "PYBAK_API_TOKEN_ENDPOINT": "true", "PYBAK_API_PORT": str(port),
        "PYBAK_API_TOKEN_SECONDS": "3600", "PYBAK_API_REQUESTS_A_MINUTE": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "deployments.service"]
    log = (folder / "service.log").open("wb")
    with log, subprocess.Popen(command, env=environ, stdout=log, stderr=log) as process:
        try:
            base = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    if httpx.get(f"{base}/health").is_success:
                        break
                except httpx.TransportError:
                    pass
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((folder / "service.log").read_text())
                time.sleep(0.1)
            form = {
                "grant_type": "client_credentials", "client_id": "load", "client_secret": secret,
            }  # fmt: skip
            token = httpx.post(f"{base}/oauth/token", data=form).json()["access_token"]
            yield psutil.Process(process.pid), port, token
        finally:
            process.terminate()


def _measured(arguments: argparse.Namespace, port: int, token: str, path: str) -> dict[str, float]:
    """Have a second process make the load."""
    words = ["--load", str(port), token, path, str(arguments.requests)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.api", "--clients", str(arguments.clients),
         "--runs", str(arguments.runs), *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def _load(
    port: int, token: str, path: str, requests: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Ask with many clients at once, over connections that stay open."""
    paths = _paths(path, arguments.runs)
    headers = {"Authorization": f"Bearer {token}"}
    httpx.get(f"http://127.0.0.1:{port}{next(paths)}", headers=headers).raise_for_status()
    left = iter(range(requests))
    took: list[float] = []
    sizes: list[int] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(
                f"GET {next(paths)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            begun = time.perf_counter()
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise SystemExit(head.decode())
            size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            took.append(time.perf_counter() - begun)
            sizes.append(size)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    seconds = time.perf_counter() - begun
    took.sort()
    return {
        "p50": took[len(took) // 2] * 1e3, "p99": took[len(took) * 99 // 100] * 1e3,
        "max": took[-1] * 1e3, "rate": requests / seconds, "bytes": statistics.mean(sizes),
    }  # fmt: skip


def _paths(path: str, runs: int) -> Iterator[str]:
    """Yield what is asked for: the same again and again, or another page each time."""
    if not path.endswith("?varied"):
        return itertools.repeat(path)
    now = datetime.now(UTC)

    def varied() -> Iterator[str]:
        for number in itertools.count():
            asked: dict[str, str] = {
                "until": (now - timedelta(minutes=3 * (number * 7919 % runs))).isoformat()
            }
            if number % 2:
                asked["job"] = f"job-{number % _JOBS:02}"
            if number % 5 == 0:
                asked["status"] = "failed"
            yield f"/runs?{urlencode(asked)}"

    return varied()


if __name__ == "__main__":
    main()
