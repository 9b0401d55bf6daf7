"""The Prefect server: whether it answers, and the settings that matter for backups.

Which settings those are, and why, is in docs/operations.md.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pybak.doctor.finding import Finding, Findings
from pybak.prefect_api import ApiError, PrefectApi
from pybak.prefect_server import listening
from pybak.units import format_size

SUBJECT: Final = "server"
_LEASES: Final = "prefect.server.concurrency.lease_storage."
_LARGE_BYTES: Final = 2 * 10**9
_KEY_VARIABLE: Final = "PREFECT_SERVER_ENCRYPTION_KEY"
_KEY: Final = "SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'"
_NEWEST_BLOCK: Final = "SELECT data FROM block_document ORDER BY updated DESC LIMIT 1"
_SET: Final = "set this for the server and start it again"


def check_answer(api: PrefectApi, installed: str) -> list[Finding]:
    """Ask for the server's version, and compare it with the one that is installed here.

    Raises ApiError if the server can't be asked.
    """
    found = Findings(SUBJECT)
    version = str(api.get("/admin/version"))
    found.ok(f"Prefect {version} answers at {api.place}")
    if version != installed:
        found.problem(
            f"the server is Prefect {version}, installed here is {installed}",
            "install the same in both places",
            f"pip install prefect=={installed}",
        )
    return found.found


def check_settings(
    api: PrefectApi, environ: Mapping[str, str], *, has_limits: bool, uses_blocks: bool
) -> list[Finding]:
    """Look at what the server says of its settings.

    `has_limits` tells that a deployment allows one run at a time, `uses_blocks` that one names a
    block.
    """
    found = Findings(SUBJECT)
    try:
        settings = api.get("/admin/settings")
        server = settings["server"]
        _leases(found, server, has_limits=has_limits)
        _access(found, server, api)
        _vacuum(found, server)
        if server["analytics_enabled"] and str(environ.get("DO_NOT_TRACK", "")) != "1":
            found.note(
                "it sends usage data to Prefect's makers",
                f"to stop that {_SET}",
                "PREFECT_SERVER_ANALYTICS_ENABLED=0",
            )
        database = _database_file(settings, environ, api)
    except (ApiError, KeyError, TypeError) as error:
        found.note(f"its settings can't be read ({error})")
        return found.found
    if database is not None:
        _database(found, database)
    if uses_blocks and database is not None and _has_key_inside(database):
        found.note(
            "the key of its encrypted blocks lies in its own database, so whoever has a copy of "
            "that has the passwords",
            "delete the blocks, start the server with the key that this makes "
            f"({_KEY_VARIABLE}), and make the blocks again",
            "python deployments/new_secrets.py FILE",
        )
    return found.found


def _leases(found: Findings, server: Mapping[str, Any], *, has_limits: bool) -> None:
    kind = str(server["concurrency"]["lease_storage"])
    if kind != f"{_LEASES}memory":
        found.ok(f"slots of running deployments outlive a kill ({kind.removeprefix(_LEASES)})")
        return
    told = "slots of running deployments are kept in memory: if it is killed they stay taken"
    line = f"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={_LEASES}filesystem"
    if has_limits:
        found.problem(f"{told}, and every later run is cancelled", _SET, line)
    else:
        found.note(told, _SET, line)


def _access(found: Findings, server: Mapping[str, Any], api: PrefectApi) -> None:
    # What it was told by `--host` is in none of its settings.
    is_open = _is_open(api.url)
    if server["api"].get("auth_string"):
        found.ok("it asks for a password")
    elif is_open:
        found.problem(
            "it is reached over the network and asks for no password: whoever reaches it reads "
            "and starts everything",
            f"{_SET}, and PREFECT_API_AUTH_STRING likewise for workers and commands",
            "PREFECT_SERVER_API_AUTH_STRING=user:password",
        )
    elif is_open is None:
        found.note(
            "it asks for no password, and whether others reach it can't be seen from here",
            f"if they do {_SET}",
            "PREFECT_SERVER_API_AUTH_STRING=user:password",
        )
    else:
        found.ok("it listens on this machine only")


def _is_open(url: str) -> bool | None:
    """Whether a server can be reached from other machines, as its address and listeners tell.

    None for one at an address of this machine whose listener isn't known, as behind a container's.
    """
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    # What listens at another address of this machine alone is not what answers here.
    here = [one for one in map(_plain, listening(port)) if one.is_loopback or one.is_unspecified]
    return any(one.is_unspecified for one in here) if here else None


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; one of IPv4 in an IPv6 one counts as itself."""
    found = ipaddress.ip_address(address)
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine, for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _vacuum(found: Findings, server: Mapping[str, Any]) -> None:
    enabled = server["services"]["db_vacuum"]["enabled"] or []
    kept = [name for name in ("events", "flow_runs") if name not in enabled]
    if kept:
        what = " and ".join(kept).replace("flow_runs", "flow runs and their logs")
        found.note(
            f"its database keeps {what} for ever",
            _SET,
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs",
        )
    else:
        found.ok("old flow runs and events are removed from its database")


def _database_file(
    settings: Mapping[str, Any], environ: Mapping[str, str], api: PrefectApi
) -> Path | None:
    """Give the server's SQLite file where it can be seen from here."""
    elsewhere = environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", "").startswith("postgres")
    driver = str(settings["server"]["database"].get("driver") or "sqlite")
    if elsewhere or "sqlite" not in driver or not is_loopback(urlsplit(api.url).hostname or ""):
        return None
    path = Path(str(settings["home"])) / "prefect.db"
    return path if os.access(path, os.R_OK) else None


def _database(found: Findings, path: Path) -> None:
    size = sum(
        file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()
    )
    text = f"its database is {format_size(size)}: {path}"
    if size > _LARGE_BYTES:
        found.note(text, "shorten how long runs are kept, or use PostgreSQL")
    else:
        found.ok(text)


def _has_key_inside(path: Path) -> bool:
    """Whether what the database has encrypted opens with the key that lies in it."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            key = database.execute(_KEY).fetchone()
            block = database.execute(_NEWEST_BLOCK).fetchone()
        if key is None or block is None:
            return False
        Fernet(json.loads(key[0])["fernet_key"]).decrypt(json.loads(block[0]))
    except (sqlite3.Error, ValueError, KeyError, TypeError, InvalidToken):
        return False
    return True
