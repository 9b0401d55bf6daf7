"""One check of archives, from the first look to the report."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pybak import report
from pybak.catalog.models import Verification
from pybak.catalog.verifications import VerificationLog
from pybak.display import printable
from pybak.errors import ArchiveError, Interrupted, PyBakError, WrongPasswordError
from pybak.options import VerifyOptions
from pybak.options.read import percent_number
from pybak.problems import DAMAGED, Problem, read_problems
from pybak.read_run import ReadRun, name_of, paths_of, volume_set
from pybak.report.phrases import only_changes
from pybak.report.verify import Sample
from pybak.verify.check import Checked, Slice, VerifyPlan, plan_verify
from pybak.volumes.find import VolumeSet

# Seconds of one core, measured as those in `pybak.backup.costs`.
_SECONDS_A_FILE = 25e-6
_SECONDS_A_BYTE = 1.8e-9


class VerifyRun(ReadRun):
    """A check of one or more archives and its work folder; a context manager.

    Passwords are handed to `plan` and kept nowhere. Checks are written down in the catalog at
    `catalog_url`, which also tells which part is next when only a part is read; without a catalog
    that is left to `choose_slice`, which is given the number of parts.
    """

    stopped = "stopped on request; the check is not complete"

    def __init__(
        self,
        options: VerifyOptions,
        *,
        catalog_url: str | None = None,
        now: datetime | None = None,
        choose_slice: Callable[[int], int] = random.randrange,
    ) -> None:
        """Take what is asked; nothing is looked at yet.

        Raises StorageError if there is no place for temporary files.
        """
        super().__init__(options, now=now)
        self.options = options
        self._catalog_url = catalog_url
        self._choose_slice = choose_slice
        self._samples: dict[int, Sample] = {}
        self._notes: dict[int, list[str]] = {}

    def plan(
        self,
        archive: VolumeSet | Path,
        number: int,
        password: bytes | None = None,
        *,
        run_id: str | None = None,
    ) -> VerifyPlan:
        """Check the structure of the `number`th archive; write the batches of its members.

        `run_id` is the run whose archive it must be, where it is checked as a part of a backup.
        """
        folder = self.work_folder(number)
        (folder / "progress").mkdir(parents=True, exist_ok=True)
        name = name_of(archive)
        sample = self._sample(name, number)
        plan = plan_verify(
            paths_of(volume_set(archive)),
            work_dir=folder,
            tasks=self.tasks,
            limits=self.limits,
            password=password,
            sample=Slice(sample.slice, sample.slices) if sample else None,
            should_stop=self.is_stopping,
        )
        if run_id is not None:
            return _of_run(plan, run_id)
        plan = self._compare_run(plan, name, number)
        if plan.base_run:
            self._note(number, f"it {only_changes(plan.base_run)}")
        return plan

    def _sample(self, name: str, number: int) -> Sample | None:
        """Decide which part of an archive is read; None for all of it."""
        if self.options.sample is None:
            return None
        percent = percent_number(self.options.sample)
        slices = slices_of(percent)
        if slices == 1:
            return None
        with VerificationLog(self._catalog_url) as log:
            part = log.next_slice(name, slices)
        if part is None:
            part = self._choose_slice(slices)
            self._note(number, "the catalog does not tell which part is next, so chance chose one")
        self._samples[number] = Sample(percent=percent, slice=part, slices=slices)
        return self._samples[number]

    def _compare_run(self, plan: VerifyPlan, name: str, number: int) -> VerifyPlan:
        """Note an archive that lies where the catalog knows another one."""
        with VerificationLog(self._catalog_url) as log:
            known = log.run_of(name)
        if known is None or known == plan.made_by:
            return plan
        if not plan.made_by:
            return _of_run(plan, known)
        self._note(
            number,
            f"this is the archive of run {plan.made_by}; the catalog knows the one of run "
            f"{known} by this name",
        )
        return plan

    def _note(self, number: int, text: str) -> None:
        self._notes.setdefault(number, []).append(text)

    def work_folder(self, number: int) -> Path:
        """Where the batches of the `number`th archive lie."""
        return self.staging / f"{number:04d}"

    def cluster(self, plan: VerifyPlan) -> str:
        """Give where the batches are done."""
        return self.choose_cluster(
            seconds=plan.to_read * _SECONDS_A_FILE + plan.size * _SECONDS_A_BYTE,
            locked_seconds=plan.to_read * _SECONDS_A_FILE,
        )

    def check(
        self, archive: VolumeSet | Path, number: int, plan: VerifyPlan, results: Iterable[Checked]
    ) -> report.ArchiveCheck:
        """Sum up the check of one archive and write it down.

        Raises Interrupted if a part of it was stopped.
        """
        found = list(plan.problems)
        size = 0
        for result in results:
            if result.stopped:
                raise Interrupted(self.stopped)
            found += read_problems(result.problems_file)
            size += result.size
        # Two batches may have met the same piece.
        of_archive = list(dict.fromkeys(one.message for one in found if not one.path))
        damaged = tuple(problem for problem in found if problem.path)
        return self._recorded(
            number,
            report.ArchiveCheck(
                archive=name_of(archive),
                status=DAMAGED if found else report.SUCCESS,
                members=plan.members,
                checked=plan.to_read,
                sample=self._samples.get(number),
                damaged=damaged,
                bytes_read=size,
                message="; ".join(of_archive) or None,
                notes=tuple(self._notes.get(number, ())),
            ),
        )

    def unreadable(
        self, archive: VolumeSet | Path | str, number: int, error: PyBakError
    ) -> report.ArchiveCheck:
        """Sum up the check of an archive that could not be read at all; text is as it was named.

        Only damage is written down: of an archive that is locked or missing nothing was learned.
        """
        done = report.ArchiveCheck(
            archive=archive if isinstance(archive, str) else name_of(archive),
            status=DAMAGED if is_damage(error) else report.FAILED,
            code=report.error_code(error, "verify"),
            message=str(error),
        )
        return self._recorded(number, done) if is_damage(error) else done

    def _recorded(self, number: int, done: report.ArchiveCheck) -> report.ArchiveCheck:
        sample = self._samples.get(number, Sample())
        with VerificationLog(self._catalog_url) as log:
            log.record(
                Verification(
                    archive=done.archive,
                    run_id=self.run_id,
                    checked_at=datetime.now(UTC),
                    status=done.status,
                    percent=sample.percent,
                    slice=sample.slice,
                    slices=sample.slices,
                    members=done.checked,
                    damaged=len(done.damaged),
                )
            )
        return done

    def report(self, checks: Sequence[report.ArchiveCheck]) -> report.VerifyReport:
        """Sum up the whole run."""
        good = all(check.status == report.SUCCESS for check in checks)
        return report.VerifyReport(
            status=report.SUCCESS if good else report.FAILED,
            archives=tuple(checks),
            duration_seconds=self.duration_seconds,
        )


def _of_run(plan: VerifyPlan, run_id: str) -> VerifyPlan:
    """Find fault with an archive that does not say to be of the run that a backup needs."""
    if plan.made_by == run_id:
        return plan
    if plan.made_by:
        what = f"is the archive of run {printable(plan.made_by)}"
        what += f"; the backup needs that of run {run_id}, put it back"
    elif plan.has_manifest or plan.problems:
        return plan  # it is locked, or known to be damaged
    else:
        what = f"lacks the manifest that run {run_id} wrote: it is damaged, or another archive"
    problem = Problem("", DAMAGED, what)
    return msgspec.structs.replace(plan, problems=(*plan.problems, problem))


def is_damage(error: PyBakError) -> bool:
    """Whether an error says that an archive's bytes are bad, not that they could not be read."""
    return isinstance(error, ArchiveError) and not isinstance(error, WrongPasswordError)


def slices_of(percent: float) -> int:
    """Give in how many checks of `percent` each all members are reached."""
    return max(1, math.ceil(100 / percent - 1e-9))
