"""The way of one run's archive into a storage: what is begun there ends as an archive, or is gone.

`Shipment` joins what sends (`pybak.backup.sending`), what gives the files their names
(`pybak.storage.remote`) and what remembers it all for the case of a kill
(`pybak.storage.unfinished`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak import staging
from pybak.backup.batches import read_job
from pybak.backup.hands import Hand, deal
from pybak.backup.parcels import pack_parcel, take_in
from pybak.backup.part_sizes import WHOLE_BYTES
from pybak.backup.plan import BackupPlan
from pybak.backup.send_pieces import StagedFiles
from pybak.backup.sender import Sender
from pybak.backup.sending import SendingOutput, Shape
from pybak.backup.settings import NETWORK
from pybak.backup.stretches import Stretches, Target, plan_stretches, write_target
from pybak.clusters import DIRECT
from pybak.errors import Interrupted, PlanError, StorageError
from pybak.home import home
from pybak.options import BackupOptions
from pybak.stages import current
from pybak.storage import naming, remote
from pybak.storage.bandwidth import Bandwidth
from pybak.storage.remote import Published, RemoteDestination
from pybak.storage.unfinished import UploadNotes, clean_up, delete_hidden, notes_folder
from pybak.units import parse_size
from pybak.volumes.write import suffix_of

DEFAULT_STAGING_LIMIT: Final = 1 << 30
LEAST_STAGING_LIMIT: Final = 64 << 20


def staging_limit(options: BackupOptions) -> int:
    """Give the most bytes that may wait to be sent. Raises PlanError for too few."""
    if options.staging_limit is None:
        return DEFAULT_STAGING_LIMIT
    limit = parse_size(options.staging_limit)
    if limit < LEAST_STAGING_LIMIT:
        raise PlanError(
            f"--staging-limit {options.staging_limit}: too little to work with; "
            f"give {LEAST_STAGING_LIMIT >> 20}MiB or more"
        )
    return limit


def staging_parent() -> Path:
    """Give the folder that work folders are made in, where no other is asked for."""
    return home() / "staging"


class Shipment:
    """Sends one archive to `place`; close it, and what was not published is taken back."""

    def __init__(
        self, place: RemoteDestination, run_id: str, options: BackupOptions, job: str | None
    ) -> None:
        """Remove what killed runs left there. Raises PlanError for options that don't fit."""
        self.place = place
        self.staging_limit = staging_limit(options)
        self._run_id = run_id
        self._options = options
        self._notes: UploadNotes | None = None
        self._output: SendingOutput | None = None
        self._stretches: Stretches | None = None
        clean_up(place.storage, job)

    def begin(
        self, shape: Shape, folder: Path, *, threads: int, on_failure: Callable[[], None]
    ) -> SendingOutput:
        """Give what the archive is laid down in; `folder` is the run's staging folder.

        `on_failure` is called, in any thread, when the first part can't be sent.

        Raises StorageError where nothing can be noted down.
        """
        is_wrapped = shape.password is not None
        number = None if shape.payload_bytes is None else 0
        first = shape.name + suffix_of(number, wrapped=is_wrapped)
        self._notes = UploadNotes(notes_folder(), self._run_id, self.place.storage.address, first)
        limit = self._options.bandwidth_limit
        sender = Sender(
            self.place.storage,
            StagedFiles(),
            threads=self._options.upload_parts,
            on_failure=on_failure,
            bandwidth=Bandwidth(parse_size(limit)) if limit else None,
            stages=current(),
        )

        def stop_if_asked() -> None:
            if staging.is_cancelled(folder):
                raise Interrupted("stopped on request")

        self._output = SendingOutput(
            shape, sender, folder / "segments", stop_if_asked=stop_if_asked,
            on_begin=self._notes.begun, held_bytes=self.staging_limit // 2, threads=threads,
            small_whole=self.staging_limit >= 4 * WHOLE_BYTES,
        )  # fmt: skip
        if self._stretches is not None:
            number = self._stretches.all[0].first
            upload = self._output.begin(number, self._stretches.part_bytes)
            write_target(folder, Target(self.place.storage.address, upload))
            if self.is_far:
                self._notes.hiding(self._hidden)
        return self._output

    @property
    def _is_elsewhere(self) -> bool:
        return self._options.cluster.startswith(NETWORK)

    @property
    def is_far(self) -> bool:
        """Whether workers on other hosts send, and get what they need as parcels."""
        return self._stretches is not None and self._is_elsewhere

    @property
    def needs_shared_staging(self) -> bool:
        """Whether workers on other hosts must see the run's folder, and it is in PYBAK_HOME."""
        return self._is_elsewhere and self._stretches is None and self._options.staging is None

    @property
    def _hidden(self) -> str:
        return naming.hidden_start(self._run_id)

    def parcel(self, folder: Path, hand: Hand) -> bytes:
        """Give what a worker needs for `hand`. Raises OSError."""
        return pack_parcel(folder, hand, self._hidden)

    def take_in(self, folder: Path, start: int, returned: bytes) -> None:
        """Take what a worker returned. Raises OSError, and StorageError."""
        take_in(folder, start, returned, self.place.storage)

    def share_out(self, plan: BackupPlan, shape: Shape) -> BackupPlan:
        """Have workers send by themselves what they compress, if the archive is such a one.

        Gives the plan with other hands. Raises OSError.
        """
        if shape.payload_bytes is not None or shape.password is not None or plan.cluster == DIRECT:
            return plan
        if self._options.bandwidth_limit is not None:
            return plan  # processes can't share one exactly
        stretches = plan_stretches(
            plan.staging, read_job(plan.staging), workers=plan.workers,
            limits=self.place.storage.limits, staged_bytes=self.staging_limit * 2 // 3,
            always=self._is_elsewhere,
            threads=max(1, self._options.upload_parts // plan.workers),
        )  # fmt: skip
        if stretches is None:
            return plan
        hands = [Hand(one.start, one.stop, 1) for one in stretches.all]
        if hands[0].start >= plan.parts and not self._is_elsewhere:
            hands[:0] = deal(plan.parts, plan.workers)  # to be sent from here, part by part
        self._stretches = stretches
        return msgspec.structs.replace(plan, hands=tuple(hands))

    def publish(self, kinds: Sequence[str]) -> Published:
        """Have the archive appear, with checksum files of these kinds, or nothing.

        Raises ExistsError if its name is taken by now, and StorageError.
        """
        assert self._output is not None
        assert self._notes is not None
        files = [volume.file for volume in self._output.volumes]
        published = remote.publish(files, self.place, self._notes, kinds=kinds)
        self._output.release()
        if self.is_far:
            # Of tries that did not count. What can't be deleted now is left to later runs.
            with contextlib.suppress(StorageError):
                delete_hidden(self.place.storage, self._hidden)
        self._notes.close()
        return published

    def close(self) -> None:
        """Take back what is not published; what can't be now stays noted for a later run."""
        problem: BaseException | None = None
        if self._output is not None:
            problem = self._output.abort()
        if self.is_far and self._notes is not None and self._notes.is_open:
            try:
                delete_hidden(self.place.storage, self._hidden)
            except StorageError as error:
                problem = problem or error
        if self._notes is not None:
            with contextlib.suppress(Exception):
                self._notes.close(keep=problem is not None)
