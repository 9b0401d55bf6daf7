"""The clients of the built-in token endpoint: names, scopes and hashed secrets, in one file.

The file is `api/clients.json` in PYBAK_HOME, which only its owner may read. Secrets are random, 32
bytes, and shown once; what is kept of them is scrypt's (RFC 7914), with parameters in the row, so
that they can be raised later.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from pybak.api.auth.scopes import SCOPES
from pybak.api.private_files import FOLDER, exclusive, read_private, write_private
from pybak.errors import NotFoundError, PlanError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_MOST_SECRET_CHARACTERS: Final = 256
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_N, _R, _P = 1 << 14, 8, 1  # 16 MiB; a secret of 256 bits needs no more


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A program that may ask for tokens. `salt` and `digest` are in base64."""

    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    salt: str
    digest: str
    n: int = _N
    r: int = _R
    p: int = _P

    def matches(self, secret: str) -> bool:
        """Whether this is its secret; takes as long for every answer."""
        if len(secret) > _MOST_SECRET_CHARACTERS:
            secret = ""
        found = _digest(secret, base64.b64decode(self.salt), self.n, self.r, self.p)
        return hmac.compare_digest(found, base64.b64decode(self.digest))


class Clients:
    """The file of clients. It is read again when it has changed."""

    def __init__(self, home: Path) -> None:
        self.path = home / FOLDER / "clients.json"
        self._seen: tuple[int, int, int] | None = None
        self._known: dict[str, Client] = {}
        # Somebody unknown is compared, too, so that the time tells nothing about names.
        self._nobody = _made("nobody", (), secrets.token_urlsafe(), _NEVER)

    def all(self) -> list[Client]:
        """List them by name. Raises PlanError if the file can't be read."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen, self._known = None, {}
            return []
        except OSError as error:
            raise PlanError(f"{self.path}: can't be read ({error.strerror})") from error
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._known = {client.name: client for client in self._read()}
            self._seen = seen
        return sorted(self._known.values(), key=lambda client: client.name)

    def authenticate(self, name: str, secret: str) -> Client | None:
        """Give the client whose secret this is; None if there is none such.

        Takes some ten milliseconds and 16 MiB. Raises PlanError if the file can't be read.
        """
        self.all()
        client = self._known.get(name, self._nobody)
        return client if client.matches(secret) and client is not self._nobody else None

    def add(self, name: str, scopes: Iterable[str], *, now: datetime) -> str:
        """Make a client, and give its secret, which is nowhere else.

        Raises PlanError for a name that is taken or no name, and for unknown scopes.
        """
        if not _NAME.fullmatch(name):
            raise PlanError(f"{name!r}: is no name; take letters, digits and . _ - (64 at most)")
        wanted = tuple(dict.fromkeys(scopes))
        for scope in wanted:
            if scope not in SCOPES:
                raise PlanError(f"{scope!r}: is no scope; there are {', '.join(SCOPES)}")
        if not wanted:
            raise PlanError(f"{name}: would be allowed nothing; name scopes with --scope")
        secret = secrets.token_urlsafe(_SECRET_BYTES)

        def added(known: list[Client]) -> list[Client]:
            if any(client.name == name for client in known):
                raise PlanError(f"{name}: there is such a client; remove it first")
            return [*known, _made(name, wanted, secret, now)]

        self._change(added)
        return secret

    def remove(self, name: str) -> None:
        """Remove a client; tokens that it has are good until they expire. Raises NotFoundError."""

        def removed(known: list[Client]) -> list[Client]:
            left = [client for client in known if client.name != name]
            if len(left) == len(known):
                raise NotFoundError(f"{name}: there is no such client")
            return left

        self._change(removed)

    def _change(self, change: Callable[[list[Client]], list[Client]]) -> None:
        with exclusive(self.path):
            write_private(self.path, msgspec.json.format(msgspec.json.encode(change(self._read()))))

    def _read(self) -> list[Client]:
        data = read_private(self.path)
        if data is None:
            return []
        try:
            return msgspec.json.decode(data, type=list[Client])
        except msgspec.MsgspecError as error:
            raise PlanError(f"{self.path}: is no list of clients ({error})") from error


def _made(name: str, scopes: tuple[str, ...], secret: str, now: datetime) -> Client:
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _digest(secret, salt, _N, _R, _P)
    return Client(
        name=name, scopes=scopes, created_at=now,
        salt=base64.b64encode(salt).decode(), digest=base64.b64encode(digest).decode(),
        n=_N, r=_R, p=_P,
    )  # fmt: skip


def _digest(secret: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        secret.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r
    )
