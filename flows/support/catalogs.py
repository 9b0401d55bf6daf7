"""The catalog's address from a Prefect block: `PYBAK_CATALOG_URL=block:NAME`.

The engine comes here by the entry-point group `pybak.catalogs`. Inside a flow the block is loaded
at once. A command that has not started its flow yet must not import Prefect, which reads once
where its server is; there a process of its own finds or starts a server and loads the block.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

from pybak.errors import PyBakError, StorageError

_SECONDS = 180.0  # a first server makes its database


@cache
def load_catalog_url(name: str) -> str:
    """Give the URL that the Prefect block `name` holds.

    Raises PlanError if there is none, ServerError or StorageError if no server can be asked.
    """
    if "prefect" in sys.modules:
        from blocks.catalog import load_catalog_url as load

        return load(name)
    try:
        done = subprocess.run(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, name], timeout=_SECONDS, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"block {name}: Prefect can't be asked for it") from error
    if "url" not in answer:
        raise StorageError(answer["problem"])
    return str(answer["url"])


def main(name: str) -> None:
    """Print the URL, or the problem, as JSON for the process that asked."""
    from flows.support.session import drain, leave, prefect_server

    try:
        with prefect_server(debug=False) as server:
            from blocks.catalog import load_catalog_url as load

            if server is not None:
                server.wait()
            answer = {"url": load(name)}
            drain()
    except PyBakError as error:
        answer = {"problem": str(error)}
    sys.stdout.write(json.dumps(answer))
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1])
