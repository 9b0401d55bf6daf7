"""From a member's name to a path below the target.

Absolute names become relative, empty and `.` components vanish. A name that climbs (`..`, also
between backslashes) or holds a NUL byte is refused: nothing that an archive says can lead outside
of the target. Backslashes and colons are ordinary characters of a name; the reader has already
turned DOS paths into POSIX ones.
"""

from __future__ import annotations

import re
import unicodedata

_CLOSER_LOOK = (b"", b"/", b".")
_SEPARATORS = re.compile(rb"[/\\]")


class UnsafeName(ValueError):  # noqa: N818 - says what the name is
    """A member's name that can't be restored; the text says why."""


def safe_name(name: bytes) -> bytes:
    """Give the path of a member below the target, without slashes at either end.

    Empty for a name that stands for the target itself (`/`, `.`). Raises UnsafeName.
    """
    if not (
        b".." in name or b"//" in name or b"/." in name or b"\0" in name
        or name[:1] in _CLOSER_LOOK or name[-1:] in _CLOSER_LOOK
    ):  # fmt: skip
        return name  # nearly all, at a tenth of the time
    if b"\0" in name:
        raise UnsafeName("holds a NUL byte")
    if b".." in _SEPARATORS.split(name):
        raise UnsafeName("climbs out by `..`")
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


def folded(name: bytes) -> str:
    """Give what a file system that ignores case takes this name for."""
    text = name.decode("utf-8", "surrogateescape")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.casefold()
