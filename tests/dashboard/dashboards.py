"""A dashboard to look at: a catalog with some jobs, doubles of the services, and a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import overviews
import uvicorn
from api_doubles import Logs, Runs
from catalogs import run_sql
from overviews import Written, with_folders
from servers import free_port

from pybak.api.app import create_app
from pybak.api.auth.clients import Clients
from pybak.api.services import MemberFile, StartedRun
from pybak.api.settings import ApiSettings
from pybak.dashboard.app import create_dashboard
from pybak.dashboard.settings import PATH, DashboardSettings

SCOPES = ("backup:read", "backup:write", "backup:restore")
FLOW_RUN = "0a4c7a7e-35ad-4d0f-8b68-2f6f0f4a9c11"
LETTER = "Documents/letters/2026/Letter to the editor.odt"
_FILES = (
    LETTER, "Documents/letters/2026/Reply.odt", "Documents/letters/2025/Old letter.odt",
    "Documents/invoices/2026-10 Power.pdf", "Documents/invoices/2026-11 Power.pdf",
    "Documents/taxes/Taxes 2025.xlsx", "Documents/Notes.md", "Pictures/2026/Harbour.jpg",
    "Pictures/2026/Market at night.jpg", "Pictures/2025/Snow.jpg", "todo.txt",
)  # fmt: skip


class Contents:
    """Has every member; its content tells its name."""

    def find(self, archive_id: int, path: bytes) -> MemberFile:
        text = path.decode("utf-8", "surrogateescape")
        return MemberFile(archive_id=archive_id, path=text, size=len(self._content(path)))

    def send(self, archive_id: int, path: bytes, out: BinaryIO) -> None:
        out.write(self._content(path))

    def _content(self, path: bytes) -> bytes:
        return b"This is " + path


@dataclass
class Dashboard:
    """A running one; `secrets` are those of its clients."""

    address: str
    secrets: dict[str, str] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    logs: Logs = field(default_factory=Logs)
    written: Written | None = None
    app: Any = None

    @property
    def home(self) -> str:
        return f"{self.address}{PATH}/"


def write_catalog(url: str) -> Written:
    """Write jobs that are safe, late, broken and at work, as of now."""
    with mock.patch.object(overviews, "NOW", datetime.now(UTC)):
        made = _written(Written(url))
    # The records' own times and sizes are made for other questions.
    run_sql(url, "UPDATE archive SET content_size = size * 26 / 10 + 1000")
    run_sql(url, "UPDATE file_version SET mtime_ns = "
            f"{int(time.time())}000000000 - (40 - first_seq % 40) * 86400000000000")  # fmt: skip
    return made


def _written(made: Written) -> Written:
    _documents(made)
    for day in range(12, 0, -1):
        made.back_up(
            with_folders([f"site/page-{n}.html".encode() for n in range(6)], 900 + day), "website",
            ago=timedelta(days=day), place="s3://offsite/website", size=41_000_000 + day * 900_000,
        )  # fmt: skip
    made.end("failed", "website", ago=timedelta(hours=2),
             message="s3://offsite: the storage does not answer; look at its address")  # fmt: skip
    for week in range(20, 5, -1):
        made.back_up(
            with_folders([b"raw/one.raw"], 5000), "photo archive",
            ago=timedelta(days=7 * week), size=2_600_000_000 - week * 10**7,
        )  # fmt: skip
    made.begin("accounts", ago=timedelta(minutes=4), flow_run=FLOW_RUN)
    return made


def _documents(made: Written) -> None:
    paths = [name.encode() for name in _FILES]
    last = made.back_up(
        with_folders(paths, 24_000), "documents", ago=timedelta(days=30), size=8_400_000,
        counts={"total": 11, "added": 11},
    )  # fmt: skip
    for day in range(29, 0, -1):
        changed = [paths[day % len(paths)], paths[0]] if day % 4 == 0 else [paths[day % len(paths)]]
        errors = [("Documents/locked.db", "permission", "may not be read")] if day == 9 else []
        last = made.back_up(
            [one for one in with_folders(changed, 24_000 + day * 311) if one.type == "f"],
            "documents", ago=timedelta(days=day), base=last, size=400_000 + (day * 7919) % 900_000,
            counts={"total": 11, "changed": len(changed), "failed": len(errors)},
            status="partial" if errors else "success", errors=errors,
        )  # fmt: skip
    made.back_up(
        [], "documents", ago=timedelta(minutes=50), base=last, size=210_000,
        counts={"total": 11, "changed": 1, "unchanged": 10},
    )  # fmt: skip


def log_in(page: Any, dashboard: Dashboard, name: str = "ann", to: str = "") -> None:
    """Go to a page; whoever's browser it is logs in first, unless that was done before."""
    if not any(one["name"] == "pybak_session" for one in page.context.cookies(dashboard.home)):
        answer = page.context.request.post(
            f"{dashboard.home}login/client", headers={"Origin": dashboard.address},
            form={"client": name, "secret": dashboard.secrets[name]}, max_redirects=0,
        )  # fmt: skip
        assert answer.status == 303, answer.text()
    page.goto(dashboard.home + to)
    page.locator("#page h1").wait_for()


def application(
    made: Dashboard, api: ApiSettings, home: Path, url: str,
    dashboard: Mapping[str, Any] | None = None, files: Any = None,
) -> Any:  # fmt: skip
    """Give the API of a catalog with the dashboard in it; without `files` it has every member."""
    from pybak.catalog.engine import Database
    from pybak.overview import Overview

    database = Database(url)
    holder: dict[str, Any] = {}
    pages = create_dashboard(
        DashboardSettings(**(dashboard or {})), api, home=home,
        context=lambda: holder["app"].state.context,
    )  # fmt: skip
    holder["app"] = create_app(
        api, home=home, overview=lambda: Overview(database), runs_service=made.runs,
        log_source=made.logs, file_service=files or Contents(), mounts={PATH: pages},
    )  # fmt: skip
    return holder["app"]


@contextmanager
def serving(
    home: Path, url: str, *, clients: Mapping[str, tuple[str, ...]] | None = None,
    dashboard: Mapping[str, Any] | None = None, files: Any = None, **settings: Any,
) -> Iterator[Dashboard]:  # fmt: skip
    """Serve a catalog; without a provider it has `clients`, by default one that may all."""
    port = settings.pop("port", None) or free_port()
    made = Dashboard(f"http://127.0.0.1:{port}")
    chosen: dict[str, Any] = {"token_endpoint": True, "starts_a_minute": 0, **settings}
    api = ApiSettings(host="127.0.0.1", port=port, **chosen)
    known = {"ann": SCOPES, "looker": ("backup:read",)} if clients is None else clients
    for name, scopes in known.items():
        made.secrets[name] = Clients(home).add(name, scopes, now=datetime.now(UTC))
    made.runs.at_work = [
        StartedRun(
            flow_run_id=FLOW_RUN, kind="backup", job="accounts", state="running",
            state_name="Running", percent=62.0, phase="compressing",
            started_at=datetime.now(UTC) - timedelta(minutes=4), report=None,
        )
    ]  # fmt: skip
    now = datetime.now(UTC)
    made.runs.due = {"documents": now + timedelta(hours=9), "website": now + timedelta(hours=1)}
    made.logs.messages = [f"{n} files are read" for n in range(0, 2400, 100)] + ["writes /backups"]
    made.app = application(made, api, home, url, dashboard, files)
    server = uvicorn.Server(
        uvicorn.Config(made.app, host="127.0.0.1", port=port, log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(10)


__all__ = ["FLOW_RUN", "LETTER", "Dashboard", "log_in", "run_sql", "serving", "write_catalog"]
