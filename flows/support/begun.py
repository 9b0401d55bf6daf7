"""Runs that their command has begun: they look at files while Prefect is imported, on another core.

The flow that the command runs takes such a run over; every other flow run begins its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pybak.errors import PyBakError
from pybak.home import catalog_url
from pybak.portable import from_portable
from pybak.storage.opening import is_remote

if TYPE_CHECKING:
    from pybak.backup.run import BackupRun
    from pybak.catalog.locks import Lock
    from pybak.mirror.run import MirrorRun
    from pybak.options import BackupOptions, RestoreOptions
    from pybak.options.mirror import MirrorOptions
    from pybak.restore.ask import Asked
    from pybak.restore.run import RestoreRun

_SQLITE = "sqlite"
"""What the address of a catalog begins with that is no server, which would have to be asked."""


class BegunBackup(NamedTuple):
    """A backup that walks its sources, and the lock on its job, which is held until the end."""

    run: BackupRun
    lock: Lock
    held: ExitStack


class BegunRestore(NamedTuple):
    """A restore that is being planned, and the job that its snapshot is of.

    What keeps its archives from being removed is held until the end.
    """

    run: RestoreRun
    job: str | None
    held: ExitStack


_Begun = TypeVar("_Begun", BegunBackup, BegunRestore)


class _Offer(Generic[_Begun]):
    """What a command has begun, until the flow with the same parameters takes it."""

    def __init__(self) -> None:
        self._known: tuple[Mapping[str, Any], _Begun] | None = None

    @contextmanager
    def made(
        self, parameters: Mapping[str, Any], begin: Callable[[ExitStack], _Begun | None]
    ) -> Iterator[None]:
        """Begin, and let go of it in the end; what is begun is held by the stack."""
        with ExitStack() as stack:
            begun = begin(stack)
            self._known = None if begun is None else (parameters, begun)
            try:
                yield
            finally:
                self._known = None

    def taken(self, parameters: Mapping[str, Any]) -> _Begun | None:
        """Give it, once; let go of it if it is another."""
        known, self._known = self._known, None
        if known is None:
            return None
        wanted, begun = known
        if wanted != parameters:
            begun.held.close()  # whoever asks wants what it holds
            return None
        return begun


_mirror: MirrorRun | None = None
_restore: _Offer[BegunRestore] = _Offer()
_backup: _Offer[BegunBackup] = _Offer()


@contextmanager
def having_begun(run: MirrorRun) -> Iterator[None]:
    """Have `mirror_run` give `run`, once, to whoever wants the same."""
    global _mirror
    _mirror = run
    try:
        yield
    finally:
        _mirror = None


def mirror_run(
    source: str, destination: str, options: MirrorOptions, *, job: str | None
) -> MirrorRun:
    """Give the mirror that has begun if it is this one, else a new one.

    Raises as `MirrorRun`.
    """
    from pybak.mirror.run import MirrorRun

    global _mirror
    run, _mirror = _mirror, None
    wanted = (source, destination, job or destination, options)
    if run is None or (run.source, run.destination, run.job, run.options) != wanted:
        return MirrorRun(source, destination, options, job=job)
    run.started_at = datetime.now(UTC)
    return run


@contextmanager
def backup_begun(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Begin the backup with these parameters of the flow, and have `begun_backup` give it, once.

    It is not begun where what is to be saved may not be there yet, or where it would be waited for:
    with commands to run before or after, which wait for each other's, if another run has the job,
    for a catalog on a server; nor where blocks are needed, which Prefect has, or lists come by a
    pipe, which only the flow must read. What is wrong with the parameters is left for the flow to
    tell.
    """
    with _backup.made(parameters, lambda stack: _begin_backup(stack, parameters)):
        yield


def _begin_backup(stack: ExitStack, parameters: Mapping[str, Any]) -> BegunBackup | None:
    options: BackupOptions = parameters["options"]
    places = (parameters["to"], parameters["output"], *options.also_to)
    if (
        options.before
        or options.after
        or options.password_block
        or any(is_remote(place) for place in places if place)
        or not all(map(_lasts, (*options.files_from, *options.exclude_from)))
        or not catalog_url().startswith(_SQLITE)
    ):
        return None
    from pybak.backup.run import BackupRun
    from pybak.backup.sources import resolve_sources
    from pybak.catalog.locks import job_lock
    from pybak.catalog.peek import is_first_run
    from pybak.password import from_environment

    job, to, output = (parameters[name] for name in ("job", "to", "output"))
    with ExitStack() as begun:
        try:
            found = resolve_sources(
                [from_portable(source) for source in parameters["sources"]],
                files_from=options.files_from,
            )
            lock = begun.enter_context(job_lock(found.job(job), catalog_url=catalog_url()))
            run = begun.enter_context(
                BackupRun(
                    found,
                    output=from_portable(output) if output else None,
                    to=from_portable(to) if to else None,
                    job=job,
                    options=options,
                    password=from_environment(os.environ),
                )
            )
            lock.note_run(run.run_id)
            if not run.begin_ahead(is_first=is_first_run(catalog_url(), run.job)):
                return None
        except PyBakError:
            return None
        return BegunBackup(run, lock, stack.enter_context(begun.pop_all()))


def _lasts(listing: str) -> bool:
    """Whether a list can be read more than once, and without waiting for whoever writes it."""
    from pybak.backup.sources import STANDARD_INPUT

    return listing != STANDARD_INPUT and Path(listing).is_file()


def begun_backup(**parameters: Any) -> BegunBackup | None:
    """Give the backup that has begun, if it is the one with these parameters of the flow."""
    return _backup.taken(parameters)


@contextmanager
def restore_begun(
    parameters: Mapping[str, Any], asked: Asked, password: bytes | None
) -> Iterator[None]:
    """Begin the restore with these parameters of the flow, and have `begun_restore` give it, once.

    `asked` is what the parameters name, `password` the one that the flow finds. It is not begun for
    a catalog on a server, which would be waited for, nor where the password is in a block. What is
    wrong is left for the flow to tell.
    """
    with _restore.made(
        parameters, lambda stack: _begin_restore(stack, parameters, asked, password)
    ):
        yield


def _begin_restore(
    stack: ExitStack, parameters: Mapping[str, Any], asked: Asked, password: bytes | None
) -> BegunRestore | None:
    options: RestoreOptions = parameters["options"]
    url = catalog_url()
    if options.password_block or not url.startswith(_SQLITE):
        return None
    from pybak.restore.run import RestoreRun

    with ExitStack() as begun:
        try:
            begun.enter_context(asked.kept(url))
            target = from_portable(parameters["to"])
            run = begun.enter_context(RestoreRun(asked.shares(url, options), target, options))
            if not run.plan_ahead(password):
                return None
        except PyBakError:
            return None
        return BegunRestore(run, asked.job, stack.enter_context(begun.pop_all()))


def begun_restore(**parameters: Any) -> BegunRestore | None:
    """Give the restore that has begun, if it is the one with these parameters of the flow."""
    begun = _restore.taken(parameters)
    if begun is not None:
        begun.run.started_at = datetime.now(UTC)
    return begun
