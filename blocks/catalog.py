"""Where the catalog is, kept by Prefect's server because it may hold a password.

`PYBAK_CATALOG_URL=block:NAME` names such a block; what needs the catalog loads it where it runs.
"""

from __future__ import annotations

from typing import ClassVar, Final

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.fields import DOCUMENTATION
from blocks.secret_text import load_text

_SLUG: Final = "pybak-catalog-url"
_OTHERWISE: Final = "set PYBAK_CATALOG_URL to the database itself"


class CatalogUrl(Block):
    """The database that PyBak keeps its catalog in.

    Example:
        Load a stored address:
        ```python
        from blocks import CatalogUrl

        catalog = CatalogUrl.load("BLOCK_NAME")
        catalog.url.get_secret_value()
        ```

    """

    _block_type_name: ClassVar[str] = "PyBak Catalog URL"
    _block_type_slug: ClassVar[str] = _SLUG
    _description: ClassVar[str] = "The database that PyBak keeps its catalog in."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    url: SecretStr = Field(
        min_length=1,
        description=(
            "The URL of the database, as in postgresql://USER:PASSWORD@HOST/DATABASE; "
            "it is stored encrypted, and shown nowhere."
        ),
    )


def load_catalog_url(name: str) -> str:
    """Give the URL that the block `name` holds.

    `name` is that of a CatalogUrl, or `pybak-catalog-url/NAME`; `secret/NAME` is one of Prefect's
    own Secret blocks. Raises PlanError if there is none, or no text in it, and StorageError if
    Prefect's server can't be reached.
    """
    return load_text(
        CatalogUrl, lambda block: block.url, name, what="catalog", text="the URL of the catalog",
        otherwise=_OTHERWISE,
    )  # fmt: skip
