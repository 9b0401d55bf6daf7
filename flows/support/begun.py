"""A mirror that its command has begun: it compares while Prefect is imported, on another core.

The flow that the command runs takes it over; every other flow run begins its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions

_begun: MirrorRun | None = None


@contextmanager
def having_begun(run: MirrorRun) -> Iterator[None]:
    """Have `mirror_run` give `run`, once, to whoever wants the same."""
    global _begun
    _begun = run
    try:
        yield
    finally:
        _begun = None


def mirror_run(
    source: str, destination: str, options: MirrorOptions, *, job: str | None
) -> MirrorRun:
    """Give the mirror that has begun if it is this one, else a new one.

    Raises as `MirrorRun`.
    """
    global _begun
    run, _begun = _begun, None
    wanted = (source, destination, job or destination, options)
    if run is None or (run.source, run.destination, run.job, run.options) != wanted:
        return MirrorRun(source, destination, options, job=job)
    run.started_at = datetime.now(UTC)
    return run
