"""Passwords of Prefect blocks for commands that run no flow: a server is found or started first.

`pybak list` and `pybak find` come here by the entry-point group `pybak.passwords`.
"""

from __future__ import annotations

import logging

from flows.support.session import drain, prefect_server


def load_password(name: str) -> bytes:
    """Give the password that the Prefect block `name` holds, and leave Prefect at rest.

    Raises PlanError if there is none, ServerError or StorageError if no server can be asked.
    """
    with prefect_server(debug=False) as server:
        # Prefect reads its settings when it is imported.
        from blocks.password import load_password as load

        # Without any handler Python prints what Prefect's threads warn of while they are drained.
        logging.getLogger().addHandler(logging.NullHandler())
        if server is not None:
            server.wait()
        try:
            return load(name)
        finally:
            drain()
