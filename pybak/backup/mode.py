"""Decide what a run is compared with: its mode, its base, and why that may not be what was asked.

A run is full where it was asked to be, where there is nothing to compare with, where the last full
one is long enough ago, and where archives that the base needs are not in their place: what is
written then needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pybak.backup.base import ArchiveFacts, Base, History
from pybak.display import printable
from pybak.errors import NotFoundError, PlanError, StorageError
from pybak.options.backup import parse_full_every
from pybak.problems import STORAGE, Problem
from pybak.storage.folders import Folders
from pybak.storage.opening import is_remote
from pybak.units import format_count

FULL: Final = "full"
INCREMENTAL: Final = "incremental"
DIFFERENTIAL: Final = "differential"


class Chosen(NamedTuple):
    """The mode of a run, and its base unless that is full.

    `reasons` tell why it is not what was asked for. `problems` are archives of the history that are
    not all there. `newest` is the job's newest snapshot, where the base is none or another.
    `is_due` tells that it is full for no other reason than that the last one is long ago.
    """

    mode: str = FULL
    base: Base | None = None
    reasons: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    newest: Base | None = None
    is_due: bool = False


def choose_base(
    history: History | None, wanted: str, *, full_every: str | None, now: datetime
) -> Chosen:
    """Give what `choose_mode` says of what a history holds; without one a run is full.

    What `history` raises is passed on.
    """
    if history is None and wanted != FULL:
        return Chosen(reasons=("the history of this job can't be read",))
    newest = history.base(INCREMENTAL) if history is not None else None
    base = newest
    if history is None or wanted == FULL:
        base = None
    elif wanted != INCREMENTAL:
        base = history.base(wanted)
    is_other = newest is not None and (base is None or base.run_id != newest.run_id)
    return choose_mode(
        wanted, base, full_every=full_every, now=now, newest=newest if is_other else None
    )


def choose_mode(
    wanted: str,
    base: Base | None,
    *,
    full_every: str | None,
    now: datetime,
    newest: Base | None = None,
) -> Chosen:
    """Give the mode that a run has where `wanted` is asked for. `now` is aware.

    `full_every` is a number of runs or a duration (ValueError for anything else). `newest` is the
    job's newest snapshot where it is not the base.
    """
    if wanted == FULL:
        return Chosen(newest=newest)
    if base is None:
        why = "the first run of this job" if newest is None else "the last full run is gone"
        return Chosen(reasons=(why,), newest=newest)
    needed = {one.name: one for one in base.archives()}
    if newest is not None:
        # It is compared with too, and the run may become an incremental one.
        needed |= {one.name: one for one in newest.archives()}
    problems = tuple(missing_archives(needed.values()))
    reasons = []
    if full_every is not None and (due := _due(base, full_every, now)):
        reasons.append(due)
    if problems:
        count = format_count(len(problems), "archive")
        reasons.append(f"{count} of earlier runs not in place")
    if reasons:
        return Chosen(
            reasons=tuple(reasons), problems=problems, newest=newest or base, is_due=not problems
        )
    return Chosen(wanted, base, newest=newest)


def _due(base: Base, full_every: str, now: datetime) -> str | None:
    """Say why a full run is due, if it is."""
    every = parse_full_every(full_every)
    if isinstance(every, int):
        runs = base.runs_since_full + 1
        return f"every {format_count(every, 'run')}" if runs >= every else None
    if every.before(base.full_started_at) > now:
        return "by the clock the last full one is of a time to come"
    is_past = base.full_started_at <= every.before(now)
    return f"the last full one is {every} old or older" if is_past else None


def missing_archives(archives: Iterable[ArchiveFacts]) -> list[Problem]:
    """Look for the files of archives; give a problem for each that is whole in no place.

    Only their sizes are looked at. Paths may be addresses in storages.
    """
    found = []
    archives = list(archives)
    folders = Folders(os.fsencode(path) for one in archives for path, _ in one.volumes)
    for archive in archives:
        why = _whats_wrong(archive.volumes, folders)
        if why and all(_whats_wrong(copy, folders) for copy in archive.copies):
            message = f"{why}; so everything is saved anew, and snapshots that need it are broken"
            found.append(Problem(archive.name, STORAGE, message))
    return found


def _whats_wrong(volumes: Sequence[tuple[str, int]], folders: Folders) -> str | None:
    for path, size in volumes:
        name = printable(os.path.basename(path))
        try:
            there = _size(os.fsencode(path), folders)
        except (FileNotFoundError, NotFoundError):
            return f"{name} is gone"
        except OSError as error:
            return f"{name} can't be looked at ({error.strerror})"
        except (PlanError, StorageError) as error:
            return f"{name} can't be looked at ({error})"
        if there != size:
            return f"{name} has {there} bytes, {size} were written"
    return None


def _size(path: bytes, folders: Folders) -> int:
    if not is_remote(path):
        return os.stat(path).st_size
    stored = folders.stat(path)
    if stored is None:
        raise FileNotFoundError
    return stored.size
