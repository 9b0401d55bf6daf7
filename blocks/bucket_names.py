"""The names of files in a folder of a bucket, and those of the objects that hold them."""

from __future__ import annotations

from typing import Final, Protocol

from pybak.errors import StorageError
from pybak.storage.opening import join

NAME_BYTES: Final = 1024
"""How long the name of an object may be, in UTF-8, in S3 and in GCS."""


class Settings(Protocol):
    """What a storage knows of its place."""

    @property
    def folder(self) -> str:
        """What the names of its objects begin with: "", or a path that ends with /."""


class Bucket(Protocol):
    """A bucket whose objects are named; `address` is that of the folder."""

    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> Settings: ...  # noqa: D102


def object_name(bucket: Bucket, name: str, *, cloud: str, but: tuple[str, ...] = ()) -> str:
    """Give the name of a file's object. Raises StorageError for what can't be one, or is in `but`.

    `cloud` is what messages call the service.
    """
    at = address_of(bucket, name)
    if not name or name in but or "/" in name:
        raise StorageError(f"{at}: is no name in this folder; leave out the /")
    found = bucket.settings.folder + name
    try:
        length = len(found.encode())
    except UnicodeEncodeError:
        raise StorageError(f"{at}: names in {cloud} are UTF-8; choose another name") from None
    if length > NAME_BYTES:
        raise StorageError(
            f"{at}: is longer than the {NAME_BYTES} bytes of {cloud}; choose a shorter name"
        )
    return found


def name_of(bucket: Bucket, found: str) -> str:
    """Give the name of the file with this object; "" for the folder itself."""
    return found.removeprefix(bucket.settings.folder)


def address_of(bucket: Bucket, name: str) -> str:
    """Give a file's address, as messages name it."""
    return join(bucket.address, name)
