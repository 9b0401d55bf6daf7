"""Prefect's and Dask's settings for a command: quiet, private, without a server of its own."""

from __future__ import annotations

from collections.abc import MutableMapping

from pybak.prefect_server import AUTH_VARIABLE, URL_VARIABLE

_ALWAYS = {
    # Every process without an API address would start a server; here it is an error instead.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
_QUIET = {
    # The API still gets the logs; the terminal gets our own lines.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
    "DASK_LOGGING__DISTRIBUTED": "critical",
}


def prepare(
    environ: MutableMapping[str, str], api_url: str, *, debug: bool, auth: str | None = None
) -> None:
    """Set what Prefect and Dask read when they are imported; what is set already stays.

    Only the address does not, nor the password where `auth` gives the server's.
    """
    environ[URL_VARIABLE] = api_url
    if auth is not None:
        environ[AUTH_VARIABLE] = auth
    for name, value in (_ALWAYS if debug else _ALWAYS | _QUIET).items():
        environ.setdefault(name, value)
