"""One restore drill, from the choice of a sample to the report and the evidence."""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pybak.catalog.engine import Database
from pybak.catalog.facts import ArchiveFacts, Snapshot, Version
from pybak.catalog.history import History
from pybak.catalog.locks import archives_lock
from pybak.catalog.models import escaped
from pybak.catalog.presence import has_catalog
from pybak.display import printable
from pybak.drill.compare import DataMap, difference, time_step
from pybak.drill.sample import choose_sample
from pybak.entries import FILE
from pybak.errors import NotFoundError, PlanError, PyBakError, StorageError
from pybak.formats.opening import open_archive
from pybak.options import RestoreOptions
from pybak.options.drill import DrillOptions, sample_share
from pybak.paths import user_path
from pybak.problems import CHANGED, DAMAGED, NO_MATCH, Problem
from pybak.read_run import ReadRun
from pybak.report.drill import DrilledArchive, DrillReport
from pybak.report.restore import RestoreReport
from pybak.report.status import FAILED, SUCCESS
from pybak.restore.run import RestoreRun
from pybak.restore.snapshot import Share, recorded_shares, references_of
from pybak.staging import WorkFolder, remove_leftovers
from pybak.units import format_size

_TARGET: Final = "restored"
_SPARE_BYTES: Final = 64 << 20
_RECORDED_NAMES: Final = 20_000
_NO_FAILURE: Final = frozenset({NO_MATCH, CHANGED})
"""What a restore tells that is no fault of the archive: a file was saved while it moved."""


class DrillRun(ReadRun):
    """A drill and its folders; a context manager that removes them with all that was restored.

    The steps are `choose`, a restore by `restore_run`, `compare`, `report`. Passwords are handed
    to those that need one and kept nowhere.
    """

    stopped = "stopped on request; the drill is not complete"

    def __init__(
        self,
        job: str | None,
        options: DrillOptions,
        *,
        catalog_url: str,
        now: datetime | None = None,
    ) -> None:
        """Find the snapshot; its archives are not looked at yet.

        Raises NotFoundError if there is none, PlanError where `job` must be named, CatalogError,
        StorageError if there is no place for what is to be restored.
        """
        self.options = options
        self._url = catalog_url
        self._database = Database(catalog_url)
        self._history = History(self._database)
        self.snapshot = self._newest(job)
        self.job = self.snapshot.job
        self.seed = options.seed or secrets.token_hex(4)
        self.sample: list[Version] = []
        self.total = 0
        self._archives: dict[int, ArchiveFacts] = {}
        self._shares: dict[int, Share] = {}
        self._maps: dict[int, dict[bytes, DataMap | None]] = {}
        self._scratch: WorkFolder | None = None
        super().__init__(options, now=now)
        try:
            self._target = self._open_scratch() / _TARGET
        except BaseException:
            self._folder.remove()
            raise

    def _newest(self, job: str | None) -> Snapshot:
        if not has_catalog(self._url):
            raise NotFoundError(
                f"{printable(self._database.where)}: there is no catalog; make a backup, or get it "
                "back with `python flows/rebuild.py DESTINATION`"
            )
        jobs = self._history.jobs()
        if job is None:
            if len(jobs) > 1:
                names = ", ".join(map(printable, jobs))
                raise PlanError(f"which job? name one with --job: {names}")
            job = jobs[0] if jobs else None
        found = self._history.newest(job) if job is not None else None
        if found is None:
            known = f"; known are {', '.join(map(printable, jobs))}" if jobs else ""
            raise NotFoundError(f"{printable(job or 'drill')}: no backup of this job{known}")
        return found

    def _open_scratch(self) -> Path:
        if self.options.scratch is None:
            return self.staging
        parent = user_path(self.options.scratch)
        if not parent.is_dir():
            raise NotFoundError(f"{parent}: no such folder; make it, or name another --scratch")
        remove_leftovers(parent)
        self._scratch = WorkFolder.create(parent, self.run_id)
        return self._scratch.path

    def locked(self, on_wait: Callable[[str], object]) -> AbstractContextManager[object]:
        """Keep the archives from being removed as long as the block lasts. Raises LockedError."""
        return archives_lock(
            self.job, shared=True, catalog_url=self._url, run_id=self.run_id, on_wait=on_wait
        )

    def choose(self) -> list[Share]:
        """Choose the sample; give what is restored of which archive.

        Raises PlanError if the snapshot holds nothing, StorageError without room for the sample.
        """
        chance = random.Random(self.seed)  # noqa: S311 - it must be told, not be hard to guess
        self.sample, self.total = choose_sample(
            lambda: self._history.versions(self.snapshot),
            sample_share(self.options.sample).of,
            chance,
        )
        if not self.sample:
            raise PlanError(f"{printable(self.job)}: the newest backup holds nothing to restore")
        self._check_room()
        versions: dict[int, list[Version]] = defaultdict(list)
        for version in self.sample:
            versions[version.archive_id].append(version)
        self._archives = {one.id: one for one in self._history.archives_by_id(versions)}
        shares = recorded_shares(
            (
                one,
                [version.path for version in versions[number] if version.member is None],
                references_of(versions[number]),
            )
            for number, one in self._archives.items()
        )
        self._shares = dict(zip(self._archives, shares, strict=True))
        return shares

    @property
    def size(self) -> int:
        """Bytes of the files in the sample."""
        return sum(version.size for version in self.sample if version.kind == FILE)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._target.parent).free
        if self.size + _SPARE_BYTES > free:
            raise StorageError(
                f"{self._target.parent}: has {format_size(free)} free, the sample needs "
                f"{format_size(self.size)}; name another folder with --scratch, or a smaller "
                "--sample"
            )

    def restore_run(self) -> RestoreRun:
        """Give the restore of the sample into the scratch folder."""
        options = RestoreOptions(
            workers=self.options.workers,
            cluster=self.options.cluster,
            password_block=self.options.password_block,
            max_ratio=self.options.max_ratio,
            max_members=self.options.max_members,
        )
        return RestoreRun(list(self._shares.values()), os.fspath(self._target), options)

    def compare(
        self, restored: RestoreReport, password: bytes | None = None
    ) -> list[tuple[Version, Problem]]:
        """Compare all of the sample with what was recorded; give what is not as it was.

        Raises Interrupted on request.
        """
        known = {one.path: one for one in restored.errors if one.code not in _NO_FAILURE}
        target = os.fsencode(self._target)
        step = time_step(self._target.parent)

        def look(version: Version) -> tuple[Version, Problem] | None:
            self.check_cancelled()
            name = os.fsdecode(version.path)
            if name in known:
                return version, known[name]
            what = difference(
                os.path.join(target, version.path), version, time_step_ns=step,
                data_map=lambda: self._data_map(version, password),
            )  # fmt: skip
            return None if what is None else (version, Problem(name, DAMAGED, what))

        with ThreadPoolExecutor(self.workers) as pool:
            return [found for found in pool.map(look, self.sample) if found is not None]

    def _data_map(self, version: Version, password: bytes | None) -> DataMap | None:
        """Give where a file has data if its archive holds it as a sparse one."""
        maps = self._maps.get(version.archive_id)
        if maps is None:
            maps = self._maps[version.archive_id] = self._read_maps(version.archive_id, password)
        return maps.get(version.path if version.member is None else version.member)

    def _read_maps(self, archive: int, password: bytes | None) -> dict[bytes, DataMap | None]:
        share = self._shares[archive]
        try:
            with open_archive(share.volumes, password=password) as opened:
                members = opened.listing(self.limits, share.members).members
        except PyBakError:  # told where the restore met it
            return {}
        return {one.name: one.data_map for one in members if one.is_sparse or one.data_map}

    def report(
        self, restored: RestoreReport, failed: Sequence[tuple[Version, Problem]]
    ) -> DrillReport:
        """Sum up."""
        files = Counter(version.archive_id for version in self.sample)
        bad = Counter(version.archive_id for version, _ in failed)
        named = {problem.path for _, problem in failed}
        # What the restore said of no file of the sample, such as damage of an archive as a whole.
        others = [
            one for one in restored.errors
            if one.path not in named and one.code not in _NO_FAILURE
        ]  # fmt: skip
        errors = (*others, *(problem for _, problem in failed))
        return DrillReport(
            status=FAILED if errors else SUCCESS,
            job=self.job,
            drill_id=self.run_id,
            run_id=self.snapshot.run_id,
            started_at=self.snapshot.started_at,
            total=self.total,
            archives=tuple(
                DrilledArchive(archive=facts.name, files=files[number], failed=bad[number])
                for number, facts in self._archives.items()
            ),
            seed=self.seed,
            bytes_restored=restored.bytes_written,
            duration_seconds=(datetime.now(UTC) - self.started_at).total_seconds(),
            errors=errors,
        )

    def evidence(self, report: DrillReport) -> dict[str, Any]:
        """Give what the catalog keeps of the drill: counts, archives, and each file's name."""
        names = [escaped(os.fsdecode(version.path)) for version in self.sample]
        return {
            "snapshot": report.run_id,
            "total": report.total,
            "sampled": report.files,
            "failed": report.failed,
            "bytes": report.bytes_restored,
            "seed": report.seed,
            "archives": [
                {**one.to_json(), "archive": escaped(one.archive)} for one in report.archives
            ],
            "files": names[:_RECORDED_NAMES],
            "errors": [
                [escaped(one.path), one.code, escaped(one.message)] for one in report.errors
            ][:_RECORDED_NAMES],
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()
        if self._scratch is not None:
            self._scratch.remove()
        super().__exit__(kind, error, trace)
