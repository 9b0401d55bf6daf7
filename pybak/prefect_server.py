"""Which Prefect server is meant, by the same rules as Prefect's own commands. No Prefect needed.

`PREFECT_API_URL` names it, in the environment or in Prefect's active profile (`profiles.toml` in
PREFECT_HOME). Without it a server at Prefect's default address is used, if it is the user's own.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pybak.bare import bare
from pybak.errors import PyBakError
from pybak.prefect_refusals import FORBIDDEN, UNAUTHORIZED, password_refused

DEFAULT_URL: Final = "http://127.0.0.1:4200/api"
URL_VARIABLE: Final = "PREFECT_API_URL"
AUTH_VARIABLE: Final = "PREFECT_API_AUTH_STRING"
SERVER_AUTH_VARIABLE: Final = "PREFECT_SERVER_API_AUTH_STRING"
START: Final = "python deployments/start.py server"
"""The command that starts a server with PyBak's settings."""
_PROBE_SECONDS = 2.0
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
_TABLE: Final = Path("/proc/net/tcp")
_TABLES: Final = (_TABLE, Path("/proc/net/tcp6"))
_WORD: Final = 4  # bytes; addresses are written word by word, as the processor has them


class ServerError(PyBakError):
    """No Prefect server could be reached or started."""


class PasswordError(ServerError):
    """A server answers, and wants a password, or another one."""


def find_server(environ: Mapping[str, str], version: str) -> str | None:
    """Give the API address of a Prefect server to use, or None if one must be started.

    One that is named decides alone; else a server of the same `version` at Prefect's default
    address is used if it is the user's own. Raises ServerError if the named server does not answer,
    PasswordError if it wants another password.
    """
    if url := named_url(environ):
        if not is_healthy(url):
            raise ServerError(
                f"{bare(url)}: no Prefect server answers; start it (`{START}`), "
                "or unset PREFECT_API_URL"
            )
        _check_password(url, environ)
        return url
    if _is_default_ours() and _get(f"{DEFAULT_URL}/admin/version", environ) == version:
        return DEFAULT_URL
    return None


def standing_server(environ: Mapping[str, str], version: str) -> str | None:
    """Like `find_server`, for who can't start one: one at the default address may want a password.

    Raises PasswordError for that one too.
    """
    found = find_server(environ, version)
    if found is None and _is_default_ours():
        _check_password(DEFAULT_URL, environ)
    return found


def _check_password(url: str, environ: Mapping[str, str]) -> None:
    code, _ = _ask(f"{url}/admin/version", environ)
    if code in (UNAUTHORIZED, FORBIDDEN):
        has_auth = setting(environ, AUTH_VARIABLE) is not None
        raise PasswordError(password_refused(bare(url), has_auth=has_auth))


def any_server(environ: Mapping[str, str]) -> str | None:
    """Give the address of the server that is meant, whether it answers or not, of any version.

    None where none is named and none of the user's own listens at the default address.
    """
    return named_url(environ) or (DEFAULT_URL if _is_default_ours() else None)


def named_url(environ: Mapping[str, str]) -> str | None:
    """Give the API address that the environment or Prefect's active profile names."""
    url = setting(environ, URL_VARIABLE)
    return url.rstrip("/") if url else None


def setting(environ: Mapping[str, str], name: str) -> str | None:
    """Give one of Prefect's settings from the environment or its active profile."""
    return environ.get(name) or _profile(environ).get(name) or None


def prefect_home(environ: Mapping[str, str]) -> Path:
    """Give Prefect's folder for settings and, unless it is elsewhere, its database."""
    return Path(environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def _profile(environ: Mapping[str, str]) -> dict[str, str]:
    """Give what `prefect config set` wrote into the active profile."""
    path = environ.get("PREFECT_PROFILES_PATH") or prefect_home(environ) / "profiles.toml"
    try:
        profiles = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        name = environ.get("PREFECT_PROFILE") or profiles["active"]
        return {str(key): str(value) for key, value in profiles["profiles"][name].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_default_ours() -> bool:
    default = urlsplit(DEFAULT_URL)
    return default.port is not None and is_own_listener(default.port)


def is_own_listener(port: int, table: Path = _TABLE) -> bool:
    """Whether this user or root listens on a port of the loopback address (Linux only).

    A server of someone else's would learn paths and options, and could tell any state.
    """
    owner = next((int(fields[7]) for fields in _listeners(port, table)), None)
    return owner in (0, os.geteuid())


def listening(port: int, tables: Iterable[Path] = _TABLES) -> list[str]:
    """Give the addresses of this machine that something listens at on a port (Linux only)."""
    return [_address(one[1]) for table in tables for one in _listeners(port, table)]


def _listeners(port: int, table: Path) -> Iterator[list[str]]:
    try:
        rows = table.read_text().splitlines()[1:]
    except OSError:
        return
    for row in rows:
        fields = row.split()
        if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == _LISTENING:
            yield fields


def _address(field: str) -> str:
    packed = bytes.fromhex(field.partition(":")[0])
    words = [packed[at : at + _WORD] for at in range(0, len(packed), _WORD)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return str(ipaddress.ip_address(b"".join(words)))


def is_healthy(url: str) -> bool:
    """Whether a Prefect server answers at this API address; it asks everybody for no password."""
    return _get(url.rstrip("/") + "/health", {}) is True


def _get(url: str, environ: Mapping[str, str]) -> object:
    """Fetch a small JSON document; None for any failure."""
    return _ask(url, environ)[1]


def _ask(url: str, environ: Mapping[str, str]) -> tuple[int | None, object]:
    """Give HTTP's status, None without an answer, and the JSON document of a success."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    secret = setting(environ, AUTH_VARIABLE) if environ else None
    headers = {}
    if secret:
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
    try:
        connection = kind(parts.netloc, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", parts.path, headers=headers)
            response = connection.getresponse()
            is_done = response.status == http.client.OK
            return response.status, json.loads(response.read()) if is_done else None
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None, None
