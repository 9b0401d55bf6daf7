"""The mail server that reports go through, kept by Prefect's server for its password.

It is also a block of Prefect's own kind for notifications, so that automations can send by it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from html import escape
from typing import ClassVar, Final, Literal, Self

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.abstract import NotificationBlock, NotificationError
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.fields import DOCUMENTATION, CaFile, Timeout, Verify, expanded
from blocks.loading import load_of_type
from pybak.notify.failures import NoticeError
from pybak.notify.letter import Letter
from pybak.notify.smtp import MailSettings, connected

_SLUG: Final = "pybak-mail-server"
_OTHERWISE: Final = "leave out --mail"
_SUBJECT: Final = "[PyBak] a notification of Prefect"
_PORTS: Final = {"STARTTLS": 587, "SSL": 465, "none": 25}


class MailServer(NotificationBlock):
    """A mail server that takes PyBak's reports, and whom they go to.

    Example:
        Load a stored mail server and send by it:
        ```python
        from blocks import MailServer

        mail_server = MailServer.load("BLOCK_NAME")
        mail_server.notify("all is well", subject="a test")
        ```

    """

    # Errors would show secrets that stand in the wrong field.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "PyBak Mail Server"
    _block_type_slug: ClassVar[str] = _SLUG
    _description: ClassVar[str] = "A mail server that takes PyBak's reports, and whom they go to."
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION

    host: str = Field(
        min_length=1, description="The server's name.", examples=["smtp.gmail.com", "localhost"]
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Its port; empty: 587 for STARTTLS, 465 for SSL, 25 without encryption.",
    )
    security: Literal["STARTTLS", "SSL", "none"] = Field(
        default="STARTTLS",
        description="How the connection is encrypted: after a greeting, from the start, not.",
    )
    user: str | None = Field(default=None, description="Whom to log in as; empty: nobody.")
    password: SecretStr | None = Field(
        default=None,
        description="The user's password, for Gmail an app password; it is shown nowhere.",
    )
    sender: str = Field(
        min_length=3, description="The address that mails are from.", examples=["nas@example.org"]
    )
    recipients: list[str] = Field(
        min_length=1, description="The addresses that mails go to.", examples=[["me@example.org"]]
    )
    timeout: Timeout = 10.0
    verify: Verify = True
    ca_file: CaFile = None
    allow_plain_password: bool = Field(
        default=False,
        description="Send the password even without encryption, where anybody can read it.",
    )

    @field_validator("recipients", mode="before")
    @classmethod
    def _from_one_line(cls, value: object) -> object:
        """Take addresses in one line, as variables give them."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("sender", "recipients")
    @classmethod
    def _are_addresses(cls, value: str | list[str]) -> str | list[str]:
        for address in [value] if isinstance(value, str) else value:
            name, at, domain = address.rpartition("@")
            is_odd = not address.isprintable() or set(address) & set(' ,;:<>()[]\\"')
            if not (name and at and domain) or is_odd:
                raise ValueError("is no mail address; write it as in name@example.org")
        return value

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if not value.isprintable() or set(value) & set(" /@"):
            raise ValueError("is no server's name; write it without a port and a path")
        return value

    @model_validator(mode="after")
    def _keeps_its_password(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together; give both or neither")
        if self.password and self.security == "none" and not self.allow_plain_password:
            raise ValueError(
                "the password would go over the network unencrypted; set security to STARTTLS or "
                "SSL, or allow_plain_password"
            )
        return self

    def settings(self) -> MailSettings:
        """Give what the engine sends by."""
        return MailSettings(
            host=self.host,
            port=self.port or _PORTS[self.security],
            sender=self.sender,
            recipients=tuple(self.recipients),
            security=self.security,
            user=self.user,
            password=self.password.get_secret_value() if self.password else None,
            timeout=self.timeout,
            verify=self.verify,
            ca_file=expanded(self.ca_file),
            allow_plain_password=self.allow_plain_password,
        )

    async def anotify(self, body: str, subject: str | None = None) -> None:
        """Send a mail now, as `notify` does."""
        await asyncio.to_thread(self._send, body, subject)

    @async_dispatch(anotify)
    def notify(  # type: ignore[override]
        self, body: str, subject: str | None = None
    ) -> None:
        """Send a mail now; for Prefect's automations, and to try the block.

        Raises NoticeError, and in Prefect's hands NotificationError.
        """
        self._send(body, subject)

    def _send(self, body: str, subject: str | None) -> None:
        letter = Letter.write(
            _SLUG, subject=subject or _SUBJECT, text=body, status="notification",
            html=f"<!DOCTYPE html><html><body><pre>{escape(body)}</pre></body></html>",
            now=datetime.now(UTC),
        )  # fmt: skip
        try:
            with connected(self.settings()) as connection:
                connection.send(letter)
        except NoticeError as error:
            if self._raise_on_failure:
                raise NotificationError(log=str(error)) from error
            raise


def load_mail_server(name: str) -> MailSettings:
    """Give what the block `name` (or `pybak-mail-server/NAME`) holds.

    Raises PlanError if there is none, and StorageError if Prefect's server can't be reached.
    """
    return load_of_type(MailServer, name, "mail server", _OTHERWISE).settings()
