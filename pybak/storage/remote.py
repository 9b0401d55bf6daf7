"""Archives in a storage: what they are called there, and how they appear all at once."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from pybak.errors import ExistsError, StorageError
from pybak.storage import naming
from pybak.storage.body import BytesBody
from pybak.storage.opening import join, open_storage, split
from pybak.storage.protocol import Storage, Stored
from pybak.storage.unfinished import may_be
from pybak.volumes.model import Volume, VolumePart

_READ_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class RemoteDestination:
    """Where an archive goes in a storage. With `fixed`, under exactly this name or not at all."""

    address: str
    """The folder's."""
    name: str
    fixed: bool
    suffix: str
    """What the name ends with, behind a dot, if it is not fixed."""
    number: int = 1

    @property
    def storage(self) -> Storage:
        """The folder."""
        return open_storage(self.address)

    @property
    def path(self) -> str:
        """The archive's address."""
        return join(self.address, self.name)

    def is_taken(self, endings: Sequence[str]) -> bool:
        """Whether there is a file of this name, or with one of `endings`. Raises StorageError."""
        return first_taken(self.storage, self.name, endings) is not None

    def next(self) -> RemoteDestination:
        """Give the next name that is not fixed: `_2` behind it, then `_3` and so on."""
        number = self.number + 1
        return replace(self, name=naming.numbered(self.name, self.suffix, number), number=number)

    def undo(self) -> None:
        """Do nothing: no folder was made."""


def choose(
    output: str | None,
    to: str | None,
    *,
    job: str | None,
    now: datetime,
    suffix: str,
    taken: Sequence[str] = (),
    is_split: bool = False,
) -> RemoteDestination:
    """Decide where in a storage the archive goes; `output` or `to` is an address.

    See `pybak.storage.local.choose`. Raises PlanError for what is no address, NotFoundError for a
    missing bucket, StorageError when the storage can't be used, or a name that was asked for is
    taken.
    """
    if output is not None:
        address, name = split(output)
    else:
        assert to is not None
        address, name = to.rstrip("/"), naming.default_name(job, now, suffix)
    naming.check_length(name, output, taken)
    storage = open_storage(address)
    storage.check()
    if output is not None:
        there = first_taken(storage, name, taken)
        if there is None and is_split:
            there = first_volume(storage, name)
        if there is not None:
            raise ExistsError(
                f"{join(address, there)}: exists already; choose another name or remove it first"
            )
    place = RemoteDestination(address, name, output is not None, suffix)
    while not place.fixed and place.is_taken(taken):
        place = place.next()
    return place


def first_taken(storage: Storage, name: str, endings: Sequence[str]) -> str | None:
    """Give the first of the names `name` and `name` with one of `endings` that a file has.

    Raises StorageError.
    """
    candidates = (name + ending for ending in dict.fromkeys(("", *endings)))
    return next((one for one in candidates if storage.stat(one) is not None), None)


def first_volume(storage: Storage, name: str) -> str | None:
    """Give a volume of an archive with this name. Raises StorageError."""
    pattern = naming.volumes_of(name)
    return min((one.name for one in storage.list() if pattern.fullmatch(one.name)), default=None)


class SentFile(Protocol):
    """A file of the archive that is sent and not complete; see `pybak.backup.send_parts`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def whole_sha256(self) -> str | None: ...  # noqa: D102
    @property
    def parts(self) -> tuple[VolumePart, ...]: ...  # noqa: D102
    def complete(self) -> Stored: ...  # noqa: D102
    def hash_whole(self, kinds: Sequence[str]) -> dict[str, str] | None: ...  # noqa: D102


class Notes(Protocol):
    """Remembers what is about to be, for whoever cleans up after a kill."""

    def completing(self, name: str, size: int) -> None:
        """A file is about to appear."""

    def completed(self, stored: Stored) -> None:
        """It has."""


class Published(NamedTuple):
    """A stored archive: its address without a volume's number, its volumes, its checksum files."""

    path: str
    volumes: tuple[Volume, ...]
    checksum_files: tuple[str, ...]


def publish(
    files: Sequence[SentFile],
    place: RemoteDestination,
    notes: Notes,
    *,
    kinds: Sequence[str] = (),
    advance: Callable[[int], None] = lambda _size: None,
) -> Published:
    """Have the files of an archive appear, the first one last: a set without it is no archive.

    Then a checksum file for each of `kinds`; digests that were not made on the way are made by
    reading what is stored (`advance` is told how much). Raises StorageError, with some files there
    and others not: taking them back is the caller's business.
    """
    storage = place.storage
    sums: dict[str, dict[str, str]] = {}
    stored: dict[str, Stored] = {}
    for file in (*files[1:], files[0]):
        if kinds and (known := file.hash_whole(kinds)) is not None:
            sums[file.name] = known
        notes.completing(file.name, file.size)
        try:
            found = file.complete()
        except ExistsError as error:
            raise ExistsError(
                f"{join(place.address, file.name)}: was made by someone else meanwhile; "
                "run the backup again"
            ) from error
        notes.completed(found)
        if found.size != file.size:
            raise StorageError(
                f"{join(place.address, file.name)}: holds {found.size} bytes, {file.size} were "
                "sent; run the backup again"
            )
        stored[file.name] = found
    for file in files if kinds else ():
        if file.name not in sums:
            sums[file.name] = _digests(storage, stored[file.name], kinds, advance)
    written = _write_sums(storage, place.name, files, sums, kinds, notes) if kinds else []
    volumes = tuple(_volume(place, file, sums.get(file.name, {})) for file in files)
    sum_files = tuple(join(place.address, one.name) for one in written)
    return Published(place.path, volumes, sum_files)


def _write_sums(
    storage: Storage, name: str, files: Sequence[SentFile], sums: dict[str, dict[str, str]],
    kinds: Sequence[str], notes: Notes,
) -> list[Stored]:  # fmt: skip
    """Write the checksum files, or none."""
    written: list[Stored] = []
    for kind in kinds:
        lines = naming.sum_lines(kind, [(file.name, sums[file.name]) for file in files])
        since_ns = time.time_ns()
        own = f"{name}.{kind}"
        notes.completing(own, len(lines))
        try:
            written.append(storage.put(own, BytesBody(lines)))
            notes.completed(written[-1])
        except BaseException as error:
            with contextlib.suppress(StorageError):  # what can't be now stays noted
                found = None if isinstance(error, ExistsError) else storage.stat(own)
                if found is not None and may_be(found, len(lines), since_ns):
                    written.append(found)
                for one in {one.name: one for one in written}.values():
                    storage.delete(one.name, version=one.version)
            raise
    return written


def _volume(place: RemoteDestination, file: SentFile, sums: dict[str, str]) -> Volume:
    whole = file.whole_sha256 or sums.get("sha256")
    return Volume(
        uri=join(place.address, file.name), size=file.size, sha256=whole,
        parts=() if whole is not None else file.parts,
    )  # fmt: skip


def _digests(
    storage: Storage, file: Stored, kinds: Sequence[str], advance: Callable[[int], None]
) -> dict[str, str]:
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    at = 0
    while at < file.size:
        data = storage.read(file.name, at, _READ_BYTES, version=file.version)
        if not data:
            raise StorageError(f"{join(storage.address, file.name)}: ends early; run again")
        for digest in digests.values():
            digest.update(data)
        at += len(data)
        advance(len(data))
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
