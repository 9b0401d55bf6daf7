"""What a backup run is, before it has looked at any file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pybak import entries
from pybak.backup.batches import ZIP
from pybak.formats.streams import TAR_FORMATS
from pybak.options import BackupOptions

_NOT_IN_TAR: Final = frozenset({entries.SOCKET, entries.UNKNOWN})
_NOT_IN_ZIP: Final = _NOT_IN_TAR | {entries.FIFO, entries.CHAR_DEVICE, entries.BLOCK_DEVICE}


@dataclass(frozen=True)
class About:
    """What all parts of a run must know of it; `started_at` is aware, `split` in bytes."""

    run_id: str
    started_at: datetime
    job_given: str | None
    job: str
    """`job_given`, or what stands for it."""
    sources: tuple[str, ...]
    format: str
    options: BackupOptions
    is_encrypted: bool
    split: int | None

    @property
    def is_tar(self) -> bool:
        """Whether the format is one of tar."""
        return self.format in TAR_FORMATS

    @property
    def unsupported(self) -> frozenset[str]:
        """The kinds of entries that the format can't hold."""
        return _NOT_IN_TAR if self.is_tar else _NOT_IN_ZIP

    @property
    def is_wrapped(self) -> bool:
        """Whether the archive is put into an encrypted ZIP."""
        return self.is_encrypted and (self.options.hide_names or self.format != ZIP)

    @property
    def sum_kinds(self) -> list[str]:
        """The digests that get a file each."""
        return list(dict.fromkeys(self.options.checksum))

    @property
    def mtime_ns(self) -> int:
        """The time that wrappers give to what they hold, in whole seconds."""
        return int(self.started_at.timestamp()) * 1_000_000_000
