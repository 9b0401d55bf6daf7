"""Servers at the endpoint that are no S3: one clear error, told at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from blocks.s3 import S3Settings, S3Storage
from pybak.errors import StorageError
from pybak.storage.body import BytesBody
from pybak.storage.unfinished import UploadNotes, clean_up

TEXT = "does not answer as S3 does; check the endpoint"
_XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'


class Server(ThreadingHTTPServer):
    """Answers every request the same: `status`, `headers` and `body`; counts them."""

    status = 200
    body = b""
    headers: dict[str, str]
    asked = 0

    @property
    def storage(self) -> S3Storage:
        """A folder there."""
        return S3Storage(
            S3Settings(
                bucket="bucket", prefix="p", endpoint=f"http://127.0.0.1:{self.server_port}",
                addressing="path", region="us-east-1",
            )
        )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_words: Any) -> None:
        pass

    def _answer(self) -> None:
        server = self.server
        server.asked += 1
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(server.status)
        for name, value in {"Content-Length": str(len(server.body)), **server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(server.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Give a server, with credentials for it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = Server(("127.0.0.1", 0), _Handler)
    server.headers = {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


CALLS: dict[str, Callable[[S3Storage], object]] = {
    "check": lambda storage: storage.check(),
    "list": lambda storage: list(storage.list()),
    "stat": lambda storage: storage.stat("x"),
    "read": lambda storage: storage.read("x", 0, 10, version="e"),
    "put": lambda storage: storage.put("x", BytesBody(b"abc")),
    "begin": lambda storage: storage.begin("x"),
    "unfinished": lambda storage: list(storage.unfinished()),
    "delete": lambda storage: storage.delete("x"),
}
PAGES = {
    "html": b"<!DOCTYPE html>\n<html><body><p>Sign in<br></body></html>",
    "xhtml": _XML + b"<html><body/></html>",
    "json": b'{"status": "ok"}',
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_page_instead_of_an_answer_is_told_at_once(
    server: Server, call: Callable[[S3Storage], object], page: bytes
) -> None:
    server.body = page
    server.headers = {"Content-Type": "text/html"}
    with pytest.raises(StorageError, match=TEXT) as caught:
        call(server.storage)
    assert not caught.value.retryable
    assert "\n" not in str(caught.value)
    assert server.asked == 1


def test_a_page_of_a_proxy_that_failed_is_a_failure_that_passes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    server.status, server.body = 502, PAGES["html"]
    with pytest.raises(StorageError, match="try again later") as caught:
        server.storage.check()
    assert caught.value.retryable
    assert server.asked > 1


def test_an_answer_that_is_cut_is_asked_for_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    server.body = _XML + b"<ListBucketResult><IsTrunca"
    with pytest.raises(StorageError) as caught:
        server.storage.check()
    assert caught.value.retryable
    assert server.asked > 1


LISTS = {
    "no size": b"<ListBucketResult><Contents><Key>p/x</Key></Contents></ListBucketResult>",
    "no token": b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    "no number": (
        b"<ListBucketResult><Contents><Key>p/x</Key><Size>many</Size></Contents></ListBucketResult>"
    ),
    "no time": (
        b"<ListBucketResult><Contents><Key>p/x</Key><Size>1</Size><ETag>e</ETag>"
        b"<LastModified>once</LastModified></Contents></ListBucketResult>"
    ),
}


@pytest.mark.parametrize("body", LISTS.values(), ids=LISTS)
def test_a_listing_that_lacks_what_s3_tells_is_told(server: Server, body: bytes) -> None:
    server.body = _XML + body
    with pytest.raises(StorageError, match=TEXT):
        list(server.storage.list())


@pytest.mark.parametrize(
    "more", [b"<Upload><Key>p/x</Key></Upload>", b"<IsTruncated>true</IsTruncated>"]
)
def test_open_uploads_that_lack_what_s3_tells_are_told(server: Server, more: bytes) -> None:
    server.body = _XML + b"<ListMultipartUploadsResult>" + more + b"</ListMultipartUploadsResult>"
    with pytest.raises(StorageError, match=TEXT):
        list(server.storage.unfinished())


def test_an_answer_in_a_status_that_the_sdk_does_not_look_at_is_told(server: Server) -> None:
    server.status, server.body = 206, b"0123\n4567"
    with pytest.raises(StorageError, match=TEXT) as caught:
        list(server.storage.unfinished())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacking", ["ETag", "Last-Modified"])
def test_what_is_known_of_a_file_must_be_all(server: Server, lacking: str) -> None:
    server.body = b"0123456789"
    server.headers = {"ETag": '"e"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    assert server.storage.stat("x") is not None
    del server.headers[lacking]
    with pytest.raises(StorageError, match=TEXT):
        server.storage.stat("x")


@pytest.mark.parametrize("headers", [{"Content-Range": "bytes", "ETag": '"e"'}, {}])
def test_bytes_of_who_knows_where_are_no_answer(server: Server, headers: dict[str, str]) -> None:
    server.body, server.headers = b"0123456789", headers
    with pytest.raises(StorageError, match=TEXT) as caught:
        server.storage.read("x", 0, 10, version="e")
    assert not caught.value.retryable


def test_cleaning_up_raises_nothing_whatever_a_storage_answers(tmp_path: Any) -> None:
    class Broken:
        address = "s3://bucket/p"

        def __getattr__(self, name: str) -> Any:
            raise KeyError(name)

    notes = UploadNotes(tmp_path, "killed", Broken.address, "x.zip")
    notes.completing("x.zip", 1)
    notes.close(keep=True)
    broken: Any = Broken()
    assert clean_up(broken, None, folder=tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 1
