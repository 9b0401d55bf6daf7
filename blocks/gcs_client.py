"""The requests to one bucket: how its client is made, and how often a request is tried.

Google's SDK repeats what may help (408, 429, 5xx, connections that fail or are cut) with growing
random pauses, here for `retry_s` seconds; an expired token is renewed. Nothing else is tried again.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from blocks.gcs_errors import GcsError, shortened, translate
from blocks.gcs_settings import GcsSettings
from pybak.errors import PyBakError

_T = TypeVar("_T")
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8
_METADATA_TIMEOUT_S: Final = 3
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"


class GcsBucket:
    """The client of one bucket, made when it is first needed, one in each process."""

    def __init__(self, settings: GcsSettings, address: str) -> None:
        self.settings = settings
        self.address = address
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "address": self.address}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def ask(
        self,
        call: Callable[[Any, dict[str, Any]], _T],
        right: str,
        *,
        at: str | None = None,
        retry_s: float | None = None,
    ) -> _T:
        """Call with the SDK's bucket and the arguments `timeout` and `retry` for its methods.

        `right` is what it takes (`storage.objects.get`), `at` the address that an error names.
        Raises PyBakError; NotFoundError for whatever is missing: the call knows what it is.
        """
        try:
            return call(self._bucket(), self.how(retry_s))
        except PyBakError:
            raise
        except Exception as error:
            known = translate(error, right, at or self.address, self.settings.bucket)
            if known is None:
                raise
            raise known from error

    def how(self, retry_s: float | None = None) -> dict[str, Any]:
        """Give the arguments of the SDK's methods that bound how long they take."""
        from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

        retry = DEFAULT_RETRY.with_timeout(retry_s or self.settings.retry_s).with_delay(
            initial=_FIRST_PAUSE_S, maximum=_LONGEST_PAUSE_S, multiplier=2
        )
        timeout = (self.settings.connect_timeout_s, self.settings.read_timeout_s)
        return {"timeout": timeout, "retry": retry}

    def _bucket(self) -> Any:
        known = self._made
        if known is None or known[0] != os.getpid():
            with self._lock:
                if self._made is None or self._made[0] != os.getpid():
                    self._made = (os.getpid(), _make(self.settings))
                known = self._made
        return known[1]

    def close(self) -> None:
        """Close the connections; the next request makes new ones."""
        with self._lock:
            if self._made is not None and self._made[0] == os.getpid():
                self._made[1].client.close()
            self._made = None


def _make(settings: GcsSettings) -> Any:
    for library in ("google", "urllib3"):
        # What these warn of is tried again, or told as an error; without any handler Python
        # would print it.
        logging.getLogger(library).addHandler(logging.NullHandler())
    from google.auth.credentials import AnonymousCredentials, with_scopes_if_required
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud.storage import Client  # type: ignore[import-untyped]
    from requests.adapters import HTTPAdapter

    if settings.credentials is not None:
        try:
            credentials = settings.credentials()
        except (ValueError, OSError) as error:
            raise GcsError(
                f"gs://{settings.bucket}: the key of the service account can't be read: "
                f"{shortened(error)}; check the file or the block"
            ) from error
    elif settings.endpoint is None and os.environ.get(_EMULATOR):
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    else:
        credentials = _usual_credentials()
    credentials = with_scopes_if_required(credentials, Client.SCOPE)  # type: ignore[no-untyped-call]
    session = AuthorizedSession(credentials, refresh_timeout=settings.read_timeout_s)  # type: ignore[no-untyped-call]
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=settings.concurrency + 2))
    options = {"api_endpoint": settings.endpoint} if settings.endpoint else None
    client = Client(
        project=settings.project, credentials=credentials, _http=session, client_options=options
    )
    return client.bucket(settings.bucket)


def _usual_credentials() -> Any:
    """Find the credentials of the environment. Raises DefaultCredentialsError, within seconds."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, TransportError
    from google.auth.transport.requests import Request

    class OneTry(Request):
        """Asks the metadata server of Google's machines once: elsewhere, nobody answers."""

        def __call__(self, url: str, *words: Any, **more: Any) -> Any:
            if not url.startswith("http://"):
                return super().__call__(url, *words, **more)  # type: ignore[no-untyped-call]
            try:
                return super().__call__(url, *words, **more | {"timeout": _METADATA_TIMEOUT_S})  # type: ignore[no-untyped-call]
            except TransportError as error:
                raise DefaultCredentialsError("no metadata server") from error  # type: ignore[no-untyped-call]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a quota project is none of our business
        return google.auth.default(request=OneTry())[0]
