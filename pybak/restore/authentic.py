"""Wrapped volumes checked for tampering, side by side, before anything they hold is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pybak.errors import ArchiveError, Interrupted
from pybak.formats.source import JoinedSource, Source
from pybak.formats.wrapper import WrappedSource


def wrapped_volumes(source: Source) -> list[WrappedSource]:
    """Give the wrapped volumes that an archive is read from; none if it is not wrapped."""
    parts: Sequence[Source] = source.parts if isinstance(source, JoinedSource) else (source,)
    return [part for part in parts if isinstance(part, WrappedSource)]


def authenticate(
    volumes: Sequence[WrappedSource],
    *,
    workers: int,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Read volumes through and check their codes, `workers` at a time.

    Raises ArchiveError, naming the volume, if one was tampered with; Interrupted on request.
    """
    if not volumes:
        return

    def ask(_size: int) -> None:
        if should_stop and should_stop():
            raise Interrupted("stopped on request")

    def check(volume: WrappedSource) -> None:
        try:
            volume.authenticate(ask)
        except ArchiveError:
            if not volume.forget():
                raise
            volume.authenticate(ask)

    with ThreadPoolExecutor(max(1, min(workers, len(volumes)))) as pool:
        # Of several bad volumes the first is told.
        for _ in pool.map(check, volumes):
            pass
