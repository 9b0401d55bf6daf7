"""A Prefect server for one command: serves on an inherited socket, dies with its parent.

Run as `python -m flows.support.serve_api SOCKET_FD` with a pipe as standard input. The pipe
closes when the parent ends, however it ends, and then the server stops too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    """Serve until standard input closes."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            "prefect.server.api.server:create_app",
            factory=True,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )
    threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


def _stop_with_parent(server: object) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True  # type: ignore[attr-defined]
    # A server that does not get to its end by itself must not stay behind.
    threading.Timer(10, os._exit, [1]).start()


if __name__ == "__main__":
    main()
