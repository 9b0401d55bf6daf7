"""The password that archives are encrypted with, kept by Prefect's server.

Flow parameters are stored in clear, so they hold a block's name; the task that needs the password
loads it where it runs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED
from pydantic import Field, HttpUrl, SecretStr

from pybak.errors import PlanError, StorageError
from pybak.password import checked, encode

_SLUG: Final = "pybak-encryption-password"
_B = TypeVar("_B", bound=Block)


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
        password = _load(EncryptionPassword, name, document).password.get_secret_value()
    elif kind == Secret.get_block_type_slug():
        password = _load(Secret, name, document).get()
    else:
        raise PlanError(
            f"block {name}: is no password; name a block of the type {_SLUG}, or secret/NAME"
        )
    if not isinstance(password, str):
        raise PlanError(f"block {name}: holds no text; put the password into it")
    return checked(encode(password), f"block {name}")


def _load(kind: type[_B], name: str, document: str) -> _B:
    load: Any = kind.load
    try:
        block: _B = load(document, _sync=True)
    except (httpx.TransportError, RuntimeError) as error:
        # A RuntimeError is Prefect's when the server that it starts itself does not come up.
        raise _unreachable(name) from error
    except ValueError as error:
        if not PREFECT_API_URL.value() and not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
            raise _unreachable(name) from error
        if not isinstance(error.__cause__, ObjectNotFound):
            # What is stored does not fit; pydantic's message would show it.
            raise PlanError(f"block {name}: can't be read; save it again") from None
        raise PlanError(
            f"block {name}: there is none; make it in Prefect's UI, or in Python with "
            f'{kind.__name__}(...).save("{document}")'
        ) from error
    return block


def _unreachable(name: str) -> StorageError:
    where = f"at {url} " if (url := PREFECT_API_URL.value()) else ""
    return StorageError(
        f"block {name}: Prefect's server {where}can't be reached; "
        "start it, or give the password with -p",
        retryable=True,
    )
