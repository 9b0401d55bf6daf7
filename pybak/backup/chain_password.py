"""See that a run goes on with a chain of archives as they were begun: same password, or none.

A restore of a snapshot opens all archives of its chain with one password, and whoever encrypts a
job wants no file of it in clear; docs/decisions/0027 has the rule. What is asked is the newest
archive that the run is compared with: of a ZIP the authentication code of its manifest, of a
wrapped archive that its end can be read. Both lie at the end, so this costs milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from pybak.backup.base import ArchiveFacts, Base
from pybak.backup.mode import Chosen
from pybak.display import printable
from pybak.errors import (
    ArchiveError,
    NotFoundError,
    PlanError,
    PyBakError,
    StorageError,
    WrongPasswordError,
)
from pybak.problems import STORAGE, Problem

_BEGIN = "or begin a chain with"
_MODE = "by --mode full"


def goes_on(chosen: Chosen, password: bytes | None, *, is_encrypted: bool) -> Chosen:
    """Give `chosen`; a full run where the newest archive of what it is compared with is unreadable.

    `is_encrypted` tells whether the run encrypts; without a `password` beside it, as in a dry run
    that has only a block's name, the archives are not opened. Raises WrongPasswordError for a
    password that does not open them and for none where they need one, and PlanError for one where
    they have none.
    """
    if chosen.base is None:
        return chosen
    problems = []
    for archive in _newest(chosen.base, chosen.newest):
        try:
            check_archive(archive, password, is_encrypted=is_encrypted)
        except WrongPasswordError:
            raise
        except (ArchiveError, StorageError, NotFoundError) as error:
            why = f"{error}; so everything is saved anew, and snapshots that need it are broken"
            problems.append(Problem(archive.name, STORAGE, why))
    if not problems:
        return chosen
    return Chosen(
        reasons=("the newest archive can't be read",), problems=tuple(problems),
        newest=chosen.newest or chosen.base,
    )  # fmt: skip


def check_waiting(base: Base, password: bytes | None, *, is_encrypted: bool) -> None:
    """Check what a full run that must wait is compared with instead. Raises as `goes_on`."""
    for archive in _newest(base):
        try:
            check_archive(archive, password, is_encrypted=is_encrypted)
        except WrongPasswordError:
            raise
        except (ArchiveError, StorageError, NotFoundError):
            continue  # the next full run tells


def check_archive(archive: ArchiveFacts, password: bytes | None, *, is_encrypted: bool) -> None:
    """Raise unless an archive was made as this run would make one.

    Raises as `goes_on`, and ArchiveError, NotFoundError or StorageError if it can't be read.
    """
    name = printable(archive.name)
    if not archive.encrypted:
        if is_encrypted:
            raise PlanError(
                f"{name}: the archives of this job are not encrypted, so a password would protect "
                f"new files alone; leave it out, {_BEGIN} it {_MODE}"
            )
        return
    if not is_encrypted:
        from pybak.formats.zip_aes import ADVICE

        raise WrongPasswordError(
            f"{name}: the archives of this job are encrypted, and new files would lie in clear; "
            f"{ADVICE}, {_BEGIN}out one {_MODE}"
        )
    if password is not None and not _opens(archive, password):
        raise WrongPasswordError(
            f"{name}: the archives of this job have another password; give that one, {_BEGIN} the "
            f"new one {_MODE}"
        )


def _newest(*bases: Base | None) -> Iterator[ArchiveFacts]:
    """Yield the newest archive of each snapshot, each once."""
    found = {}
    for base in bases:
        if base is not None and (archives := base.archives()):
            found[archives[-1].name] = archives[-1]
    yield from found.values()


def _opens(archive: ArchiveFacts, password: bytes) -> bool:
    """Whether the password is that of an archive, wherever it can be read."""
    trouble: PyBakError | None = None
    for volumes in archive.places:
        try:
            return _opens_files(volumes, password)
        except (ArchiveError, NotFoundError, StorageError) as error:
            trouble = trouble or error
    assert trouble is not None
    raise trouble


def _opens_files(volumes: Sequence[tuple[str, int]], password: bytes) -> bool:
    # Only encrypted runs need what reads archives.
    from pybak.formats.manifest import MEMBER_NAME
    from pybak.formats.opening import open_archive
    from pybak.formats.tar_reader import TarFile
    from pybak.formats.tar_tail import find_tail
    from pybak.formats.zip_reader import ZipFile

    paths = [os.fsencode(path) for path, _ in volumes]
    try:
        with open_archive(paths, password=password) as opened:
            if isinstance(opened, ZipFile):
                opened.check_password(opened.directory(names={MEMBER_NAME}))
            elif isinstance(opened, TarFile) and not find_tail(opened.source, opened.compression):
                raise ArchiveError(f"{opened.label}: its end can't be read")
    except WrongPasswordError:
        return False
    return True
