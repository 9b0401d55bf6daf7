"""A Prefect server that is alive, and answers everything else with one refusal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def refusing(code: int, *, password: str | None = None, version: str = "1") -> Iterator[str]:
    """Run one and yield its API address.

    It answers `code` to all but its health; its version it tells to everybody, or with a
    `password` (`user:password` as sent, in Base64) to those who give that.
    """

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            body, status = b'{"detail": "no"}', code
            if self.path == "/api/health":
                body, status = b"true", 200
            elif self.path.startswith("/api/csrf-token"):
                body, status = b'{"detail": "CSRF protection is disabled."}', 422
            elif password is not None and given != password:
                status = 401
            elif self.path == "/api/admin/version":
                body, status = f'"{version}"'.encode(), 200
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/api"
        finally:
            server.shutdown()
            thread.join()
