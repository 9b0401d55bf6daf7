"""Ask a Prefect server by its REST API, without Prefect: what looks only need not wait for it.

Paths and bodies are those of the server's own documentation, at `/docs` of each server. Answers
are plain JSON values; times in them are text, which `moment` reads.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from pybak.bare import bare
from pybak.display import escape
from pybak.prefect_refusals import FORBIDDEN, refused
from pybak.prefect_server import AUTH_VARIABLE, START, ServerError, any_server, setting

if TYPE_CHECKING:
    import httpx

PAGE: Final = 200
"""How many rows a server gives at once at most, unless it is told otherwise."""
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
_CERTIFICATES: Final = "PREFECT_API_SSL_CERT_FILE"
_NO_CHECK: Final = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY"
_TRUE: Final = ("1", "true", "yes", "on", "t", "y")
_MISSING: Final = 404
_MOST_SHOWN: Final = 200


class ApiError(ServerError):
    """A server did not answer, or refused; `status` is what HTTP says, None without an answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Asking(Protocol):
    """What looks are made by: `PrefectApi`, or what has its words for other manners."""

    def get(self, path: str) -> Any:
        """Give what is at `path`."""

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Give the answer to `body`."""

    def pages(self, path: str, body: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Yield all rows that a `…/filter` path gives."""


class PrefectApi:
    """A Prefect server's REST API; a context manager. Every failure is an ApiError, in one line."""

    def __init__(
        self,
        url: str,
        *,
        auth: str | None = None,
        verify: Any = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Take the API's address, such as `http://127.0.0.1:4200/api`, and `user:password`.

        Nothing is sent yet. `verify` is what httpx calls so, `transport` stands in for the network.
        """
        import httpx

        self.url = url.rstrip("/")
        self.place = bare(self.url)
        """Its address for people: one with a password is shown without."""
        self.has_auth = auth is not None
        self.server_time: datetime | None = None
        """What the server's clock said in its last answer, to the second."""
        headers = _user_agent()
        if auth is not None:  # as it is: the server compares the whole text
            headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        try:
            self._client = httpx.Client(
                timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
                headers=headers,
                verify=verify,
                transport=transport,
            )
        except OSError as error:
            raise ApiError(f"{_CERTIFICATES}: {error.strerror or error}; correct it") from error
        self._csrf: dict[str, str] = {}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> PrefectApi | None:
        """Make one for the server that is meant (`pybak.prefect_server`); None where none is."""
        url = any_server(environ)
        if url is None:
            return None
        verify: Any = True
        if (setting(environ, _NO_CHECK) or "").lower() in _TRUE:
            verify = False
        elif certificates := setting(environ, _CERTIFICATES):
            verify = _trusting(certificates)
        return cls(url, auth=setting(environ, AUTH_VARIABLE), verify=verify)

    def get(self, path: str) -> Any:
        """Give what is at `path`, such as `/admin/version`."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Give the answer to `body`."""
        return self._ask("POST", path, dict(body or {}))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change what is at `path`."""
        return self._ask("PATCH", path, dict(body))

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._ask("DELETE", path, {})

    def pages(self, path: str, body: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Yield all rows that a `…/filter` path gives, asked for page by page.

        Give a `sort` where rows may be added meanwhile.
        """
        offset = 0
        while True:
            rows = self.post(path, {**(body or {}), "limit": PAGE, "offset": offset})
            yield from rows
            if len(rows) < PAGE:
                return
            offset += len(rows)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        answer = self._send(method, path, body)
        # Servers with CSRF protection want a token for all that is no GET, queries too.
        if answer.status_code == FORBIDDEN and body is not None and not self._csrf:
            self._take_token()
            answer = self._send(method, path, body)
        self.server_time = _date_of(answer.headers.get("date"))
        if answer.is_success:
            try:
                return answer.json() if answer.content else None
            except ValueError as error:
                raise ApiError(
                    f"{self.place}: this is no Prefect server; correct PREFECT_API_URL"
                ) from error
        raise self._refused(path, answer)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, self.url + path, json=body, headers=self._csrf)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # What is wrong with an URL may be a part of its password.
            told = "" if isinstance(error, httpx.InvalidURL) else bare(error)
            what = escape(told) or type(error).__name__
            raise ApiError(
                f"{self.place}: no Prefect server answers ({what}); start it "
                f"(`{START}`), or correct PREFECT_API_URL"
            ) from error

    def _take_token(self) -> None:
        client = str(uuid.uuid4())
        answer = self._send("GET", f"/csrf-token?client={client}", None)
        if answer.is_success:
            token = answer.json()["token"]
            self._csrf = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}

    def _refused(self, path: str, answer: httpx.Response) -> ApiError:
        code = answer.status_code
        if code == _MISSING:
            return ApiError(f"{self.place}{path}: the server knows nothing of this", code)
        detail = _detail(answer.text)
        told = refused(self.place, path, code, has_auth=self.has_auth, detail=detail)
        return ApiError(told, code)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def moment(text: str | None) -> datetime | None:
    """Read a time of an answer, aware; one without a zone is in UTC."""
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _user_agent() -> dict[str, str]:
    """Give the name by which the server knows a client of its own time.

    It forgets the lease of a run, and so who gives its slot back, where a client whose
    `prefect/VERSION (API …)` it can't read makes a pending run go on.
    """
    try:
        return {"User-Agent": f"prefect/{version('prefect')} (API pybak)"}
    except PackageNotFoundError:
        return {}


def _trusting(certificates: str) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=certificates)
    except (OSError, ssl.SSLError) as error:
        raise ApiError(f"{_CERTIFICATES}: {escape(str(error))}; correct it") from error


def _date_of(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None


def _detail(text: str) -> str:
    """Give what the body of a refusal says, short and in one line."""
    try:
        value = json.loads(text)
        told = value.get("detail") or value.get("exception_message") or ""
    except (ValueError, AttributeError):
        told = ""
    return escape(str(told))[:_MOST_SHOWN] if told else ""
