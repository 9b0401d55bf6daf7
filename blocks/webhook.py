"""An address that gets the report of each run as JSON. The address itself is a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Final

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from blocks.loading import load_block
from pybak.errors import PlanError
from pybak.notify.http import HttpSettings, is_address

_SLUG: Final = "pybak-webhook"
_OTHERWISE: Final = "leave out --webhook"


def check_address(value: SecretStr | None) -> SecretStr | None:
    """Give an address back. Raises ValueError, which does not show it, for what is none."""
    if value is not None and not is_address(value.get_secret_value()):
        raise ValueError("is no address; write it as in https://example.org/path")
    return value


class Webhook(Block):
    """An address that gets the report of each run as JSON.

    Example:
        Load a stored address:
        ```python
        from blocks import Webhook

        webhook = Webhook.load("BLOCK_NAME")
        webhook.url.get_secret_value()
        ```

    """

    # Errors would show secrets that stand in the wrong field.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "PyBak Webhook"
    _block_type_slug: ClassVar[str] = _SLUG
    _description: ClassVar[str] = "An address that gets the report of each run as JSON."
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://docs.prefect.io/v3/concepts/blocks"
    )

    url: SecretStr = Field(
        description="Where reports are posted: http:// or https://; it is shown nowhere."
    )
    headers: SecretDict | None = Field(
        default=None, description="Further headers, such as Authorization; shown nowhere."
    )
    timeout: float = Field(
        default=10.0, gt=0, le=30, description="How many seconds each answer may take."
    )
    verify: bool = Field(
        default=True, description="Whether the server's certificate must be a trusted one."
    )
    ca_file: str | None = Field(
        default=None,
        description="A file of certificates to trust, on the machine that sends; empty: its own.",
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: SecretStr) -> SecretStr | None:
        return check_address(value)

    @field_validator("headers", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        """Take an object in JSON, as variables give it."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("is no JSON object of headers") from None

    def settings(self) -> HttpSettings:
        """Give what the engine sends by."""
        headers: dict[str, Any] = self.headers.get_secret_value() if self.headers else {}
        return HttpSettings(
            url=self.url.get_secret_value(),
            headers={str(name): str(value) for name, value in headers.items()},
            timeout=self.timeout,
            verify=self.verify,
            ca_file=str(Path(self.ca_file).expanduser()) if self.ca_file else None,
        )


def load_webhook(name: str) -> HttpSettings:
    """Give what the block `name` (or `pybak-webhook/NAME`) holds.

    Raises PlanError if there is none, and StorageError if Prefect's server can't be reached.
    """
    kind, slash, document = name.rpartition("/")
    if slash and kind != _SLUG:
        raise PlanError(f"block {name}: is no webhook; name a block of the type {_SLUG}")
    return load_block(Webhook, name, document, _OTHERWISE).settings()
