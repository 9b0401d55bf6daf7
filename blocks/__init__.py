"""Typed Prefect blocks: the only place for secrets.

`prefect block register -m blocks` makes their types known to a server.
"""

from blocks.catalog import CatalogUrl
from blocks.password import EncryptionPassword

__all__ = ["CatalogUrl", "EncryptionPassword"]
