"""Stretches for workers on other hosts, who see the sources and the storage, but not this disk.

A parcel has all that a worker needs besides the sources. What comes back is the stretch's record;
the few bytes that the archive's own process must have go through the storage, in files with hidden
names that are deleted when they are fetched. Each try at a stretch has names of its own: two
workers may do one, and only one's record counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from pybak import staging
from pybak.backup.batches import batch_path, job_path, read_job
from pybak.backup.compress import compress_batches
from pybak.backup.hands import Hand
from pybak.backup.output import Extent
from pybak.backup.packing import Advance
from pybak.backup.read_source import Read
from pybak.backup.stretches import StretchRecord, Target, read_record, record_path
from pybak.errors import Interrupted, NotFoundError, StorageError
from pybak.home import home
from pybak.staging import WorkFolder, remove_leftovers
from pybak.storage import naming
from pybak.storage.body import ExtentsBody
from pybak.storage.opening import forget_storages, open_storage
from pybak.storage.protocol import Storage

_FILES: Final = ("stretches.plan", "stretches.target", "password-check")
_FOLDERS: Final = ("batches", "segments", "progress", "stretches")
_INLINE_BYTES: Final = 64 << 10


class Parcel(msgspec.Struct, frozen=True):
    """What a worker needs: small files of the staging folder, by name, and what to do.

    `hidden` is what the names of its files in the storage begin with.
    """

    hidden: str
    start: int
    stop: int
    files: dict[str, bytes]


class Kept(msgspec.Struct, frozen=True):
    """Bytes for the archive's own process: at hand, or in the file `name` of the storage."""

    size: int
    sha256: str
    data: bytes = b""
    name: str = ""


class Returned(msgspec.Struct, frozen=True):
    """A record whose `held` and `tail` were taken out, so that they can travel."""

    record: StretchRecord
    held: list[Kept]
    tail: list[Kept]


def pack_parcel(folder: Path, hand: Hand, hidden: str) -> bytes:
    """Give the parcel of the stretch that is `hand`. Raises OSError."""
    parts = read_job(folder).parts
    paths = [batch_path(folder, number, parts) for number in hand.batches()]
    paths += [job_path(folder), *(folder / name for name in _FILES)]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.exists()}
    return msgspec.msgpack.encode(Parcel(hidden, hand.start, hand.stop, files))


def compress_parcel(
    parcel: bytes,
    *,
    password: bytes | None = None,
    advance: Advance = lambda _files, _bytes, _path: None,
    read: Read = os.pread,
    place: Path | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> bytes:
    """Compress and send a stretch, in a folder of this host's own; give what `take_in` wants.

    `place` is where that folder is made; without it, in PYBAK_HOME. `is_wanted` tells, at the end,
    whether the run still waits for this worker. Raises what `compress_batches` does, and
    Interrupted if it does not.
    """
    forget_storages()  # this process may be older than what the block says
    given = msgspec.msgpack.decode(parcel, type=Parcel)
    parent = place or home() / "staging"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_leftovers(parent)
        work = WorkFolder.create(parent, str(uuid.uuid4()))
    except OSError as error:
        raise StorageError(
            f"{parent}: {staging.reason(error)}; PYBAK_HOME of this worker must be writable"
        ) from error
    try:
        for name in _FOLDERS:
            work.subfolder(name)
        for name, data in given.files.items():
            (work.path / name).write_bytes(data)
        compress_batches(
            work.path, range(given.start, given.stop), password=password, advance=advance, read=read
        )
        if not is_wanted():  # nobody would delete what is put into the storage now
            raise Interrupted("the run goes on without this worker")
        return _returned(work.path, given)
    except OSError as error:
        raise StorageError(
            f"{parent}: {staging.reason(error)}; free some space on this worker"
        ) from error
    finally:
        work.remove()


def _returned(folder: Path, parcel: Parcel) -> bytes:
    record = read_record(folder, parcel.start)
    target = msgspec.msgpack.decode(parcel.files["stretches.target"], type=Target)
    storage = open_storage(target.address)
    held = list(_keep(storage, record.held, parcel, "held"))
    tail = list(_keep(storage, record.tail, parcel, "tail"))
    bare = msgspec.structs.replace(record, held=[], tail=[])
    return msgspec.msgpack.encode(Returned(bare, held, tail))


def _keep(storage: Storage, extents: list[Extent], parcel: Parcel, kind: str) -> Iterator[Kept]:
    for number, extent in enumerate(extents):
        body = ExtentsBody([extent])
        if extent.size <= _INLINE_BYTES:
            with body.open() as source:
                yield Kept(extent.size, body.sha256, source.read())
            continue
        own = naming.hidden(parcel.hidden, parcel.start, kind, number, os.urandom(4).hex())
        storage.put(own, body, temporary=True)
        yield Kept(extent.size, body.sha256, name=own)


def take_in(folder: Path, start: int, returned: bytes, storage: Storage) -> None:
    """Put what a worker has returned where the archive's own process looks for it.

    Raises StorageError where the bytes that it left in the storage are not what they were.
    """
    given = msgspec.msgpack.decode(returned, type=Returned)
    held = [_fetch(folder, one, storage) for one in given.held]
    tail = [_fetch(folder, one, storage) for one in given.tail]
    record = msgspec.structs.replace(given.record, held=held, tail=tail)
    staging.write_once(record_path(folder, start), msgspec.msgpack.encode(record))


def _fetch(folder: Path, kept: Kept, storage: Storage) -> Extent:
    data = kept.data
    if kept.name:
        try:
            data = storage.read(kept.name, 0, kept.size)
        except NotFoundError as error:
            raise StorageError(
                f"{storage.address}/{kept.name}: was deleted before it was used; start again"
            ) from error
    if hashlib.sha256(data).hexdigest() != kept.sha256:
        raise StorageError(f"{storage.address}/{kept.name}: holds other bytes than were sent")
    path = folder / "segments" / f"kept.{os.urandom(8).hex()}"
    path.write_bytes(data)
    if kept.name:
        with contextlib.suppress(StorageError):  # all are deleted at the end
            storage.delete(kept.name)
    return Extent(len(data), os.fsencode(path))
