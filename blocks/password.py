"""The password that archives are encrypted with, kept by Prefect's server.

Flow parameters are stored in clear, so they hold a block's name; the task that needs the password
loads it where it runs.
"""

from __future__ import annotations

from typing import ClassVar, Final

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from blocks.fields import DOCUMENTATION
from blocks.secret_text import load_text
from pybak.password import checked, encode

_SLUG: Final = "pybak-encryption-password"
_OTHERWISE: Final = "give the password with -p"


class EncryptionPassword(Block):
    """A password that PyBak encrypts and opens archives with.

    Example:
        Load a stored password:
        ```python
        from blocks import EncryptionPassword

        password = EncryptionPassword.load("BLOCK_NAME")
        password.password.get_secret_value()
        ```

    """

    _block_type_name: ClassVar[str] = "PyBak Encryption Password"
    _block_type_slug: ClassVar[str] = _SLUG
    _description: ClassVar[str] = "A password that PyBak encrypts and opens archives with."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    password: SecretStr = Field(
        min_length=1, description="The password; it is stored encrypted, and shown nowhere."
    )


def load_password(name: str) -> bytes:
    """Give the password that the block `name` holds.

    `name` is that of an EncryptionPassword, or `pybak-encryption-password/NAME`; `secret/NAME` is
    one of Prefect's own Secret blocks. Raises PlanError if there is none, or no text in it, and
    StorageError if Prefect's server can't be reached.
    """
    password = load_text(
        EncryptionPassword, lambda block: block.password, name, what="password",
        text="the password", otherwise=_OTHERWISE,
    )  # fmt: skip
    return checked(encode(password), f"block {name}")
