"""Extended attributes and ACLs as records of a tar's extended headers.

After star(5) for the keywords `SCHILY.*`, and libarchive for its own.
"""

from __future__ import annotations

from base64 import b64decode
from urllib.parse import unquote_to_bytes

from pybak.errors import ArchiveError
from pybak.formats.tar_records import ACL_KEYWORDS, XATTR_KEYWORD, xattr_name

_ACLS = {keyword: name for name, keyword in ACL_KEYWORDS.items()}
_LIBARCHIVE = b"LIBARCHIVE.xattr."


def is_attribute(key: bytes) -> bool:
    """Whether a record of an extended header is an extended attribute or an ACL."""
    return key.startswith((XATTR_KEYWORD, _LIBARCHIVE)) or key in _ACLS


def attribute(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Give an attribute's name and value as the system knows them.

    Raises ArchiveError for an ACL that can't be read or names somebody unknown here.
    """
    if key in _ACLS:
        from pybak.attributes import acl_from_text

        return _ACLS[key], acl_from_text(value)
    if key.startswith(_LIBARCHIVE):
        name = unquote_to_bytes(key.removeprefix(_LIBARCHIVE))
        try:
            return name, b64decode(value + b"=" * (-len(value) % 4))
        except ValueError as error:
            raise ArchiveError(f"an attribute is damaged ({error})") from error
    return xattr_name(key), value
