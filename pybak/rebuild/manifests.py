"""The manifest of an archive, taken out and kept as it is until the catalog is written.

What it says is checked as far as it can be without the contents: its own CRC, the count of its
lines, and where a password protects it, the authentication codes of all that is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pybak.entries import FOLDER
from pybak.errors import ArchiveError, StorageError, WrongPasswordError
from pybak.formats.manifest_facts import Head
from pybak.formats.manifest_reader import Stream
from pybak.formats.opening import open_archive
from pybak.formats.tar_reader import TarFile
from pybak.formats.zip_aes import ADVICE
from pybak.formats.zip_directory import METHOD_AES
from pybak.formats.zip_reader import ZipFile
from pybak.report.status import PARTIAL, SUCCESS
from pybak.restore.authentic import wrapped_volumes
from pybak.staging import reason
from pybak.volumes.find import VolumeSet

if TYPE_CHECKING:
    from pybak.formats.archive import Archive

_READ_BYTES = 1 << 20
_FULL = "full"
# As `pybak.storage.local.default_name` names archives.
_OWN_NAME = re.compile(r"_\d{8}_\d{6}(_\d+)?\.(zip|tar(\.(gz|bz2|zst))?)(\.zip)?$")


class NotOursError(ArchiveError):
    """What was looked at is no archive that PyBak made."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of ours, and a copy of its manifest.

    `created` is aware, `size` counts the bytes of all files. `status` and `counts` are how its run
    ended, `members` counts what it holds, `errors` is what the run could not save. `copies` are
    the same archive in other places, `replaced` archives of the same run whose place this one took
    and whose removal was not completed.
    """

    volumes: VolumeSet
    head: Head
    created: datetime
    encrypted: bool
    size: int
    manifest: Path
    members: int
    status: str
    counts: dict[str, int]
    errors: list[tuple[str, str, str]]
    copies: tuple[Found, ...] = ()
    replaced: tuple[Found, ...] = ()

    @property
    def name(self) -> str:
        """What people name to get the archive back."""
        return os.fsdecode(self.volumes.base)

    @property
    def is_full(self) -> bool:
        """Whether its snapshot is all in this archive."""
        return self.head.mode in ("", _FULL)

    @property
    def full_run(self) -> str | None:
        """The full run that its chain begins with: itself if it is one."""
        return self.head.run_id if self.is_full else self.head.full_run

    @property
    def folder(self) -> bytes:
        """Where it lies."""
        return os.path.dirname(self.volumes.paths[0])

    @property
    def paths(self) -> tuple[bytes, ...]:
        """All of its files, and those of its copies and of what it took the place of."""
        own = tuple(path for one in (self, *self.copies) for path in one.volumes.paths)
        return own + tuple(path for one in self.replaced for path in one.paths)


def take_manifest(volumes: VolumeSet, password: bytes | None, copy: Path) -> Found:
    """Read the manifest of an archive and keep it in the file `copy`.

    Raises NotOursError for what has none, WrongPasswordError if it can't be read without another
    password, ArchiveError if it is damaged, StorageError if it can't be read or written.
    """
    with _opened(volumes, password) as archive:
        content, is_protected = _content(archive, has_password=password is not None)
        try:
            with copy.open("wb") as out:
                out.writelines(content)
            return _read(
                volumes, copy, archive.label,
                encrypted=is_protected or bool(wrapped_volumes(archive.source)),
                size=sum(one.size for one in archive.identity),
            )  # fmt: skip
        except OSError as error:
            message = f"{copy.parent}: {reason(error)}; free some space for temporary files"
            raise StorageError(message) from error


def _opened(volumes: VolumeSet, password: bytes | None) -> Archive:
    try:
        return open_archive(volumes.paths, password=password)
    except WrongPasswordError:
        raise
    except ArchiveError as error:
        if _looks_like_ours(volumes):
            raise
        raise NotOursError(str(error)) from error


def _looks_like_ours(volumes: VolumeSet) -> bool:
    """Whether something that can't be opened is called like an archive."""
    from pybak.formats.suffixes import format_of_name

    return format_of_name(os.fsdecode(volumes.base)) is not None


def _content(archive: Archive, *, has_password: bool) -> tuple[Iterable[bytes], bool]:
    """Give the packed manifest, and whether the password protects it."""
    if isinstance(archive, ZipFile):
        return _of_zip(archive, has_password=has_password)
    if isinstance(archive, TarFile):
        from pybak.formats.tar_tail import ManifestContent, find_tail

        tail = find_tail(archive.source, archive.compression)
        if tail is not None:
            return ManifestContent(archive.source, archive.compression, tail), False
    raise _without_manifest(archive.label)


def _of_zip(archive: ZipFile, *, has_password: bool) -> tuple[Iterable[bytes], bool]:
    from pybak.formats.zip_listing import find_manifest

    directory = archive.directory()
    index = find_manifest(directory)
    if index is None:
        raise _without_manifest(archive.label)
    member = directory.members[index]
    is_protected = member.method == METHOD_AES
    if is_protected and not has_password:
        raise WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")
    if not is_protected and any(one.method == METHOD_AES for one in directory.members):
        raise ArchiveError(
            f"{archive.label}: the manifest is not protected by the password as the rest is; it "
            "was tampered with"
        )
    return archive.chunks(member, directory.limits[index]), is_protected


def _without_manifest(label: str) -> ArchiveError:
    if _OWN_NAME.search(label):
        return ArchiveError(f"{label}: its manifest is not where it should be; its end is cut off")
    return NotOursError(
        f"{label}: holds no manifest: another program made it, or its end is cut off"
    )


def _read(volumes: VolumeSet, copy: Path, label: str, *, encrypted: bool, size: int) -> Found:
    """Read a manifest through once, for what its last line says."""
    try:
        with copy.open("rb") as file:
            stream = Stream(_blocks(file), copy.stat().st_size)
            errors: list[tuple[str, str, str]] = []
            files = 0
            has_changed = False
            for line in stream.lines():
                errors += line.errors or ()
                has_changed = has_changed or line.changed
                files += line.path is not None and line.type != FOLDER
            head = stream.head
            created = datetime.fromisoformat(head.created)
    except (ValueError, OverflowError) as error:
        message = f"{label}: the manifest has no time of the run; it is damaged"
        raise ArchiveError(message) from error
    except ArchiveError as error:
        raise ArchiveError(f"{label}: {error}") from error
    if not head.run_id or not head.job:
        raise ArchiveError(f"{label}: the manifest does not name its run; it is damaged")
    # Version 1 tells neither, and of errors only what shows at the files themselves.
    status = stream.status or (PARTIAL if has_changed else SUCCESS)
    counts = dict(stream.counts) or {"total": files, "new": files}
    return Found(
        volumes=volumes, head=head, created=created if created.tzinfo else _in_utc(created),
        encrypted=encrypted, size=size, manifest=copy, members=stream.members, status=status,
        counts=counts, errors=errors,
    )  # fmt: skip


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _blocks(file: object) -> Iterator[bytes]:
    while block := file.read(_READ_BYTES):  # type: ignore[attr-defined]
        yield block
