"""Who is logged in: a signed cookie that tells name and scopes, and ends by itself.

The key is in PYBAK_HOME for its owner alone, so sessions outlive the service. A session that was
logged out of is refused until it would have ended anyway, as long as the service runs.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from itsdangerous import BadData, URLSafeTimedSerializer

from pybak.api.auth.scopes import SCOPES, Caller
from pybak.api.private_files import FOLDER, exclusive, read_private, write_private
from pybak.errors import PlanError

COOKIE: Final = "pybak_session"
LOGIN_COOKIE: Final = "pybak_login"
LOGIN_SECONDS: Final = 600
"""How long somebody may take at the provider."""
CLIENT: Final = "client"
PROVIDER: Final = "provider"
_KEY_BYTES: Final = 32
_MOST_ENDED: Final = 10_000


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A login. `kind` is how it was made, `expires_at` in seconds since 1970.

    `stamp` is that of the secret that it was made with; none at a provider.
    """

    ident: str
    name: str
    scopes: tuple[str, ...]
    kind: str
    expires_at: float
    stamp: str = ""

    @property
    def caller(self) -> Caller:
        """Whoever it is, as the API knows callers."""
        return Caller(self.name, frozenset(self.scopes) & frozenset(SCOPES), self.expires_at)


class Sessions:
    """Makes and reads cookies; their times are those of `now`, in seconds since 1970."""

    def __init__(self, home: Path, seconds: int, *, now: Callable[[], float] = time.time) -> None:
        """Read the key, or make it. Raises PlanError if others can read it."""
        key = _key(home)
        self._sessions = URLSafeTimedSerializer(key, salt="pybak.session")
        self._logins = URLSafeTimedSerializer(key, salt="pybak.login")
        self.seconds = seconds
        self._now = now
        self._ended: OrderedDict[str, float] = OrderedDict()

    def make(self, caller: Caller, kind: str, stamp: str = "") -> str:
        """Give the cookie of a new session."""
        end = self._now() + self.seconds
        session = Session(
            ident=secrets.token_urlsafe(16), name=caller.name,
            scopes=tuple(sorted(caller.scopes)), kind=kind, expires_at=end, stamp=stamp,
        )  # fmt: skip
        return str(self._sessions.dumps(msgspec.to_builtins(session)))

    def read(self, cookie: str | None) -> Session | None:
        """Give the session of a cookie; None if it is over, or is none of ours."""
        if not cookie:
            return None
        try:
            session = msgspec.convert(self._sessions.loads(cookie), Session)
        except (BadData, msgspec.ValidationError):
            return None
        if session.expires_at <= self._now() or session.ident in self._ended:
            return None
        return session

    def end(self, session: Session) -> None:
        """Log out: the cookie is good for nothing any more."""
        self._ended[session.ident] = session.expires_at
        while self._ended and (
            len(self._ended) > _MOST_ENDED or next(iter(self._ended.values())) <= self._now()
        ):
            self._ended.popitem(last=False)

    def sign_login(self, facts: Mapping[str, str]) -> str:
        """Give the cookie that goes with a login that was begun."""
        return str(self._logins.dumps(dict(facts)))

    def read_login(self, cookie: str | None) -> dict[str, Any] | None:
        """Give what a login was begun with; None if that was long ago, or not here."""
        try:
            facts = self._logins.loads(cookie or "", max_age=LOGIN_SECONDS)
        except BadData:
            return None
        return facts if isinstance(facts, dict) else None


def _key(home: Path) -> str:
    path = home / FOLDER / "session-key"
    with exclusive(path):
        data = read_private(path)
        if data is None:
            data = secrets.token_hex(_KEY_BYTES).encode("ascii")
            write_private(path, data)
    if len(data) != 2 * _KEY_BYTES:
        raise PlanError(f"{path}: is no key; remove it, and a new one is made")
    return data.decode("ascii", "replace")
