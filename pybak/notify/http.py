"""Send something to an address that is a secret itself: nothing here ever shows more than its host.

The standard library does it, for it logs nothing; what it raises is never shown as it is.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from pybak.display import escape
from pybak.notify.failures import NoticeError

_AGENT: Final = "PyBak"
_READ_BYTES: Final = 65536
_TRY_AGAIN: Final = frozenset({408, 425, 429})


@dataclass(frozen=True)
class HttpSettings:
    """An address; `headers` may be secrets, too. `timeout` is in seconds, for each step."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    verify: bool = True
    ca_file: str | None = None

    @property
    def host(self) -> str:
        """What messages call the address."""
        return host_of(self.url)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Go nowhere else: who has the address decides where secrets go."""


def host_of(url: str) -> str:
    """Give the host of a URL, without a user, a password, a path."""
    try:
        return escape(urlsplit(url).hostname or "an address without a host")
    except ValueError:
        return "an address that is no URL"


def is_address(url: str) -> bool:
    """Whether something can be sent to it: http or https, with a host, on one line."""
    try:
        parts = urlsplit(url)
        is_there = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return is_there and parts.scheme in ("http", "https") and url.isprintable() and " " not in url


def send(settings: HttpSettings, body: bytes | None, *, content_type: str, method: str) -> None:
    """Send `body`; any answer from 200 to 299 will do. Raises NoticeError."""
    headers = {"User-Agent": _AGENT, **settings.headers}
    if body is not None:
        headers["Content-Type"] = content_type
    problem: NoticeError
    try:
        request = urllib.request.Request(  # noqa: S310 - http and https only, see is_address
            settings.url, data=body, headers=headers, method=method
        )
        with _opener(settings).open(request, timeout=settings.timeout) as answer:
            answer.read(_READ_BYTES)
        return
    except urllib.error.HTTPError as error:
        error.close()
        problem = _refused(settings, error.code)
    except urllib.error.URLError as error:
        problem = _failed(settings, error.reason)
    except (OSError, http.client.HTTPException) as error:
        problem = _failed(settings, error)
    except ValueError:  # a header or a URL with signs that can't be sent
        problem = NoticeError(f"{settings.host}: its URL or a header can't be sent; correct it")
    raise problem


def _opener(settings: HttpSettings) -> urllib.request.OpenerDirector:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:
        raise NoticeError(
            f"{settings.host}: the CA file {escape(settings.ca_file or '')} can't be read: "
            f"{type(error).__name__}; correct ca_file in the block"
        ) from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())


def _refused(settings: HttpSettings, code: int) -> NoticeError:
    if 300 <= code < 400:
        return NoticeError(
            f"{settings.host}: answered {code}, which is another address; name that one"
        )
    return NoticeError(
        f"{settings.host}: answered {code} {http.client.responses.get(code, '')}".rstrip(),
        retryable=code >= 500 or code in _TRY_AGAIN,
    )


def _failed(settings: HttpSettings, reason: object) -> NoticeError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NoticeError(
            f"{settings.host}: its certificate is not trusted: {escape(reason.verify_message)}; "
            "name its CA file in the block"
        )
    if isinstance(reason, TimeoutError):
        return NoticeError(f"{settings.host}: did not answer in time", retryable=True)
    what = getattr(reason, "strerror", None) or type(reason).__name__
    return NoticeError(f"{settings.host}: can't be reached: {escape(str(what))}", retryable=True)
