"""In which order archives come, which numbers their runs had, and what each is compared with.

A manifest says the number of its run and names the runs that its snapshot goes back to. Those of
version 1 are all full and say neither; they are put where their time belongs. Numbers that were
given twice, as after a catalog was lost and begun anew, are given again by time.

Only a run that is named is a base: an archive between that is not, was made by a run which was
killed before it was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from pybak.rebuild.manifests import Found


class Step(NamedTuple):
    """An archive that is to be recorded, after all steps before it.

    `base` is the step whose snapshot it is the difference to. Without a base it is full, or what
    it goes back to is lost. `missing` are the runs whose archives are not there and hold members
    of its snapshot, or may do so.
    """

    archive: Found
    seq: int
    base: Step | None
    missing: tuple[str, ...] = ()


def ordered(archives: Sequence[Found]) -> list[Step]:
    """Give the archives of one job, each run once, as they are to be recorded."""
    steps: list[Step] = []
    by_run: dict[str, Step] = {}
    last = 0
    for archive in _sorted(archives):
        last = max(archive.head.seq or 0, last + 1)
        base: Step | None = None
        missing: tuple[str, ...] = ()
        if not archive.is_full:
            told = archive.head.bases is not None
            base, missing = _told(archive, by_run) if told else _guessed(archive, steps)
        step = Step(archive, last, base, missing)
        steps.append(step)
        by_run[archive.head.run_id] = step
    return steps


def _told(archive: Found, by_run: Mapping[str, Step]) -> tuple[Step | None, tuple[str, ...]]:
    """Give the nearest base that is there, and the runs that are needed and are not."""
    base: Step | None = None
    head = archive.head
    needs = set(head.needs or ())
    missing = [run_id for run_id in head.lenders if run_id not in by_run]
    for run_id in head.bases or ():
        step = by_run.get(run_id)
        if step is None:
            if run_id in needs and run_id not in missing:
                missing.append(run_id)
            continue
        base = base or step
        if step.archive.is_full:
            break  # it may be one by now for it took the place of a chain, and holds all before it
    return base, tuple(missing)


def _guessed(archive: Found, steps: Sequence[Step]) -> tuple[Step | None, tuple[str, ...]]:
    """Do the same for a manifest that names its base alone: what lay between may be needed."""
    base_run = archive.head.base_run
    named = [step for step in steps if step.archive.head.run_id == base_run]
    if named:
        return named[-1], ()
    # A full archive that took the place of a chain still names the run that the chain began with.
    chain = [
        step
        for step in steps
        if archive.full_run is not None
        and archive.full_run in (step.archive.full_run, step.archive.head.full_run)
    ]
    return (chain[-1] if chain else None), (base_run,) if base_run else ()


def _sorted(archives: Sequence[Found]) -> list[Found]:
    """Sort by number as far as numbers are there and no two are the same; else by time."""
    numbered = [one for one in archives if one.head.seq]
    if len({one.head.seq for one in numbered}) < len(numbered):
        return sorted(archives, key=lambda one: (one.created, one.head.seq or 0))
    found = sorted(numbered, key=lambda one: one.head.seq or 0)
    for one in sorted((one for one in archives if not one.head.seq), key=attrgetter("created")):
        later = (at for at, other in enumerate(found) if other.created > one.created)
        found.insert(next(later, len(found)), one)
    return found
