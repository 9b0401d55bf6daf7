"""Hand mails to a mail server: over TLS, with every step bounded and every failure sorted."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from pybak.display import escape
from pybak.notify.failures import NoticeError
from pybak.notify.letter import Letter

Security = Literal["STARTTLS", "SSL", "none"]

_MOST_SAID: Final = 200


@dataclass(frozen=True)
class MailSettings:
    """Which server takes the mails, and from whom to whom they go; `timeout` is in seconds."""

    host: str
    port: int
    sender: str
    recipients: tuple[str, ...]
    security: Security = "STARTTLS"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 15.0
    verify: bool = True
    ca_file: str | None = None
    allow_plain_password: bool = False

    @property
    def place(self) -> str:
        """What messages call the server."""
        return f"mail server {self.host}:{self.port}"


class MailConnection:
    """An open connection to a mail server, logged in where there is a user."""

    def __init__(self, settings: MailSettings, server: smtplib.SMTP) -> None:
        self._settings = settings
        self._server = server

    def send(self, letter: Letter) -> tuple[str, ...]:
        """Send a letter; give the recipients that the server refused where it took others.

        Raises NoticeError: `is_refused` where the server lives but does not take it.
        """
        settings = self._settings
        with _sorted_out(settings):
            try:
                message = letter.message(settings.sender, settings.recipients)
            except (ValueError, IndexError):
                raise NoticeError(
                    f"{settings.place}: the sender {settings.sender} or a recipient makes no "
                    "header; correct the block",
                    is_refused=True,
                ) from None
            refused = self._server.send_message(message, settings.sender, list(settings.recipients))
        return tuple(refused)


@contextmanager
def connected(settings: MailSettings) -> Iterator[MailConnection]:
    """Be connected to a mail server for as long as the block lasts. Raises NoticeError."""
    if settings.password is not None and not (
        settings.security != "none" or settings.allow_plain_password
    ):
        raise NoticeError(
            f"{settings.place}: the password would go over the network unencrypted; set security "
            "to STARTTLS or SSL in the block, or allow_plain_password"
        )
    with contextlib.ExitStack() as stack:
        with _sorted_out(settings):
            server = _open(settings)
            stack.callback(server.close)
            server.ehlo_or_helo_if_needed()
            if settings.security == "STARTTLS":
                server.starttls(context=_context(settings))
                server.ehlo()
            if settings.user is not None and settings.password is not None:
                server.login(settings.user, settings.password)
        yield MailConnection(settings, server)
        # All is handed over already; a server that does not say goodbye changes nothing.
        with contextlib.suppress(smtplib.SMTPException, OSError):
            server.quit()


def _open(settings: MailSettings) -> smtplib.SMTP:
    name = _own_name()
    if settings.security == "SSL":
        return smtplib.SMTP_SSL(
            settings.host, settings.port, local_hostname=name, timeout=settings.timeout,
            context=_context(settings),
        )  # fmt: skip
    return smtplib.SMTP(settings.host, settings.port, local_hostname=name, timeout=settings.timeout)


def _own_name() -> str:
    """Give a name to greet with; the library's own looks it up, which may take a minute."""
    name = socket.gethostname()
    return name if name.isascii() and name.replace("-", "").replace(".", "").isalnum() else "pybak"


def _context(settings: MailSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise NoticeError(
            f"{settings.place}: the CA file {escape(settings.ca_file or '')} can't be read: "
            f"{type(error).__name__}; correct ca_file in the block"
        ) from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _sorted_out(settings: MailSettings) -> Iterator[None]:
    """Turn what goes wrong in the block into a NoticeError that says what to do."""
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise NoticeError(
            f"{settings.place}: refused the user and password: {_said(error, settings)}; correct "
            "them in the block (Gmail wants an app password)",
            retryable=_is_temporary(error.smtp_code),
        ) from None  # what it is from shows what was sent
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        who, (code, text) = next(iter(error.recipients.items()))
        more = f" and {len(codes) - 1} more" if len(codes) > 1 else ""
        raise NoticeError(
            f"{settings.place}: refused the recipient {escape(who)}{more}: "
            f"{code} {_shown(text, settings)}",
            retryable=any(_is_temporary(code) for code in codes),
            is_refused=True,
        ) from error
    except smtplib.SMTPNotSupportedError as error:
        what = "offers no STARTTLS; set security to SSL, or to none, in the block"
        if settings.security != "STARTTLS" or "STARTTLS" not in str(error):
            what = _shown(str(error), settings)
        raise NoticeError(f"{settings.place}: {what}") from error
    except smtplib.SMTPResponseException as error:
        raise NoticeError(
            f"{settings.place}: refused the mail: {_said(error, settings)}",
            retryable=_is_temporary(error.smtp_code),
            is_refused=isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError),
        ) from error
    except smtplib.SMTPServerDisconnected as error:
        raise NoticeError(
            f"{settings.place}: cut the connection or did not answer", retryable=True
        ) from error
    except smtplib.SMTPException as error:  # no way to log in that both know
        raise NoticeError(f"{settings.place}: {_shown(str(error), settings)}") from error
    except ssl.SSLCertVerificationError as error:
        raise NoticeError(
            f"{settings.place}: its certificate is not trusted: "
            f"{_shown(error.verify_message, settings)}; name its CA file in the block"
        ) from error
    except ssl.SSLError as error:
        raise NoticeError(
            f"{settings.place}: no encrypted connection: "
            f"{_shown(error.reason or str(error), settings)}; check port and security in the block"
        ) from error
    except UnicodeError:
        raise NoticeError(
            f"{settings.place}: user, password and addresses must be ASCII; correct the block"
        ) from None  # it shows what it could not encode
    except OSError as error:
        raise NoticeError(
            f"{settings.place}: can't be reached: {error.strerror or _shown(str(error), settings)}",
            retryable=True,
        ) from error


def _is_temporary(code: int) -> bool:
    return not 500 <= code < 600


def _said(error: smtplib.SMTPResponseException, settings: MailSettings) -> str:
    return f"{error.smtp_code} {_shown(error.smtp_error, settings)}"


def _shown(said: bytes | str, settings: MailSettings) -> str:
    """Give what a server said in one line, without our secrets even if it repeats them."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    for secret in _secrets(settings):
        text = text.replace(secret, "***")
    line = escape(" ".join(text.split()))
    return line if len(line) <= _MOST_SAID else line[:_MOST_SAID] + "\N{HORIZONTAL ELLIPSIS}"


def _secrets(settings: MailSettings) -> Iterator[str]:
    """Yield the password as it may be repeated: as it is, and as it goes over the network."""
    if not settings.password:
        return
    password = settings.password.encode()
    plain = b"\0" + (settings.user or "").encode() + b"\0" + password
    yield settings.password
    yield base64.b64encode(plain).decode()
    yield base64.b64encode(password).decode()
