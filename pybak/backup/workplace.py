"""Where one run writes: its destination and copies, and the work folders on the way there.

Nothing of it outlives the run but what was published: `Workplace.close` takes back the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pybak import staging
from pybak.backup.about import About
from pybak.backup.copies import Copies
from pybak.backup.shipping import Shipment, staging_limit, staging_parent
from pybak.errors import StorageError
from pybak.home import home
from pybak.paths import user_path
from pybak.staging import WorkFolder, remove_leftovers
from pybak.storage import local, remote
from pybak.storage.opening import is_remote
from pybak.storage.remote import RemoteDestination
from pybak.volumes.write import suffixes


class Workplace:
    """The places of a run. `shipment` sends the archive, if it goes to a storage.

    `staging` is the folder of all that is unfinished, `target` that of what is to be published;
    both are there after `open`.
    """

    staging: Path
    target: Path

    def __init__(
        self, about: About, *, output: str | None, to: str | None, is_rehearsal: bool
    ) -> None:
        """Decide where the archive and its copies go; with `is_rehearsal` nothing is made.

        Raises PlanError and StorageError.
        """
        self._about = about
        self._folders: list[WorkFolder] = []
        self._made_staging: Path | None = None
        self.shipment: Shipment | None = None
        self.copies = Copies(about.options, run_id=about.run_id, job=about.job_given)
        self.destination = self._choose(output, to, is_rehearsal=is_rehearsal)

    def _choose(
        self, output: str | None, to: str | None, *, is_rehearsal: bool
    ) -> local.Destination | RemoteDestination:
        about = self._about
        first = suffixes(0, about.split, wrapped=about.is_wrapped)[0]
        taken = [first, *(f".{kind}" for kind in about.sum_kinds)]
        now, is_split = about.started_at.astimezone(), about.split is not None
        if not is_remote(output or to or ""):
            here = local.choose(
                output, to, job=about.job_given, now=now, suffix=about.format,
                create=not is_rehearsal, taken=taken, is_split=is_split,
            )  # fmt: skip
            return self.copies.settle(here, taken, is_split=is_split, is_rehearsal=is_rehearsal)
        staging_limit(about.options)
        place = remote.choose(
            output, to, job=about.job_given, now=now, suffix=about.format, taken=taken,
            is_split=is_split,
        )  # fmt: skip
        place = self.copies.settle(place, taken, is_split=is_split, is_rehearsal=is_rehearsal)
        if not is_rehearsal:
            self.shipment = Shipment(place, about.run_id, about.options, about.job_given)
        return place

    def open(self, scratch: Path | None) -> None:
        """Make the work folders; with `scratch` that is the only one."""
        if scratch is not None:
            self.staging = self.target = scratch
            return
        with contextlib.suppress(OSError):  # must be there to be left out of the sources
            home().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = None
        wanted = self._about.options.staging
        elsewhere = user_path(wanted) if wanted else None
        if isinstance(self.destination, local.Destination):
            folder = self.destination.folder
            self.staging = self.target = self._work_folder(folder)
        elif elsewhere is None:
            elsewhere = staging_parent()
        if elsewhere is not None and elsewhere != folder:
            if not elsewhere.exists():
                with contextlib.suppress(OSError):
                    elsewhere.mkdir(parents=True)
                    self._made_staging = elsewhere
            self.staging = self._work_folder(elsewhere)
            if folder is None:
                self.target = self.staging

    def _work_folder(self, parent: Path) -> Path:
        remove_leftovers(parent)
        self._folders.append(WorkFolder.create(parent, self._about.run_id))
        return self._folders[-1].path

    def own_files(self) -> frozenset[tuple[int, int]]:
        """Identify what must never be in the archive: this run's own files and our home."""
        return _identities([home(), self.staging, self.target])

    def earlier_archives(self) -> frozenset[tuple[int, int]]:
        """Identify what earlier runs of this job made."""
        folders = self.copies.folders
        if isinstance(self.destination, local.Destination):
            folders.append(self.destination.folder)
        job = self._about.job_given
        return _identities(path for folder in folders for path in local.own_archives(folder, job))

    @property
    def copying(self) -> Path:
        """The folder for what copies put down while they are made."""
        folder = self.staging / "copies"
        with contextlib.suppress(OSError):  # told by the copy that needs it
            (folder / "progress").mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Translate what goes wrong with the run's own small files."""
        try:
            yield
        except OSError as error:
            place = self.staging.parent
            raise StorageError(
                f"{place}: {staging.reason(error)}; free some space or choose another --staging"
            ) from error

    def close(self) -> None:
        """Take back what is not published, remove work folders, and folders made for nothing."""
        if self.shipment is not None:
            self.shipment.close()
        for folder in self._folders:
            folder.remove()
        if self._made_staging is not None:
            with contextlib.suppress(OSError):  # someone else uses it by now
                self._made_staging.rmdir()
        self.copies.undo()
        self.destination.undo()


def _identities(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Give (device, inode) of those that are there."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)
