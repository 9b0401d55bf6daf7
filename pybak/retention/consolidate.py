"""A full archive made from those of a chain, so that the old ones can go (`--consolidate`).

It is made for the oldest snapshot that is kept and needs archives of runs that are not kept. Later
ones then need it in place of all before it. Members are copied as they are, packed
(`pybak.retention.merge_zip`), so only plain ZIP archives can be consolidated.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from pybak import __version__
from pybak.backup.output import ArchiveFile, ArchiveLayout
from pybak.catalog.engine import Database
from pybak.catalog.history import ArchiveFacts, History, Snapshot
from pybak.catalog.replacing import Span, enter_unfinished, replace_archive
from pybak.display import printable
from pybak.errors import StorageError
from pybak.formats import manifest
from pybak.portable import from_portable
from pybak.problems import UNSUPPORTED, Problem
from pybak.retention import files
from pybak.retention.merge_zip import Portion, merge, read_manifest_of
from pybak.retention.policy import Verdict
from pybak.staging import WorkFolder, reason, remove_leftovers
from pybak.storage import local
from pybak.volumes.model import Volume
from pybak.volumes.write import FinishedVolume, plan_volumes, read_finished, suffixes, write_volumes

FORMAT: Final = "zip"


class Chain(NamedTuple):
    """A snapshot that is to get a full archive, and the archives that hold its members."""

    snapshot: Snapshot
    own: ArchiveFacts
    archives: tuple[ArchiveFacts, ...]


def find_chain(
    verdicts: Iterable[Verdict],
    needs: Mapping[str, frozenset[int]],
    archives: Sequence[ArchiveFacts],
    lost: Mapping[str, str],
) -> Chain | None:
    """Give the oldest kept snapshot that needs archives of runs that are not kept.

    Snapshots in `lost`, whose archives are not all there, are passed over.
    """
    kept = [verdict.snapshot for verdict in verdicts if verdict.keep]
    runs = {snapshot.run_id for snapshot in kept}
    known = {one.id: one for one in archives if not one.is_leaving}
    own = {one.run_id: one for one in known.values()}
    for snapshot in sorted(kept, key=lambda one: one.seq):
        needed = [known[number] for number in sorted(needs[snapshot.run_id]) if number in known]
        if snapshot.run_id in lost or snapshot.run_id not in own:
            continue
        if any(one.run_id not in runs for one in needed):
            return Chain(snapshot, own[snapshot.run_id], tuple(needed))
    return None


def uncopyable(chain: Chain) -> Problem | None:
    """Say which of the archives can't be copied from, if one can't."""
    for one in (chain.own, *chain.archives):
        if one.format != FORMAT or one.encrypted:
            what = "encrypted" if one.encrypted else one.format
            message = (
                f"{printable(one.name)}: is {what}, and only plain ZIP archives can be "
                "consolidated; a full backup cuts the chain as well"
            )
            return Problem(one.name, UNSUPPORTED, message)
    return None


def needs_after(
    spans: Sequence[Span], snapshots: Iterable[Snapshot], chain: Chain
) -> dict[str, frozenset[int]]:
    """Give what each snapshot will need when the chain's own archive is full."""
    at, own = chain.snapshot.seq, chain.own.id
    after: list[Span] = []
    for span in spans:
        if not span.holds(at):
            after.append(span)
            continue
        if span.first < at:
            after.append(span._replace(gone=at))
        after.append(Span(own, at, span.gone))
    return {
        snapshot.run_id: frozenset(one.archive for one in after if one.holds(snapshot.seq))
        for snapshot in snapshots
    }


class Consolidated(NamedTuple):
    """What was made: the archive's name and its bytes."""

    name: str
    size: int


def consolidate(
    database: Database,
    chain: Chain,
    *,
    run_id: str,
    now: datetime,
    stop_if_asked: Callable[[], None],
) -> Consolidated:
    """Make the full archive, beside the snapshot's own, and put it into that one's place.

    `chain` must be copyable. The old archive is left to the prune; the caller holds the locks.
    Raises ArchiveError for damage where it shows, StorageError, CatalogError, and what
    `stop_if_asked` raises; then all is as it was.
    """
    folder = Path(min(files.folders(chain.own)))
    try:
        remove_leftovers(folder)
        work = WorkFolder.create(folder, run_id)
        try:
            return _make(database, chain, work.path, folder, now, stop_if_asked)
        finally:
            work.remove()
    except OSError as error:
        raise StorageError(
            f"{printable(str(folder))}: {reason(error)}; a full archive needs room beside the old "
            "ones"
        ) from error


def _make(
    database: Database,
    chain: Chain,
    work: Path,
    folder: Path,
    now: datetime,
    stop_if_asked: Callable[[], None],
) -> Consolidated:
    snapshot = chain.snapshot
    last = read_manifest_of(_paths(chain.own))
    header = manifest.Header(
        run_id=snapshot.run_id, job=snapshot.job, mode="full", format=FORMAT,
        created=last.head.created, sources=last.head.sources, program=f"pybak {__version__}",
        split=last.head.split, seq=snapshot.seq, tags=list(snapshot.tags),
        # Not its own: archives of the chain that are kept go back to this one.
        full_run=last.head.full_run,
    )  # fmt: skip
    output: ArchiveFile | ArchiveLayout
    if header.split is None:
        output = ArchiveFile(work / "archive", stop_if_asked)
    else:
        output = ArchiveLayout(work, stop_if_asked)
    try:
        members = merge(
            _portions(database, chain), last, header, output, now=int(now.timestamp()),
            stop_if_asked=stop_if_asked,
        )  # fmt: skip
        kinds = files.kinds_of_sums(chain.own)
        taken = [suffixes(0, header.split, wrapped=False)[0], *(f".{kind}" for kind in kinds)]
        place = local.choose(
            None, str(folder), job=_job_in_names(snapshot.job), suffix=FORMAT, create=False,
            now=snapshot.started_at.astimezone(), taken=taken, is_split=header.split is not None,
        )  # fmt: skip
        finished = _finished(output, work, place.name, header.split, kinds)
    finally:
        output.close()
    number = enter_unfinished(
        database, snapshot, name=str(place.path), format=FORMAT, members=members,
        volumes=[
            Volume(uri=(folder / (place.name + one.suffix)).as_uri(), size=one.size)
            for one in finished
        ],
    )  # fmt: skip
    stored = local.publish(finished, place, kinds=kinds)
    replace_archive(
        database, snapshot, old=chain.own.id, new=number, name=str(stored.path),
        volumes=stored.volumes,
    )  # fmt: skip
    return Consolidated(str(stored.path), output.size)


def _portions(database: Database, chain: Chain) -> list[Portion]:
    names: dict[int, set[bytes]] = defaultdict(set)
    for name, archive in History(database).names(chain.snapshot):
        names[archive].add(name)
    return [Portion(_paths(one), frozenset(names[one.id])) for one in chain.archives]


def _paths(archive: ArchiveFacts) -> list[bytes]:
    return [os.fsencode(from_portable(volume.uri)) for volume in archive.volumes]


def _finished(
    output: ArchiveFile | ArchiveLayout,
    work: Path,
    name: str,
    split: int | None,
    kinds: Sequence[str],
) -> list[FinishedVolume]:
    """Give the files of the archive, on the disk, under temporary names."""
    if isinstance(output, ArchiveFile):
        output.sync()
        path = os.fsencode(output.path)
        return [FinishedVolume(path, "", output.size, {}, tuple(output.parts))]
    made = plan_volumes(
        work, output.extents, size=output.size, payload_bytes=split, wrapped=False, name=name,
        mtime_ns=0,
    )  # fmt: skip
    write_volumes(work, range(len(made)), target=work, kinds=kinds)
    return read_finished(work, len(made))


def _job_in_names(job: str) -> str | None:
    """Give what archives are named by: nothing for a job that is called by its sources' paths."""
    return None if "/" in job else job
