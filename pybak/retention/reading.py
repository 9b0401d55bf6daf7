"""The archives of a chain opened to be copied from, whatever they are wrapped in or cut into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pybak.catalog.facts import ArchiveFacts
from pybak.errors import ArchiveError, WrongPasswordError
from pybak.formats.archive import Archive
from pybak.formats.manifest import MEMBER_NAME
from pybak.formats.manifest_reader import Stream
from pybak.formats.opening import open_archive
from pybak.formats.tar_reader import TarFile
from pybak.formats.tar_tail import ManifestContent, find_tail
from pybak.formats.zip_aes import ADVICE
from pybak.formats.zip_directory import METHOD_AES
from pybak.formats.zip_listing import find_manifest
from pybak.formats.zip_reader import ZipFile
from pybak.portable import from_portable
from pybak.resources import usable_cpus
from pybak.restore.authentic import authenticate, wrapped_volumes

Stop = Callable[[], None]
"""Raises Interrupted when the run is to stop."""


def paths_of(archive: ArchiveFacts) -> list[bytes]:
    """Give the files of an archive, in order."""
    return [os.fsencode(from_portable(volume.uri)) for volume in archive.volumes]


@contextmanager
def opened(archive: ArchiveFacts, password: bytes | None, stop_if_asked: Stop) -> Iterator[Archive]:
    """Open an archive; what it is wrapped in is authenticated, in a pass over all of it.

    Raises as `open_archive` does, and ArchiveError for what is of another format than it was.
    """

    def should_stop() -> bool:
        stop_if_asked()
        return False

    with open_archive(paths_of(archive), password=password) as found:
        if found.format != archive.format:
            raise ArchiveError(
                f"{found.label}: is {found.format}, and {archive.format} was written; "
                "check it with verify"
            )
        volumes = wrapped_volumes(found.source)
        authenticate(volumes, workers=usable_cpus(), should_stop=should_stop)
        yield found


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Have errors about what is in an archive name it."""
    try:
        yield
    except WrongPasswordError:
        raise
    except ArchiveError as error:
        if str(error).startswith(label):
            raise
        raise ArchiveError(f"{label}: {error}") from error


def manifest_of(archive: Archive) -> Stream:
    """Give an archive's manifest, to be read from its start; raises ArchiveError if damaged.

    Raises WrongPasswordError if it is encrypted and can't be read.
    """
    content, size = _packed(archive)
    with naming(archive.label):
        return Stream(content, size)


def _packed(archive: Archive) -> tuple[Iterable[bytes], int]:
    if isinstance(archive, ZipFile):
        directory = archive.directory(names={MEMBER_NAME})
        index = find_manifest(directory)
        if index is not None:
            member, limit = directory.members[index], directory.limits[index]
            if archive.is_locked(member):
                raise WrongPasswordError(f"{archive.label}: is encrypted; {ADVICE}")
            archive.authenticate(member, limit)
            return archive.chunks(member, limit), member.size
    elif isinstance(archive, TarFile):
        tail = find_tail(archive.source, archive.compression)
        if tail is not None:
            content = ManifestContent(archive.source, archive.compression, tail)
            return content, tail.footer.content_size
    raise ArchiveError(
        f"{archive.label}: its manifest is not where it should be, so it can't be consolidated; "
        "check it with verify"
    )


def has_secret_members(archive: Archive) -> bool:
    """Whether the members themselves are encrypted, as in an AES-256 ZIP archive."""
    if not isinstance(archive, ZipFile):
        return False
    directory = archive.directory(names={MEMBER_NAME})
    index = find_manifest(directory)
    return index is not None and directory.members[index].method == METHOD_AES


def opens_secret(archive: ArchiveFacts, password: bytes | None) -> bool:
    """Try a password on an archive; give whether its members themselves are encrypted.

    Raises WrongPasswordError if it does not fit, and as `open_archive` does.
    """
    with open_archive(paths_of(archive), password=password) as found:
        if isinstance(found, ZipFile):
            found.check_password(found.directory(names={MEMBER_NAME}))
        return has_secret_members(found)
