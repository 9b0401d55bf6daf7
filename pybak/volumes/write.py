"""Cut a finished archive into volumes, and write these side by side, each in one pass.

What is cut is a layout (`pybak.backup.output.ArchiveLayout`): runs of segment files and of bytes
at hand. A volume is written from its runs, encrypted on the way if it is to be wrapped
(`pybak.formats.wrapper`), and hashed. Writing one again, even at the same time, is harmless: what
was written first stays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pybak import staging
from pybak.backup.check_password import check_password
from pybak.backup.output import Extent
from pybak.direct import DirectBuffer, DirectFile
from pybak.errors import Interrupted, PlanError, StorageError
from pybak.formats.wrapper import largest_inner_size, wrap
from pybak.volumes.model import VolumePart

WRAPPED_SUFFIX: Final = ".zip"
LEAST_SPLIT: Final = 64 << 10
"""Smaller volumes hold less than what they cost."""
WHOLE_DIGEST: Final = "sha256"
_READ_BYTES: Final = 1 << 20
_LONGEST_NUMBER: Final = 9

Advance = Callable[[int, int], None]
"""Called with the volumes finished and the bytes written since the last call."""


class VolumePlan(msgspec.Struct, frozen=True):
    """A volume to be written: what its name ends with, and its bytes before they are wrapped.

    `inner_name` names these in the wrapper; it is empty without one.
    """

    suffix: str
    size: int
    extents: list[Extent]
    inner_name: bytes = b""
    mtime_ns: int = 0


class FinishedVolume(msgspec.Struct, frozen=True):
    """A volume under its temporary name. `sums` has digests in hex, of the whole file, by kind.

    Without `sha256` among them, `parts` have digests that cover every byte of it in order.
    """

    file: bytes
    suffix: str
    size: int
    sums: dict[str, str]
    parts: tuple[VolumePart, ...] = ()

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(os.fsdecode(self.file))


def payload(split: int | None, name: str, *, wrapped: bool, mtime_ns: int) -> int | None:
    """Give how many of an archive's bytes go into a volume of at most `split` bytes.

    Raises PlanError if that is too few.
    """
    if split is None:
        return None
    if split < LEAST_SPLIT:
        raise PlanError(f"--split: a volume needs {LEAST_SPLIT >> 10} KiB or more")
    if wrapped:
        longest = os.fsencode(f"{name}.{'0' * _LONGEST_NUMBER}")
        return largest_inner_size(longest, split, mtime_ns=mtime_ns)
    return split


def suffixes(size: int, payload_bytes: int | None, *, wrapped: bool) -> list[str]:
    """Give what the volumes' names end with: `.001`, `.002` and so on, with `.zip` if wrapped."""
    if payload_bytes is None:
        return [suffix_of(None, wrapped=wrapped)]
    count = max(1, -(-size // payload_bytes))
    return [suffix_of(number, wrapped=wrapped) for number in range(count)]


def suffix_of(number: int | None, *, wrapped: bool) -> str:
    """Give what the name of volume `number`, counted from 0, ends with; None: there is just one."""
    end = WRAPPED_SUFFIX if wrapped else ""
    return end if number is None else f".{number + 1:03d}{end}"


def plan_volumes(
    folder: Path,
    extents: Sequence[Extent],
    *,
    size: int,
    payload_bytes: int | None,
    wrapped: bool,
    name: str,
    mtime_ns: int,
) -> list[str]:
    """Write the plan of each volume into `folder`; give their suffixes.

    `extents` are `size` bytes in all; `name` is the archive's.
    """
    names = suffixes(size, payload_bytes, wrapped=wrapped)
    plans_folder = folder / "volumes"
    plans_folder.mkdir(exist_ok=True)
    (plans_folder / "progress").mkdir(exist_ok=True)
    cuts = _cut(extents, payload_bytes or size)
    for number, suffix in enumerate(names):
        own = next(cuts, [])
        inner = os.fsencode(name + suffix.removesuffix(WRAPPED_SUFFIX)) if wrapped else b""
        plan = VolumePlan(suffix, sum(extent.size for extent in own), own, inner, mtime_ns)
        _plan_path(folder, number).write_bytes(msgspec.msgpack.encode(plan))
    return names


def _plan_path(folder: Path, number: int) -> Path:
    return folder / "volumes" / f"{number:07d}.plan"


def _cut(extents: Sequence[Extent], length: int) -> Iterator[list[Extent]]:
    """Cut a run of extents every `length` bytes."""
    group: list[Extent] = []
    room = length
    for extent in extents:
        at = 0
        while at < extent.size:
            taken = min(room, extent.size - at)
            data = extent.data[at : at + taken]
            group.append(Extent(taken, extent.path, extent.offset + at, data))
            at, room = at + taken, room - taken
            if not room:
                yield group
                group, room = [], length
    if group:
        yield group


def write_volumes(
    folder: Path,
    numbers: Iterable[int],
    *,
    target: Path,
    password: bytes | None = None,
    kinds: Sequence[str] = (),
    threads: int = 1,
    advance: Advance = lambda _volumes, _bytes: None,
) -> int:
    """Write the volumes `numbers` of the plans in `folder` into the folder `target`; count them.

    Each is hashed by SHA-256 and what else `kinds` names; see `read_finished`. `password` is
    needed if they are wrapped, and must be the run's; `threads` encrypt each. Raises PlanError if
    it is not, StorageError, and Interrupted once a cancel was requested.
    """
    done, buffer = 0, DirectBuffer()
    for number in numbers:
        record = _done_path(folder, number)
        if not record.exists():
            try:
                volume = _write(folder, number, target, password, kinds, threads, advance, buffer)
                if not staging.write_once(record, msgspec.msgpack.encode(volume)):
                    # Encrypted twice it is not the same: the digests are the other one's.
                    volume.path.unlink()
            except OSError as error:
                raise StorageError(
                    f"{target.parent}: {staging.reason(error)}; free some space or choose another "
                    "destination"
                ) from error
        done += 1
        advance(1, 0)
    return done


def read_finished(folder: Path, count: int) -> list[FinishedVolume]:
    """Give what `write_volumes` made of the first `count` plans in `folder`."""
    return [
        msgspec.msgpack.decode(_done_path(folder, number).read_bytes(), type=FinishedVolume)
        for number in range(count)
    ]


def _done_path(folder: Path, number: int) -> Path:
    return folder / "volumes" / f"{number:07d}.done"


def _write(
    folder: Path,
    number: int,
    target: Path,
    password: bytes | None,
    kinds: Sequence[str],
    threads: int,
    advance: Advance,
    buffer: DirectBuffer,
) -> FinishedVolume:
    plan = msgspec.msgpack.decode(_plan_path(folder, number).read_bytes(), type=VolumePlan)
    path = target / f"volume-{number:07d}.{os.urandom(8).hex()}"
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in {WHOLE_DIGEST, *kinds}}
    size = 0
    try:
        with open(path, "xb", buffering=0, opener=_private) as out:
            file = DirectFile(out.fileno(), buffer)
            for block in _blocks(folder, plan, password, threads):
                _stop_if_asked(folder)
                for digest in digests.values():
                    digest.update(block)
                file.append(block)
                size += len(block)
                advance(0, len(block))
            file.finish()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sums = {kind: digest.hexdigest() for kind, digest in digests.items()}
    return FinishedVolume(os.fsencode(path), plan.suffix, size, sums)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _stop_if_asked(folder: Path) -> None:
    if staging.is_cancelled(folder):
        raise Interrupted("stopped on request")


def _blocks(
    folder: Path, plan: VolumePlan, password: bytes | None, threads: int
) -> Iterator[bytes]:
    """Yield a volume's bytes. Raises PlanError for a missing or another password."""
    content = _contents(plan.extents)
    if not plan.inner_name:
        return content
    own = check_password(folder, password)
    return wrap(plan.inner_name, plan.size, content, own, mtime_ns=plan.mtime_ns, threads=threads)


def _contents(extents: Sequence[Extent]) -> Iterator[bytes]:
    for extent in extents:
        if extent.data:
            yield extent.data
            continue
        with open(extent.path, "rb") as source:
            left, at = extent.size, extent.offset
            while left:
                block = os.pread(source.fileno(), min(left, _READ_BYTES), at)
                if not block:
                    raise OSError(f"a segment ends {left} bytes early")
                yield block
                left, at = left - len(block), at + len(block)


def digests_of(path: Path, kinds: Sequence[str]) -> dict[str, str]:
    """Hash a whole file by each of `kinds`; give the digests in hex. Raises OSError."""
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
