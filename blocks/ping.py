"""A dead-man's ping: a service that raises the alarm when a job stops telling it of good runs."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator

from blocks.fields import DOCUMENTATION, CaFile, Timeout, Verify, check_address, expanded
from blocks.loading import load_of_type
from pybak.notify.ping import PingSettings

_SLUG: Final = "pybak-ping"
_OTHERWISE: Final = "leave out --ping"


class Ping(Block):
    """A service that is told of start, success and failure, such as healthchecks.io.

    Example:
        Load a stored address:
        ```python
        from blocks import Ping

        ping = Ping.load("BLOCK_NAME")
        ping.url.get_secret_value()
        ```

    """

    # Errors would show secrets that stand in the wrong field.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "PyBak Ping"
    _block_type_slug: ClassVar[str] = _SLUG
    _description: ClassVar[str] = "A service that is told of start, success and failure of runs."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    url: SecretStr = Field(
        description="What is asked for after a success, as in https://hc-ping.com/UUID."
    )
    start_url: SecretStr | None = Field(
        default=None, description="What is asked for at the start; empty: the URL and /start."
    )
    failure_url: SecretStr | None = Field(
        default=None, description="What is asked for after a failure; empty: the URL and /fail."
    )
    tell_start: bool = Field(default=True, description="Whether the start is told at all.")
    partial_is_good: bool = Field(
        default=False, description="Whether a run is a success that could not save some files."
    )
    method: Literal["POST", "GET", "HEAD"] = Field(
        default="POST", description="How it is asked for; POST says in a line how the run ended."
    )
    timeout: Timeout = 5.0
    verify: Verify = True
    ca_file: CaFile = None

    @field_validator("url", "start_url", "failure_url")
    @classmethod
    def _are_addresses(cls, value: SecretStr | None) -> SecretStr | None:
        return check_address(value)

    def settings(self) -> PingSettings:
        """Give what the engine sends by."""
        return PingSettings(
            url=self.url.get_secret_value(),
            start_url=self.start_url.get_secret_value() if self.start_url else None,
            failure_url=self.failure_url.get_secret_value() if self.failure_url else None,
            tell_start=self.tell_start,
            partial_is_good=self.partial_is_good,
            method=self.method,
            timeout=self.timeout,
            verify=self.verify,
            ca_file=expanded(self.ca_file),
        )


def load_ping(name: str) -> PingSettings:
    """Give what the block `name` (or `pybak-ping/NAME`) holds.

    Raises PlanError if there is none, and StorageError if Prefect's server can't be reached.
    """
    return load_of_type(Ping, name, "ping", _OTHERWISE).settings()
