"""What a reader of archives can do, whatever the format, and how far an archive is trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec

from pybak.errors import ArchiveError
from pybak.formats.source import Identity, Source
from pybak.units import format_size

if TYPE_CHECKING:
    from pybak.formats.listing import Listed, Listing, Locator
    from pybak.formats.tar_index import PieceIndex

CHUNK: Final = 1 << 20
"""The most bytes that a chunk of a member holds."""
ONE_SHOT: Final = CHUNK
"""Members up to this size, stored and unpacked, are read in one piece."""

MAX_ID: Final = 0xFFFFFFFE
"""The largest user or group id; one more means "leave it as it is" to the system."""


class Limits(msgspec.Struct, frozen=True):
    """What an archive may unpack to before it is taken for a bomb.

    An archive that unpacks to no more than `free_size` bytes is never refused for its ratio.
    """

    members: int = 20_000_000
    ratio: float = 250.0
    free_size: int = 16 << 30


class TooLargeError(ArchiveError):
    """An archive would unpack to more than is allowed, so it is not read."""


class Attributes(msgspec.Struct, frozen=True):
    """What a member carries beside its content: extended attributes by name, as stored.

    ACLs are the attributes system.posix_acl_access and system.posix_acl_default. `problems` say
    what could not be understood, such as an ACL for users who are not known here.
    """

    xattrs: dict[bytes, bytes] = {}
    problems: tuple[str, ...] = ()


class Archive(Protocol):
    """An open archive. A context manager.

    `format` is zip, tar, tar.gz, tar.bz2, tar.zst, gz, bz2 or zst.
    Whatever is wrong with the bytes ends in ArchiveError, whatever is wrong with reading them in
    StorageError. One reader is for one thread at a time.
    """

    @property
    def label(self) -> str:
        """What messages call it."""

    @property
    def format(self) -> str:
        """Its format, as above."""

    @property
    def source(self) -> Source:
        """The bytes of it."""

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What each file behind it looked like when it was opened."""

    @property
    def index(self) -> PieceIndex | None:
        """Where reading can start, once `listing` found it out; None where locators suffice.

        Handed to `open_archive`, it spares the reader of a batch to find it out again.
        """

    def listing(self, limits: Limits, names: AbstractSet[bytes] | None = None) -> Listing:
        """Read what the archive holds; raise ArchiveError if that can't be told at all.

        With `names`, members called otherwise may be left out, to be quick; those that are called
        so come with all that they need: what a hard link stands for is listed as well.
        """

    def read(self, locator: Locator, limit: int) -> bytes:
        """Give the whole content of a member of at most ONE_SHOT bytes, checked."""

    def chunks(self, locator: Locator, limit: int) -> Iterator[bytes]:
        """Yield a member's content in pieces of at most CHUNK bytes, never more than declared.

        Of a sparse member only the runs of data. Some checks come after the last piece, so what
        was yielded counts only when the iterator ends.
        """

    def attributes(self, locator: Locator) -> Attributes:
        """Give a member's extended attributes and ACLs; none where the format has no place."""

    def owner(self, locator: Locator) -> tuple[int, int] | None:
        """Give (uid, gid) where only the member itself tells them, else None."""

    def again(self) -> bool:
        """Have what is read from now on be fetched anew, for bytes are damaged on their way, too.

        False where nothing else could come of it.
        """

    def finish(self) -> list[str]:
        """Check what was begun, at the end of a batch; say what is damaged beside contents.

        Each text names the archive. A damaged piece may have left no trace in the members that
        were read, and its CRC-32 be wrong all the same.
        """

    def check_limits(self, members: Sequence[Listed], limits: Limits) -> None:
        """Raise ArchiveError if `members` would unpack to far more than the archive's size."""

    def close(self) -> None:
        """Let go of the files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_ratio(source: Source, total: int, limits: Limits) -> None:
    """Raise ArchiveError if `total` bytes are far more than what the archive's size explains."""
    check_sizes(source.label, source.size, total, limits)


def check_sizes(label: str, size: int, total: int, limits: Limits) -> None:
    """Do the same for archives of `size` bytes in all, which messages call `label`."""
    if total > limits.free_size and total > size * limits.ratio:
        raise TooLargeError(
            f"{label}: would unpack to {format_size(total)}, "
            f"{total / max(size, 1):.0f} times its size, like a bomb; "
            "if you trust it, raise --max-ratio"
        )
