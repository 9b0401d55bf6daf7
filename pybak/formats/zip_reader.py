"""ZIP archives read back: an open archive, its directory and its members.

The directory at the end decides what an archive holds (`zip_directory`); each local header must
agree with it (`zip_members`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pybak.errors import ArchiveError
from pybak.formats.archive import Attributes, Limits, check_ratio
from pybak.formats.source import FileSource, Identity, Source
from pybak.formats.zip_aes import check_password
from pybak.formats.zip_directory import METHOD_AES, Directory, Member, read_directory
from pybak.formats.zip_members import DEFLATE_RATIO, DEFLATE_SLOP, MemberReader

if TYPE_CHECKING:
    from pybak.formats.listing import Listed, Listing, Locator

_FORMAT: Final = "zip"


class ZipFile:
    """An open archive: reads its directory and its members. A context manager.

    Threads may share one; every read names its own position. Closing it closes the source.
    """

    def __init__(self, source: Source, *, password: bytes | None = None) -> None:
        self.source = source
        self.label = source.label
        self.format = _FORMAT
        self._password = password
        self._members = MemberReader(source, password)

    @classmethod
    def from_path(
        cls, path: bytes | int, *, label: str | None = None, password: bytes | None = None
    ) -> Self:
        """Open the file `path`; raises as FileSource does."""
        return cls(FileSource(path, label=label), password=password)

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What each file behind it looked like when it was opened."""
        return self.source.identity

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return self.source.size

    def close(self) -> None:
        """Let go of the files."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def directory(
        self, *, max_members: int = Limits().members, names: AbstractSet[bytes] | None = None
    ) -> Directory:
        """Read the central directory; see `read_directory`."""
        return read_directory(self.source, max_members=max_members, names=names)

    @property
    def has_password(self) -> bool:
        """Whether a password was given."""
        return self._password is not None

    def check_password(self, directory: Directory) -> None:
        """Raise WrongPasswordError for a wrong password, or none where one is needed."""
        check_password(self._members, directory, self.label)

    def listing(self, limits: Limits, names: AbstractSet[bytes] | None = None) -> Listing:
        """Compare the directory with the manifest and give what both tell; see `list_zip`."""
        from pybak.formats.zip_listing import list_zip

        try:
            found = list_zip(self, limits, names)
        except ArchiveError:
            if not self.again():
                raise
            return list_zip(self, limits, names)
        return list_zip(self, limits, names) if found.problems and self.again() else found

    @property
    def index(self) -> None:
        """Nothing: the locators alone tell where members lie."""
        return

    def has_header(self, member: Member, limit: int) -> bool:
        """Whether a member's local header is where the directory says, and agrees with it."""
        return self._members.has_header(member, limit)

    def refusal(self, member: Member) -> str | None:
        """Say why a member's data can't be unpacked, or None if it can."""
        return self._members.refusal(member)

    def is_locked(self, member: Member) -> bool:
        """Whether a member's data needs a password that would open it, and none was given."""
        return self._password is None and member.method == METHOD_AES

    def read(self, locator: Locator, limit: int) -> bytes:
        """Give the whole data of a member that is no larger than ONE_SHOT, checked.

        `limit` is the member's entry in `Directory.limits`. Raises ArchiveError if anything is
        wrong with it.
        """
        return self._members.read(_member(locator), limit)

    def chunks(self, locator: Locator, limit: int) -> Iterator[bytes]:
        """Yield a member's data in pieces of at most CHUNK bytes, never more than declared.

        The checks of size and CRC-32 come after the last piece, so what was yielded counts only
        when the iterator ends. Raises ArchiveError as `read` does.
        """
        return self._members.chunks(_member(locator), limit)

    def authenticate(self, locator: Locator, limit: int) -> None:
        """Check an encrypted member's authentication code in a pass of its own.

        `chunks` yields large members before it has checked theirs. Does nothing for members that
        are not encrypted; raises as `read` does.
        """
        self._members.authenticate(_member(locator), limit)

    def attributes(self, locator: Locator) -> Attributes:  # noqa: ARG002 - an Archive's signature
        """Give nothing: ZIP has no place for extended attributes."""
        return Attributes()

    def owner(self, locator: Locator) -> tuple[int, int] | None:
        """Give (uid, gid) from the local header's field 0x7875, or None without a usable one."""
        return self._members.owner(_member(locator))

    def again(self) -> bool:
        """Have what is read from now on be fetched anew; False where it is not fetched at all."""
        return self.source.forget()

    def finish(self) -> list[str]:
        """Give nothing: what is wrong is a member's."""
        return []

    def check_limits(self, members: Sequence[Listed], limits: Limits) -> None:
        """Raise ArchiveError if `members` would unpack to far more than the archive's size."""
        # What can't be true does not count: such members are refused one by one.
        total = sum(
            min(one.locator.size, one.locator.stored_size * DEFLATE_RATIO + DEFLATE_SLOP)
            for one in members
        )
        check_ratio(self.source, total, limits)


def _member(locator: Locator) -> Member:
    if not isinstance(locator, Member):
        raise TypeError("no locator of a ZIP archive")
    return locator
