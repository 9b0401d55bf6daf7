"""Whether a container works: `python -m deployments.health [server|worker|on-request|api|command]`.

Without a word it looks at what the container's first process is. What stays is asked whether it is
well; a container that runs one command must be able to keep its state. Imports next to nothing,
because it runs every half minute.

Ends with 0, or says why not in one line on stderr and ends with 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

_SECONDS: Final = 5.0
_OK: Final = 200
_SCRIPTS: Final = {"service.py": "api", "on_request.py": "on-request"}


class UnhealthyError(Exception):
    """Why the container does not work, in one line."""


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Check the role that `argv` names, or else the one of the first process."""
    role = argv[0] if argv else role_of(_first_process())
    if role not in _CHECKS:
        print(f"no role {role}; known are {', '.join(_CHECKS)}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        _CHECKS[role](environ)
    except UnhealthyError as error:
        print(f"{role}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def role_of(words: Sequence[str]) -> str:
    """Tell the role of a process by its command line; `command` for all that has no other.

    `prefect worker start` and `deployments/start.py worker` are workers, servers likewise.
    """
    for one, other in pairwise(words):
        role, start = (other, "start") if Path(one).name == "start.py" else (one, other)
        if role in ("server", "worker", "on-request") and start == "start":
            return role
        # Only what Python runs: a backup may well have such a file among its sources.
        if Path(one).name.startswith("python") and Path(other).name in _SCRIPTS:
            return _SCRIPTS[Path(other).name]
    return "command"


def _first_process() -> list[str]:
    try:
        return os.fsdecode(Path("/proc/1/cmdline").read_bytes()).split("\0")
    except OSError:
        return []


def _server(environ: Mapping[str, str]) -> None:
    port = environ.get("PREFECT_SERVER_API_PORT") or "4200"
    _ask(f"http://127.0.0.1:{port}/api/health")


def _worker(environ: Mapping[str, str]) -> None:
    """Ask a worker that was started `--with-healthcheck`; it is ill when it stopped polling."""
    port = environ.get("PREFECT_WORKER_WEBSERVER_PORT") or "8080"
    _ask(f"http://127.0.0.1:{port}/health")


def _on_request(environ: Mapping[str, str]) -> None:
    """Ask what runs requests, by Prefect's runner, as `_worker`; it must be told to answer."""
    port = environ.get("PREFECT_RUNNER_SERVER_PORT") or "8080"
    _ask(f"http://127.0.0.1:{port}/health")


def _api(environ: Mapping[str, str]) -> None:
    """Ask the REST API; it is ill when it can't read the catalog."""
    scheme = "https" if environ.get("PYBAK_API_TLS_CERTIFICATE") else "http"
    _ask(f"{scheme}://127.0.0.1:{environ.get('PYBAK_API_PORT') or '8000'}/health")


def _command(environ: Mapping[str, str]) -> None:
    """Write into the folder of PyBak's state, or the nearest one above that there is."""
    folder = Path(environ.get("PYBAK_HOME") or "/data")
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise UnhealthyError(f"{folder}: {(error.strerror or str(error)).lower()}") from error


def _ask(url: str) -> None:
    # A proxy of the environment is for the world outside, not for this container.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        import ssl

        # Its certificate is for the name that others know it by.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            if answer.status != _OK:
                raise UnhealthyError(f"{url} answers {answer.status}")
    except urllib.error.HTTPError as error:
        raise UnhealthyError(f"{url} answers {error.code}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UnhealthyError(f"{url}: {reason}") from error


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, str]], None]]] = {
    "server": _server,
    "worker": _worker,
    "on-request": _on_request,
    "api": _api,
    "command": _command,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
