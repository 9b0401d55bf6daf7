"""The names of objects in GCS: of files, and of the parts they are made of.

While a file is sent its parts are objects below `PREFIX/.pybak-parts-ID.NAME/`, which no listing of
the folder shows. ID starts with the time in hex nanoseconds.
"""

from __future__ import annotations

from typing import Final

from blocks.bucket_names import NAME_BYTES, address_of, name_of, object_name
from blocks.gcs_client import GcsBucket
from pybak.errors import StorageError
from pybak.storage.protocol import Upload

HIDDEN: Final = ".pybak-parts-"
_PART_BYTES: Final = 32


def object_of(bucket: GcsBucket, name: str) -> str:
    """Give the name of a file's object. Raises StorageError for what can't be one."""
    return object_name(bucket, name, cloud="GCS", but=(".", ".."))


def parts_folder(bucket: GcsBucket, upload: Upload) -> str:
    """Give what the objects of an upload's parts start with. Raises StorageError if too long."""
    object_of(bucket, upload.name)
    folder = f"{bucket.settings.folder}{HIDDEN}{upload.token}.{upload.name}/"
    if len(folder.encode()) > NAME_BYTES - _PART_BYTES:
        at = address_of(bucket, upload.name)
        raise StorageError(f"{at}: leaves no room for the names of its parts; choose a shorter")
    return folder


def new_token(now_ns: int, random: str) -> str:
    """Give an upload's id; `random` tells those of one moment apart."""
    return f"{now_ns:016x}-{random}"


def upload_of(bucket: GcsBucket, folder: str) -> Upload | None:
    """Read an upload from what the objects of its parts start with; None if it is none."""
    token, dot, name = name_of(bucket, folder).removeprefix(HIDDEN).rstrip("/").partition(".")
    started = token.partition("-")[0]
    try:
        return Upload(name, token, int(started, 16)) if dot and name else None
    except ValueError:
        return None
