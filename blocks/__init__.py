"""Typed Prefect blocks, and the storages of the clouds: the only place for secrets.

`prefect block register -m blocks` makes the types known to a server. They are imported when they
are asked for: the storages are used without Prefect too, and the types of the clouds' own packages
take more than a second each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from blocks.catalog import CatalogUrl
    from blocks.folder_block import LocalFolder
    from blocks.gcs_block import GcsStorageBlock
    from blocks.mail_server import MailServer
    from blocks.password import EncryptionPassword
    from blocks.ping import Ping
    from blocks.s3_block import S3StorageBlock
    from blocks.webhook import Webhook

__all__ = [
    "CatalogUrl",
    "EncryptionPassword",
    "GcsStorageBlock",
    "LocalFolder",
    "MailServer",
    "Ping",
    "S3StorageBlock",
    "Webhook",
]

_MODULES: Final = {
    "CatalogUrl": "catalog",
    "EncryptionPassword": "password",
    "GcsStorageBlock": "gcs_block",
    "LocalFolder": "folder_block",
    "MailServer": "mail_server",
    "Ping": "ping",
    "S3StorageBlock": "s3_block",
    "Webhook": "webhook",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    # What registers blocks looks here, and gets each of them.
    return sorted({*globals(), *__all__})
