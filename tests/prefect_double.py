"""A Prefect server's answers without a server, for states that are hard to bring about."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from pybak.prefect_api import PrefectApi

URL = "http://127.0.0.1:4999/api"
Answer = Any


class Double:
    """Answers by path; a function is given the body, and what is no answer is a 404.

    `asked` lists what came: method, path and body.
    """

    def __init__(self, answers: Mapping[str, Answer], **headers: str) -> None:
        self.answers = dict(answers)
        self.headers = headers
        self.asked: list[tuple[str, str, Any]] = []

    def api(self, **how: Any) -> PrefectApi:
        """Give a client that asks this."""
        return PrefectApi(URL, transport=httpx.MockTransport(self._answer), **how)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api")
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, path, body))
        if path not in self.answers:
            return httpx.Response(404, json={"detail": "Not Found"})
        answer = self.answers[path]
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = answer(body)
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, json=answer, headers=self.headers)


def settings(**changes: Any) -> dict[str, Any]:
    """Give what Prefect 3.8.8 answers at /admin/settings, as far as it is looked at.

    All is well unless `changes` say something else: lease_storage, auth_string, host, vacuum,
    analytics.
    """
    return {
        "home": changes.get("home", "/nowhere"),
        "server": {
            "analytics_enabled": changes.get("analytics", False),
            "api": {
                "auth_string": changes.get("auth_string"),
                "host": changes.get("host", "127.0.0.1"),
            },
            "concurrency": {
                "lease_storage": changes.get(
                    "lease_storage", "prefect.server.concurrency.lease_storage.filesystem"
                )
            },
            "database": {"driver": None},
            "services": {"db_vacuum": {"enabled": changes.get("vacuum", ["events", "flow_runs"])}},
        },
    }
