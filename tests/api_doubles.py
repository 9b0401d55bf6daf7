"""The REST API in a test: keys of a made-up provider, services that remember, a catalog's facts."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pybak.api.app import create_app
from pybak.api.services import LogLine, LogPage, MemberFile, StartedRun
from pybak.api.settings import ApiSettings
from pybak.errors import NotFoundError, PlanError
from pybak.overview.facts import Schedule

ISSUER = "https://login.example/realm"
AUDIENCE = "https://backup.example/api"
ALL = "backup:read backup:write backup:restore"
FLOW_RUN = "0a4c7a7e-35ad-4d0f-8b68-2f6f0f4a9c11"
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Key:
    """A private key and its public half as a JWK."""

    def __init__(self, kid: str, *, curve: bool = False, with_alg: bool = True) -> None:
        self.kid = kid
        self.algorithm = "ES256" if curve else "RS256"
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if curve
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        public: Any = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk: dict[str, Any] = {**public, "kid": kid, "use": "sig"}
        self.jwk.pop("key_ops", None)
        if with_alg:
            self.jwk["alg"] = self.algorithm

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        said = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "client_id": "cli", "scope": ALL,
            "iat": now, "exp": now + 300, "jti": str(uuid.uuid4()), **claims,
        }  # fmt: skip
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            self.private, algorithm=self.algorithm,
            headers={"typ": "at+jwt", "kid": self.kid, **(header or {})},
        )  # fmt: skip


def unsigned(**claims: Any) -> str:
    """Give a token with `alg: none`, which libraries refuse to make."""
    header = {"alg": "none", "typ": "at+jwt"}
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 300, "scope": ALL, **claims}
    parts = [json.dumps(part).encode() for part in (header, said)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


class Provider(httpx.AsyncBaseTransport):
    """Answers discovery and keys as an OpenID provider does, and counts how often."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys)
        self.asked: list[str] = []
        self.is_down = False
        self.gone = "/nothing"
        self.document: dict[str, Any] = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.is_down:
            raise httpx.ConnectError("refused", request=request)
        if request.url.path.endswith("/keys") and not request.url.path.endswith(self.gone):
            return httpx.Response(200, json={"keys": [key.jwk for key in self.keys]})
        if request.url.path.endswith("/.well-known/openid-configuration"):
            return httpx.Response(200, json=self.document)
        return httpx.Response(404)


class Runs:
    """Remembers what was started; `made` are the runs."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Mapping[str, Any], StartedRun]] = []
        self.by_key: dict[tuple[str, str | None], StartedRun] = {}
        self.cancelled: list[str] = []
        self.at_work: list[StartedRun] = []
        self.due: dict[str, datetime] = {}
        self.planned: dict[str, Schedule] = {}
        self.bad: list[StartedRun] = []
        self.trouble: Exception | None = None

    def start(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> StartedRun:
        if self.trouble is not None:
            raise self.trouble
        # Keys are kept by flow, as Prefect does.
        if (kind, idempotency_key) in self.by_key:
            return self.by_key[kind, idempotency_key]
        number = len(self.made)
        made = StartedRun(
            flow_run_id=f"{FLOW_RUN[:-4]}{number:04x}", kind=kind, job=parameters.get("job"),
            fingerprint=fingerprint,
        )  # fmt: skip
        self.made.append((kind, parameters, made))
        if idempotency_key is not None:
            self.by_key[kind, idempotency_key] = made
        return made

    def find(self, flow_run_id: str) -> StartedRun | None:
        if self.trouble is not None:
            raise self.trouble
        known = [*self.at_work, *(made for _, _, made in self.made)]
        return next((one for one in known if one.flow_run_id == flow_run_id), None)

    def active(self) -> Sequence[StartedRun]:
        if self.trouble is not None:
            raise self.trouble
        return self.at_work

    def failed(self, since: datetime) -> Sequence[StartedRun]:
        if self.trouble is not None:
            raise self.trouble
        return [one for one in self.bad if one.finished_at is None or one.finished_at >= since]

    def schedules(self) -> Mapping[str, Schedule]:
        return {job: Schedule(next_run=when) for job, when in self.due.items()} | self.planned

    def cancel(self, flow_run_id: str) -> StartedRun | None:
        self.cancelled.append(flow_run_id)
        return self.find(flow_run_id)


class Logs:
    """A list of lines, given page by page."""

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)
        self.asked: list[dict[str, Any]] = []

    def lines(
        self, *, cursor: str | None = None, limit: int = 100, **asked: Any
    ) -> LogPage:  # fmt: skip
        self.asked.append({"cursor": cursor, "limit": limit, **asked})
        if not (cursor or "0").isdecimal():
            raise PlanError("this is no cursor")
        start = int(cursor or 0)
        some = self.messages[start : start + limit]
        items = [
            LogLine(
                at=datetime(2026, 11, 21, tzinfo=UTC), level="info", message=text,
                flow_run_id=FLOW_RUN, cursor=str(start + number),
            )
            for number, text in enumerate(some, 1)
        ]  # fmt: skip
        complete = start + limit >= len(self.messages)
        return LogPage(items=items, next=str(start + len(some)), complete=complete)


class Files:
    """Files by archive and name; one that is an exception breaks after its first bytes."""

    def __init__(self) -> None:
        self.contents: dict[tuple[int, bytes], bytes | Exception] = {}
        self.sizes: dict[tuple[int, bytes], int] = {}

    def find(self, archive_id: int, path: bytes) -> MemberFile:
        content = self.contents.get((archive_id, path))
        if content is None:
            raise NotFoundError("there is no such member")
        size = len(content) if isinstance(content, bytes) else 100
        return MemberFile(
            archive_id=archive_id, path=path.decode("utf-8", "surrogateescape"),
            size=self.sizes.get((archive_id, path), size),
        )  # fmt: skip

    def send(self, archive_id: int, path: bytes, out: BinaryIO) -> None:
        content = self.contents[archive_id, path]
        if isinstance(content, Exception):
            raise content
        out.write(content)


class Service:
    """An application with doubles behind it, and a client in the same process."""

    def __init__(
        self,
        home: Path,
        *,
        overview: Callable[[], Any] | None = None,
        provider: Provider | None = None,
        **settings: Any,
    ) -> None:
        self.key = _key()
        self.provider = provider or Provider(self.key)
        self.runs = Runs()
        self.logs = Logs()
        self.files = Files()
        chosen = {
            "issuer": ISSUER, "audience": AUDIENCE, "starts_a_minute": 0, "requests_a_minute": 0,
            **settings,
        }  # fmt: skip
        self.app = create_app(
            ApiSettings(**chosen),
            home=home,
            overview=overview or (lambda: _empty_overview(home)),
            runs_service=self.runs,
            log_source=self.logs,
            file_service=self.files,
            provider_transport=self.provider,
        )

    def token(self, scope: str = ALL, **claims: Any) -> str:
        return self.key.token(scope=scope, **claims)

    def ask(
        self, method: str, path: str, *, token: str | None = "", raises: bool = True, **more: Any
    ) -> httpx.Response:
        """Send one request; with the default `token` one that allows everything."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token()}"

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=raises)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as one:
                return await one.request(method, path, headers=headers, **more)

        return run(send())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("POST", path, **more)


@cache
def _key() -> Key:
    return Key("one")  # a tenth of a second each


def _empty_overview(home: Path) -> Any:
    from pybak.catalog.engine import Database
    from pybak.overview import Overview

    return Overview(Database(f"sqlite:///{home}/catalog.db"))
