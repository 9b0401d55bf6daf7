"""The dashboard in a test without a browser: cookies, and Dash's callbacks called by hand."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from api_doubles import Files, Logs, Runs

from pybak.api.app import create_app
from pybak.api.auth.clients import Clients
from pybak.api.settings import ApiSettings
from pybak.catalog.engine import Database
from pybak.dashboard.app import create_dashboard
from pybak.dashboard.settings import PATH, DashboardSettings
from pybak.overview import Overview

ROOT = "http://127.0.0.1:8000"
OWN = {"Origin": ROOT}
PAGE = {"Accept": "text/html"}


class Site:
    """An application with a dashboard, and a browser without anything but cookies."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.clients = Clients(home)
        api = ApiSettings(**{"token_endpoint": True, **settings})
        made: list[Any] = []
        pages = create_dashboard(
            DashboardSettings(), api, home=home, context=lambda: made[0].state.context
        )
        self.files = Files()
        self.runs = Runs()
        made.append(
            create_app(
                api, home=home, overview=lambda: Overview(Database(f"sqlite:///{home}/c.db")),
                runs_service=self.runs, log_source=Logs(), file_service=self.files,
                mounts={PATH: pages},
            )
        )  # fmt: skip
        self.app = made[0]
        self.cookies = httpx.Cookies()
        # One for all requests: pages have the API's functions run there.
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url=more.pop("root", ROOT), cookies=self.cookies
            ) as one:
                answer = await one.request(method, PATH + path, **more)
                self.cookies = one.cookies
                return answer

        return self._loop.run_until_complete(send())

    def log_in(self, name: str, scopes: tuple[str, ...]) -> httpx.Response:
        secret = self.clients.add(name, scopes, now=datetime.now(UTC))
        form = {"client": name, "secret": secret, "next": f"{PATH}/files"}
        return self.ask("POST", "/login/client", data=form, headers=OWN)

    def call_back(self, output: str, values: Mapping[str, Any]) -> httpx.Response:
        """Call the callback whose outputs have `output`, and the first of `values` as an input.

        `values` are those of inputs and states, by `id.property`; all others are null. Ids of
        several parts stand as Dash writes them, and have lists of pairs of id and value.
        """
        first = next(iter(values))
        known = self.ask("GET", "/_dash-dependencies").json()
        [spec] = [
            one
            for one in known
            if output in one["output"] and first in map(_name, one["inputs"])
            and not one["clientside_function"]
        ]  # fmt: skip
        names = spec["output"].strip(".").split("...")
        outputs = [dict(zip(("id", "property"), one.rsplit(".", 1), strict=True)) for one in names]
        body = {
            "output": spec["output"], "outputs": outputs if len(outputs) > 1 else outputs[0],
            "inputs": [_given(one, values) for one in spec["inputs"]],
            "state": [_given(one, values) for one in spec["state"]],
            "changedPropIds": [first],
        }  # fmt: skip
        return self.ask("POST", "/_dash-update-component", json=body, headers=OWN)


def _name(one: Mapping[str, str]) -> str:
    return f"{one['id']}.{one['property']}"


def _given(one: Mapping[str, str], values: Mapping[str, Any]) -> Any:
    value = values.get(_name(one))
    if '["ALL"]' in one["id"]:
        return [
            {"id": ident, "property": one["property"], "value": each} for ident, each in value or ()
        ]
    return {"id": one["id"], "property": one["property"], "value": value}
