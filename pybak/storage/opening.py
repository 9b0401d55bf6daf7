"""Addresses of storages and of files in them, and how a storage is opened by its address.

`s3://bucket/prefix/name`, `gs://bucket/prefix/name` and `block:NAME/name` are addresses; all else
is a path. Inside the engine both are carried as `bytes` where paths are, so an archive is known by
one word wherever it lies. What opens `SCHEME:` is found by the entry-point group `pybak.storage`: a
function that takes the address of a folder and gives a `Storage`; one address is one storage in a
process, until `forget_storages`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, cast

from pybak.display import printable
from pybak.errors import PlanError
from pybak.storage.protocol import Storage

GROUP: Final = "pybak.storage"
_REMOTE: Final = re.compile(r"(s3|gs|block):(.*)", re.DOTALL)
_REMOTE_BYTES: Final = re.compile(rb"(?:s3|gs|block):")
_LIKE_AN_ADDRESS: Final = re.compile(r"(?:[a-z][\w+.-]*://|(?:s3|gs|block):)", re.IGNORECASE)
_LOCAL_URI: Final = "file:///"
_BLOCK: Final = "block:"

_opened: dict[str, Storage] = {}
_forgetting: list[Callable[[], None]] = []


def is_remote(address: str | bytes) -> bool:
    """Whether this is the address of a storage, not a path."""
    if isinstance(address, bytes):
        return _REMOTE_BYTES.match(address) is not None
    return _REMOTE.match(address) is not None


def holds_address(text: str) -> bool:
    """Whether what may be an address of any kind is at the beginning or behind a colon."""
    return any(_LIKE_AN_ADDRESS.match(text, start.end()) for start in re.finditer("^|:", text))


def check_address(text: str) -> str:
    """Give back what someone named as a place, if it is an address that is known, or a path.

    A folder that is called like an address is a path with `./` before it. Raises PlanError for
    kinds of storages that don't exist, and for addresses that are no UTF-8: names in storages are.
    """
    if is_remote(text):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PlanError(
                f"{printable(text)}: is no UTF-8, as names in storages are; choose another name"
            ) from error
    elif not text.startswith(_LOCAL_URI) and (found := _LIKE_AN_ADDRESS.match(text)):
        raise PlanError(  # what follows may hold a password
            f"{printable(found[0])}…: there is no such kind of storage; write s3://…, gs://… or "
            "block:…, or ./… for a folder"
        )
    return text


def join(folder: str, name: str) -> str:
    """Give the address of the file `name` in a storage's folder."""
    return f"{folder.rstrip('/')}/{name}"


def split(address: str) -> tuple[str, str]:
    """Give the folder's address and the file's name.

    Raises PlanError if no file is named, and as `check_address`.
    """
    folder, slash, name = address.rpartition("/")
    if not slash or not name or folder.endswith(("s3:", "gs:", ":/", ":")):
        raise PlanError(f"{address}: names no file in a storage; add /NAME")
    if is_remote(address):
        check_address(address)
    return folder or "/", name


def open_storage(address: str) -> Storage:
    """Open the folder at this address; the same one for the same address in one process.

    An absolute path is the address of a local folder. Opening says nothing about whether the place
    is there: `check` does. Raises PlanError for what is no address of a storage, or one whose parts
    are missing.
    """
    return _open(address.rstrip("/") or "/")


def forget_storages() -> None:
    """Have what blocks say read again where one is opened from now on.

    For processes that live longer than a run: a block may have been edited, its keys renewed.
    Storages that are in use stay as they are.
    """
    for address in list(_opened):
        if address.startswith(_BLOCK):
            _opened.pop(address, None)
    for forget in _forgetting:
        forget()


def on_forgetting(forget: Callable[[], None]) -> None:
    """Have `forget_storages` call this, too."""
    _forgetting.append(forget)


def _open(address: str) -> Storage:
    known = _opened.get(address)
    return known if known is not None else _opened.setdefault(address, _made(address))


def _made(address: str) -> Storage:
    if address.startswith("/"):
        from pybak.storage.local_folder import FolderStorage

        return FolderStorage(address)
    found = _REMOTE.match(check_address(address))
    if found is None:
        raise PlanError(f"{address}: is no address of a storage; write s3://BUCKET/PREFIX")
    scheme = found[1]
    for point in entry_points(group=GROUP, name=scheme):
        return cast(Callable[[str], Storage], point.load())(address)
    raise PlanError(f"{address}: nothing that opens {scheme}: is installed; install PyBak again")
