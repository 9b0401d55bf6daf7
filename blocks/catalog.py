"""Where the catalog is, kept by Prefect's server because it may hold a password.

`PYBAK_CATALOG_URL=block:NAME` names such a block; what needs the catalog loads it where it runs.
"""

from __future__ import annotations

from typing import ClassVar, Final

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from pydantic import Field, HttpUrl, SecretStr

from blocks.loading import load_block
from pybak.errors import PlanError

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
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.prefect.io/v3/concepts/blocks"
    )

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
    kind, slash, document = name.rpartition("/")
    if not slash or kind == _SLUG:
        return load_block(CatalogUrl, name, document, _OTHERWISE).url.get_secret_value()
    if kind != Secret.get_block_type_slug():
        raise PlanError(
            f"block {name}: is no catalog; name a block of the type {_SLUG}, or secret/NAME"
        )
    url = load_block(Secret, name, document, _OTHERWISE).get()
    if not isinstance(url, str):
        raise PlanError(f"block {name}: holds no text; put the URL of the catalog into it")
    return url
