"""An address that gets the report of each run as JSON. The address itself is a secret."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from blocks.fields import DOCUMENTATION, CaFile, Timeout, Verify, check_address, expanded
from blocks.loading import load_of_type
from pybak.notify.http import HttpSettings

_SLUG: Final = "pybak-webhook"
_OTHERWISE: Final = "leave out --webhook"


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
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    url: SecretStr = Field(
        description="Where reports are posted: http:// or https://; it is shown nowhere."
    )
    headers: SecretDict | None = Field(
        default=None, description="Further headers, such as Authorization; shown nowhere."
    )
    timeout: Timeout = 10.0
    verify: Verify = True
    ca_file: CaFile = None

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
            ca_file=expanded(self.ca_file),
        )


def load_webhook(name: str) -> HttpSettings:
    """Give what the block `name` (or `pybak-webhook/NAME`) holds.

    Raises PlanError if there is none, and StorageError if Prefect's server can't be reached.
    """
    return load_of_type(Webhook, name, "webhook", _OTHERWISE).settings()
