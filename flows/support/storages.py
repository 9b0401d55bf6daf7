"""What a Prefect block says of a storage, for a process that has not imported Prefect.

`blocks.storages` runs this module when a command opens `block:NAME` before its flow starts, or
without any flow. A server is found or started as for a flow. The answer holds secrets: it goes
through a pipe, never over a command line.
"""

from __future__ import annotations

import json
import sys

from pybak.errors import NotFoundError, PlanError, PyBakError


def main(slug: str, name: str) -> None:
    """Print the settings, or the problem and its family, as JSON for the process that asked."""
    from flows.support.session import drain, leave, prefect_server

    try:
        with prefect_server(debug=False) as server:
            from blocks.described import dumps
            from blocks.loading import load_storage

            if server is not None:
                server.wait()
            answer = dumps(load_storage(slug, name))
            drain()
    except PyBakError as error:
        family = next((k for k in (NotFoundError, PlanError) if isinstance(error, k)), PyBakError)
        answer = json.dumps({"problem": str(error), "family": family.__name__})
    sys.stdout.write(answer)
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
