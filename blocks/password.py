"""The password that archives are encrypted with, kept by Prefect's server.

Flow parameters are stored in clear, so they hold a block's name; the task that needs the password
loads it where it runs.
"""

from __future__ import annotations

from typing import ClassVar, Final

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from pydantic import Field, HttpUrl, SecretStr

from blocks.loading import load_block
from pybak.errors import PlanError
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
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.prefect.io/v3/concepts/blocks"
    )

    password: SecretStr = Field(
        min_length=1, description="The password; it is stored encrypted, and shown nowhere."
    )


def load_password(name: str) -> bytes:
    """Give the password that the block `name` holds.

    `name` is that of an EncryptionPassword, or `pybak-encryption-password/NAME`; `secret/NAME` is
    one of Prefect's own Secret blocks. Raises PlanError if there is none, or no text in it, and
    StorageError if Prefect's server can't be reached.
    """
    kind, slash, document = name.rpartition("/")
    if not slash or kind == _SLUG:
        password = load_block(
            EncryptionPassword, name, document, _OTHERWISE
        ).password.get_secret_value()
    elif kind == Secret.get_block_type_slug():
        password = load_block(Secret, name, document, _OTHERWISE).get()
    else:
        raise PlanError(
            f"block {name}: is no password; name a block of the type {_SLUG}, or secret/NAME"
        )
    if not isinstance(password, str):
        raise PlanError(f"block {name}: holds no text; put the password into it")
    return checked(encode(password), f"block {name}")
