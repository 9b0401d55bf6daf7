"""Google Cloud Storage for tests: gcp-storage-emulator in a process, and a guard before it.

The guard is a small proxy that adds what the emulator leaves out: tokens (401), generations (412),
at most 32 sources of one class in a composition, which may delete them (400), ranges past the end
(416), no MD5 of what was composed. It counts requests and makes the faults of `Fault`.
`TokenServer` hands out tokens for keys of service accounts that it knows.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

_START_SECONDS = 30


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose target holds `part`.

    `status` answers with it and `message`; `cut` closes the connection: "before" the request is
    done, "after" it (the reply is lost), or "within" the reply; `spoil` turns over a bit of what is
    sent (100 bytes before its end), `stall` waits so many seconds first. `skip` lets as many pass
    before. `fired` counts.
    """

    method: str
    part: str
    times: int = 1
    status: int = 0
    cut: str = ""
    spoil: bool = False
    stall: float = 0
    skip: int = 0
    message: str = "backendError"
    fired: int = field(default=0, init=False)


class Guard:
    """The proxy. `token` is the one it takes, None for all; `requests` is what it was asked."""

    def __init__(self, upstream: int) -> None:
        self.token: str | None = None
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.uploaded: list[dict[str, Any]] = []
        """The resources and compose requests that clients sent, as JSON."""
        self.upstream = upstream
        self.finished: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """What was answered to uploads that are finished: the real service says it again."""
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"guard": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self) -> None:
        """Forget faults and requests, and take any token."""
        self.token = None
        self.faults.clear()
        self.requests.clear()
        self.uploaded.clear()

    def add(self, *words: Any, **more: Any) -> Fault:
        """Have a fault happen."""
        fault = Fault(*words, **more)
        self.faults.append(fault)
        return fault

    def new_bucket(self, name: str) -> None:
        """Make a bucket."""
        body = json.dumps({"name": name}).encode()
        status, _, answer = self.forward(
            "POST", "/storage/v1/b?project=p", {"Content-Type": "application/json"}, body
        )
        assert status == 200, answer

    def objects(self, bucket: str) -> dict[str, dict[str, Any]]:
        """Give what the emulator knows of all objects of a bucket."""
        _, _, answer = self.forward("GET", f"/storage/v1/b/{bucket}/o", {}, b"")
        return {item["name"]: item for item in json.loads(answer)["items"]}

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()

    def forward(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask the emulator."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def found(self, bucket: str, name: str) -> dict[str, Any] | None:
        """Give the resource of an object; None if there is none."""
        quoted = urllib.parse.quote(name, safe="")
        status, _, answer = self.forward("GET", f"/storage/v1/b/{bucket}/o/{quoted}", {}, b"")
        return json.loads(answer) if status == 200 else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of tests hang up."""


class _Handler(BaseHTTPRequestHandler):
    guard: Guard
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        guard = self.guard
        with guard.lock:
            guard.requests.append((self.command, self.path))
            fault = self._fault()
        if fault is not None and fault.stall:
            time.sleep(fault.stall)
        if fault is not None and fault.spoil:
            at = max(0, len(body) - 100)
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if fault is not None and fault.cut == "before":
            return self._hang_up()
        if fault is not None and fault.status:
            return self._refuse(fault.status, fault.message)
        with guard.lock:
            refused = self._refused(body)
            if refused is not None:
                return self._refuse(*refused)
            status, more, answer = self._forwarded(body)
        if fault is not None and fault.cut == "after":
            return self._hang_up()
        self.send_response(status)
        for key, value in more.items():
            if key.lower() not in ("content-length", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if fault is not None and fault.cut == "within":
            self.wfile.write(answer[: len(answer) // 2])
            self.wfile.flush()
            return self._hang_up()
        if self.command != "HEAD":
            self.wfile.write(answer)
        return None

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET

    def _forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        finished = self.guard.finished
        if self.command == "PUT" and self.path in finished:
            return finished[self.path]
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        status, more, answer = self.guard.forward(self.command, self.path, headers, body)
        status, answer = self._settle(status, answer, body)
        if self.command == "PUT" and status == 200:
            finished[self.path] = (status, more, answer)
        return status, more, answer

    def _fault(self) -> Fault | None:
        target = urllib.parse.unquote(self.path)
        for fault in self.guard.faults:
            if fault.fired >= fault.times or fault.method != self.command:
                continue
            if fault.part not in target:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.fired += 1
            return fault
        return None

    def _refused(self, body: bytes) -> tuple[int, str] | None:
        """Give what the real service refuses this request with, where the emulator would not."""
        guard = self.guard
        given = self.headers.get("Authorization")
        is_resumed = "upload_id=" in self.path  # the session's address is a secret of its own
        if guard.token is not None and given != f"Bearer {guard.token}" and not is_resumed:
            return 401, "Invalid Credentials"
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        bucket, name = _object(url.path)
        is_compose = url.path.endswith("/compose")
        if self.command == "POST" and "/upload/" in url.path and not is_resumed:
            meta = _metadata(self.headers.get("Content-Type", ""), body)
            guard.uploaded.append(meta)
            name = query.get("name") or meta.get("name")
        there = guard.found(bucket, name) if bucket and name else None
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and not is_resumed:
            if there is None and self.command in ("GET", "DELETE") and wanted != "0":
                return 404, "No such object"
            if (there or {"generation": "0"})["generation"] != wanted:
                return 412, "At least one of the pre-conditions you specified did not hold."
        if is_compose:
            return self._refused_sources(bucket, json.loads(body))
        ranged = self.headers.get("Range", "")
        if there is not None and ranged.startswith("bytes="):
            start = int(ranged[6:].split("-")[0])
            if start >= int(there["size"]):
                return 416, "Requested range not satisfiable"
        return None

    def _refused_sources(self, bucket: str, asked: dict[str, Any]) -> tuple[int, str] | None:
        self.guard.uploaded.append(asked)
        if not 1 <= len(asked["sourceObjects"]) <= 32:
            return 400, "The number of source components provided (33) exceeds the maximum (32)."
        classes = {asked["destination"].get("storageClass", "STANDARD")}
        for source in asked["sourceObjects"]:
            there = self.guard.found(bucket, source["name"])
            if there is None or there["generation"] != source.get(
                "generation", there["generation"]
            ):
                return 404, "Object not found"
            classes.add(there["storageClass"])
        return (400, "Objects are not in the same storage class") if len(classes) > 1 else None

    def _settle(self, status: int, answer: bytes, body: bytes) -> tuple[int, bytes]:
        """Do what the real service does besides."""
        path = urllib.parse.urlsplit(self.path).path
        if status == 404 and not answer:
            answer = _problem(404, "Not Found")
        if status != 200 or not path.endswith("/compose"):
            return status, answer
        bucket, _ = _object(path)
        made, asked = json.loads(answer), json.loads(body)
        made.pop("md5Hash", None)
        if asked.get("deleteSourceObjects"):
            for source in asked["sourceObjects"]:
                quoted = urllib.parse.quote(source["name"], safe="")
                self.guard.forward("DELETE", f"/storage/v1/b/{bucket}/o/{quoted}", {}, b"")
        return status, json.dumps(made).encode()

    def _refuse(self, code: int, message: str) -> None:
        body = _problem(code, message)
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        """Reset the connection."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)


def _object(path: str) -> tuple[str, str | None]:
    """Give bucket and object of a request's path."""
    bucket = path.partition("/b/")[2].partition("/")[0]
    name = path.partition("/o/")[2].removesuffix("/compose")
    return bucket, urllib.parse.unquote(name) or None


def _metadata(kind: str, body: bytes) -> dict[str, Any]:
    """Give the resource of an upload: the first part of a multipart one, or all of the body."""
    text = body if kind.startswith("application/json") else body[body.index(b"{") :]
    found: dict[str, Any] = json.JSONDecoder().raw_decode(text.decode("latin-1"))[0]
    return found


def _problem(code: int, message: str) -> bytes:
    errors = [{"message": message, "reason": "x"}]
    return json.dumps({"error": {"code": code, "message": message, "errors": errors}}).encode()


class TokenServer:
    """Gives tokens for assertions that are signed by `key` (RFC 7523). `token` is what it gives."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.token = "tok"
        self.hits = 0
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        handler = type("Handler", (_Tokens,), {"owner": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def account(self, *, foreign: bool = False) -> dict[str, str]:
        """Give the key file of a service account, or one with another key."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = (key if foreign else self.key).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account", "project_id": "p", "private_key_id": "1",
            "private_key": pem.decode(), "client_email": "x@p.iam.gserviceaccount.com",
            "client_id": "1", "token_uri": f"http://127.0.0.1:{self.server.server_port}/token",
        }  # fmt: skip

    def answer(self, body: str) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        from cryptography.hazmat.primitives import serialization
        from google.auth import jwt

        self.hits += 1
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assertion = urllib.parse.parse_qs(body)["assertion"][0]
        try:
            jwt.decode(assertion, certs=public, audience=None)
        except ValueError:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        return 200, {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"}

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


class _Tokens(BaseHTTPRequestHandler):
    owner: TokenServer

    def log_message(self, *words: Any) -> None:
        pass

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        code, answer = self.owner.answer(text)
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running() -> Iterator[Guard]:
    """Start an emulator, and a guard before it; skip the test where there is none."""
    pytest.importorskip("gcp_storage_emulator")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1",
         f"--port={port}", "--in-memory"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            _wait(process, port)
            guard = Guard(port)
            try:
                yield guard
            finally:
                guard.close()
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    pytest.fail("gcp-storage-emulator did not start")
