"""Extended attributes and POSIX ACLs of files: reading, setting, and an ACL's two notations.

What is kept is one rule, `is_kept`: attributes `user.*` and `trusted.*`, file capabilities, and
POSIX ACLs. The rest belongs to the machine, not to the file: security labels are assigned by a
policy (SELinux, Smack), signatures hold for one inode (IMA, EVM), and the ACLs of NFSv4, CIFS and
the like can't be set through this interface. Linux only; elsewhere files have no attributes.

ACLs are kept as Linux keeps them, binary (`linux/posix_acl_xattr.h`), and go into tar archives as
text (acl(5), with the additions of star and libarchive).
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from pybak import problems
from pybak.errors import ArchiveError, SourceError

ACL_ACCESS: Final = b"system.posix_acl_access"
ACL_DEFAULT: Final = b"system.posix_acl_default"
ACLS: Final = frozenset({ACL_ACCESS, ACL_DEFAULT})
CAPABILITY: Final = b"security.capability"

FindId = Callable[[str], int | None]
"""Gives the number of a user or a group name; None if there is none here."""

_USER = b"user."
_TRUSTED = b"trusted."
_NONE_HERE = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODATA})
_GONE = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP})

_ACL_VERSION = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _NAMED_USER, _GROUP_OBJ, _NAMED_GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF
_TAG_TEXT = {
    _USER_OBJ: "user",
    _NAMED_USER: "user",
    _GROUP_OBJ: "group",
    _NAMED_GROUP: "group",
    _MASK: "mask",
    _OTHER: "other",
}
_TAGS = {"user": _USER_OBJ, "group": _GROUP_OBJ, "mask": _MASK, "other": _OTHER}
_NAMED = {_USER_OBJ: _NAMED_USER, _GROUP_OBJ: _NAMED_GROUP}
_BITS = {"r": 4, "w": 2, "x": 1, "-": 0}
_COMMENT = re.compile(r"#[^\n]*")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def is_kept(name: bytes) -> bool:
    """Whether backups keep the attribute `name` and restore sets it."""
    return name.startswith((_USER, _TRUSTED)) or name == CAPABILITY or name in ACLS


def needs_privilege(name: bytes) -> bool:
    """Whether only root may set the attribute, because it gives rights or hides from others."""
    return name.startswith(_TRUSTED) or name == CAPABILITY


def read_attributes(target: bytes | int) -> dict[bytes, bytes]:
    """Read what is kept of the attributes of a path (a link is not followed) or an open file.

    ACLs are under `ACL_ACCESS` and `ACL_DEFAULT`, binary. One system call when there are none; a
    file system without attributes gives none, and so does one that lost one of them meanwhile.
    Raises SourceError: vanished, unreadable, io_error.
    """
    try:
        names = _names(target)
    except OSError as error:
        raise _read_error(error, "") from error
    if not names:
        return {}
    return {name: value for name in names if (value := _value(target, name)) is not None}


def set_attributes(
    target: bytes | int,
    attributes: Mapping[bytes, bytes],
    *,
    privileged: bool = False,
    remove_others: bool = False,
) -> list[tuple[bytes, OSError]]:
    """Give a file what is kept of `attributes`; return the names that could not be set, and why.

    `target` is an open file or a path, whose last component is not followed; for a name in an
    open folder see `path_in`. Those that `needs_privilege` names are set only if `privileged`,
    else left out without a word. With `remove_others`, `user.*` and ACLs that the file has and
    `attributes` lacks are removed. Best done after the owner is set, which drops capabilities,
    and before the mode is, which may forbid it and has its say about an ACL's mask.
    """
    failed: list[tuple[bytes, OSError]] = []
    if remove_others:
        failed += _remove_others(target, attributes)
    for name, value in attributes.items():
        if not is_kept(name) or (needs_privilege(name) and not privileged):
            continue
        try:
            _set(target, name, value)
        except OSError as error:
            failed.append((name, error))
        except ValueError:  # a NUL in the name
            failed.append((name, OSError(errno.EINVAL, os.strerror(errno.EINVAL))))
    return failed


def path_in(folder_fd: int, name: bytes) -> bytes:
    """Give a path for `name` in an open folder; attributes of links have no other way in."""
    return b"/proc/self/fd/%d/%b" % (folder_fd, name)


def _remove_others(
    target: bytes | int, attributes: Mapping[bytes, bytes]
) -> Iterator[tuple[bytes, OSError]]:
    try:
        names = [name for name in _names(target) if name not in attributes]
    except OSError as error:
        yield _USER + b"*", error
        return
    for name in names:
        if name in ACLS or name.startswith(_USER):
            try:
                _remove(target, name)
            except OSError as error:
                if error.errno not in _GONE:
                    yield name, error


# Python has these calls on Linux only. Those on a descriptor refuse to be told about links.
if hasattr(os, "listxattr"):

    def _names(target: bytes | int) -> list[bytes]:
        try:
            if isinstance(target, int):
                found = os.listxattr(target)
            else:
                found = os.listxattr(target, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NONE_HERE:
                return []
            raise
        if not found:  # as of nearly all files
            return []
        return [name for name in map(os.fsencode, found) if is_kept(name)]

    def _value(target: bytes | int, name: bytes) -> bytes | None:
        try:
            if isinstance(target, int):
                return os.getxattr(target, name)
            return os.getxattr(target, name, follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise _read_error(error, f" {name.decode(errors='backslashreplace')}") from error

    def _set(target: bytes | int, name: bytes, value: bytes) -> None:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)

    def _remove(target: bytes | int, name: bytes) -> None:
        if isinstance(target, int):
            os.removexattr(target, name)
        else:
            os.removexattr(target, name, follow_symlinks=False)

else:

    def _names(target: bytes | int) -> list[bytes]:  # noqa: ARG001
        return []

    def _value(target: bytes | int, name: bytes) -> bytes | None:  # noqa: ARG001
        return None

    def _set(target: bytes | int, name: bytes, value: bytes) -> None:  # noqa: ARG001
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def _remove(target: bytes | int, name: bytes) -> None:  # noqa: ARG001
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def _read_error(error: OSError, which: str) -> SourceError:
    text = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceError("vanished before its attributes were read", problems.VANISHED)
    code = problems.IO_ERROR if error.errno in (errno.EIO, errno.ESTALE) else problems.UNREADABLE
    return SourceError(f"attribute{which or 's'} can't be read: {text}", code)


def acl_to_text(acl: bytes) -> bytes:
    """Write a binary ACL as text, entries divided by commas, users and groups by number.

    Raises ArchiveError if it is none of version 2.
    """
    entries: list[str] = []
    for tag, bits, number in _entries(acl):
        who = str(number) if tag in (_NAMED_USER, _NAMED_GROUP) else ""
        mode = "".join(letter if bits & _BITS[letter] else "-" for letter in "rwx")
        entries.append(f"{_TAG_TEXT[tag]}:{who}:{mode}")
    return ",".join(entries).encode()


def acl_from_text(
    text: bytes, *, find_user: FindId | None = None, find_group: FindId | None = None
) -> bytes:
    """Read an ACL as GNU tar, bsdtar, star or `acl_to_text` wrote it; give it binary.

    A user or group is looked up by name on this machine first (the arguments replace the system's
    lists), then by the number that may follow the entry. Entries are put in order, and a mask is
    worked out where one must be and is missing.
    Raises ArchiveError for what is no ACL, and for an entry of somebody unknown here.
    """
    find = {_NAMED_USER: find_user or _find_user, _NAMED_GROUP: find_group or _find_group}
    found: dict[tuple[int, int], int] = {}
    for entry in _split(text):
        tag, who, bits = _parse(entry)
        number = _NO_ID
        if tag in find:
            number = _number(entry, who, find[tag])
        if (tag, number) in found:
            raise ArchiveError(f"an ACL has two entries {entry!r}; leave it out")
        found[tag, number] = bits
    named = [key for key in found if key[0] in (_NAMED_USER, _NAMED_GROUP)]
    if named and (_MASK, _NO_ID) not in found:
        mask = found.get((_GROUP_OBJ, _NO_ID), 0)
        for key in named:
            mask |= found[key]
        found[_MASK, _NO_ID] = mask
    for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER):
        if (tag, _NO_ID) not in found:
            raise ArchiveError(f"an ACL has no entry {_TAG_TEXT[tag]!r}; leave it out")
    entries = [_ACL_ENTRY.pack(tag, found[tag, number], number) for tag, number in sorted(found)]
    return _ACL_VERSION.pack(2) + b"".join(entries)


def acl_mask(acl: bytes) -> int | None:
    """Give the permission bits of a binary ACL's mask; None if it has none, or is no ACL."""
    try:
        return next((bits for tag, bits, _ in _entries(acl) if tag == _MASK), None)
    except ArchiveError:
        return None


def _entries(acl: bytes) -> Iterable[tuple[int, int, int]]:
    head = _ACL_VERSION.size
    if acl[:head] != _ACL_VERSION.pack(2) or (len(acl) - head) % _ACL_ENTRY.size:
        raise ArchiveError("an ACL is not in a form that is known here; leave it out")
    entries: list[tuple[int, int, int]] = list(_ACL_ENTRY.iter_unpack(acl[head:]))
    if any(tag not in _TAG_TEXT or bits > 7 for tag, bits, _ in entries):
        raise ArchiveError("an ACL has an entry of a kind that is not known here; leave it out")
    return entries


def _split(text: bytes) -> Iterator[str]:
    """Give the entries of an ACL's text without comments, blanks and `default:`."""
    lines = _COMMENT.sub("", text.decode("utf-8", "surrogateescape"))
    for entry in re.split(r"[,\n]", lines):
        stripped = entry.strip(" \t\r\0")
        for mark in ("default:", "d:"):
            stripped = stripped.removeprefix(mark)
        if stripped:
            yield stripped


def _parse(entry: str) -> tuple[int, list[str], int]:
    """Part `TAG:[NAME]:PERMISSIONS[:NUMBER]` into tag, name and number, permission bits."""
    word, *fields = (field.strip() for field in entry.split(":"))
    tag = next((_TAGS[known] for known in _TAGS if known == word or known[0] == word), None)
    if tag in (_MASK, _OTHER) and len(fields) == 1:
        fields = ["", *fields]  # as Solaris and old versions wrote them
    if tag is None or not 2 <= len(fields) <= 3 or not set(fields[1]) <= set(_BITS):
        raise ArchiveError(f"{entry!r} is no entry of an ACL; leave it out")
    bits = 0
    for letter in fields[1]:
        bits |= _BITS[letter]
    if fields[0] or (len(fields) == 3 and tag in _NAMED):
        if tag not in _NAMED:
            raise ArchiveError(f"{entry!r} is no entry of an ACL; leave it out")
        tag = _NAMED[tag]
    return tag, [fields[0], *fields[2:]], bits


def _number(entry: str, who: list[str], find: FindId) -> int:
    name = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8) & 0xFF), who[0])
    for word in who:
        is_number = word.isdecimal() and word.isascii() and len(word) <= len(str(_NO_ID))
        if is_number and int(word) < _NO_ID:
            return int(word)
        if word is who[0] and name and (number := find(name)) is not None:
            return number
    raise ArchiveError(f"the ACL entry {entry!r} is for somebody who is not known here")


def _find_user(name: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _find_group(name: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
