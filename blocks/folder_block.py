"""A local folder, or a share that is mounted, kept by Prefect's server under a name."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl

from blocks.fields import DOCUMENTATION


class LocalFolder(Block):
    """A folder of the machines that runs work on, such as a mounted share.

    Example:
        Load a stored folder, or name it in a command as `--to block:BLOCK_NAME`:
        ```python
        from blocks import LocalFolder

        folder = LocalFolder.load("BLOCK_NAME")
        folder.path
        ```

    """

    _block_type_name: ClassVar[str] = "PyBak Local Folder"
    _block_type_slug: ClassVar[str] = "pybak-local-folder"
    _description: ClassVar[str] = "A folder that PyBak keeps archives in."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    path: str = Field(
        pattern=r"^[/~]",
        description="The whole path of the folder, the same on every machine that runs work on.",
    )
