"""The bytes of a stored archive, described: where each volume lies and what it hashes to."""

from __future__ import annotations

from typing import Any

import msgspec


class VolumePart(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a volume's bytes that was hashed by itself; parts follow each other."""

    size: int
    sha256: str


class Volume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stored piece of an archive, with the SHA-256 (hex) of the whole or of its parts."""

    uri: str
    size: int
    sha256: str | None = None
    parts: tuple[VolumePart, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the object of the contract: uri, size, and sha256 or parts."""
        value: dict[str, Any] = {"uri": self.uri, "size": self.size}
        if self.sha256 is not None:
            return value | {"sha256": self.sha256}
        return value | {"parts": [msgspec.structs.asdict(part) for part in self.parts]}
