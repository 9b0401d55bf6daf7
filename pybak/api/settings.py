"""What the service is told, by `PYBAK_API_…` variables of the environment.

Lists have one item a line, or items separated by commas. `docs/api.md` explains each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pybak.api.auth.jwks import is_private
from pybak.api.auth.scopes import SCOPES
from pybak.api.auth.tokens import ALGORITHMS, ANY_TYPE
from pybak.errors import PlanError

PREFIX: Final = "PYBAK_API_"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def _list(value: object) -> object:
    if isinstance(value, str):
        parts = value.splitlines() if "\n" in value else value.split(",")
        return tuple(part.strip() for part in parts if part.strip())
    return value


def _table(value: object) -> object:
    if isinstance(value, str):
        try:
            return json.loads(value) if value.strip() else {}
        except ValueError as error:
            raise ValueError("is no JSON object") from error
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_list)]
Table = Annotated[dict[str, str], BeforeValidator(_table)]


class ApiSettings(BaseModel):
    """The settings of the service. Without anything it starts nowhere and lets nobody in."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str | None = None
    """Where people reach it, if that is not host and port; without a slash at the end."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    proxies: Texts = ()
    """Addresses of proxies whose X-Forwarded-For is believed."""

    issuer: str | None = None
    audience: str = "pybak"
    jwks_url: str | None = None
    algorithms: Texts = ("RS256", "ES256", "EdDSA")
    token_types: Texts = ("at+jwt",)
    scope_claims: Texts = ("scope", "scp")
    scope_names: Table = {}
    """A provider's name of a scope, and ours."""
    leeway_seconds: float = Field(default=30, ge=0, le=300)

    token_endpoint: bool = False
    token_seconds: int = Field(default=600, ge=10, le=86400)
    token_requests_a_minute: int = Field(default=20, ge=0)
    no_authentication: bool = False

    source_roots: Texts = ()
    inbox_roots: Texts = ()
    """Where inboxes may be: what is in them leaves them."""
    destination_roots: Texts = ()
    restore_roots: Texts = ()
    password_block: str | None = None
    """The block with the password of archives that files are downloaded from."""
    password_blocks: Texts = ()
    """Names of password blocks that requests may name."""

    deployment: str = "{flow}-on-request"
    """The name of the deployments that run what no other does; {flow} is their flow's."""
    requests_a_minute: int = Field(default=1200, ge=0)
    """Of one caller; 0 for no limit, here and below."""
    starts_a_minute: int = Field(default=30, ge=0)
    streams: int = Field(default=20, ge=1)
    """How many log streams, and how many downloads, may be open at once."""

    @model_validator(mode="after")
    def _checked(self) -> ApiSettings:
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ValueError(f"algorithms: {name} is none of {', '.join(ALGORITHMS)}")
        for ours in self.scope_names.values():
            if ours not in SCOPES:
                raise ValueError(f"scope_names: {ours} is none of {', '.join(SCOPES)}")
        for name in ("issuer", "jwks_url"):
            if (url := getattr(self, name)) is not None and not is_private(url):
                raise ValueError(f"{name}: must begin with https:// (or be on this machine)")
        if any(kind != kind.lower() for kind in self.token_types):
            raise ValueError(f"token_types: write them in small letters, or {ANY_TYPE}")
        if self.jwks_url and not self.issuer:
            raise ValueError("jwks_url: name the issuer, too")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate: goes with tls_key; set both")
        if self.no_authentication and not self.is_loopback:
            raise ValueError("no_authentication: only goes with a host of this machine, 127.0.0.1")
        if self.no_authentication and self.has_authentication:
            raise ValueError("no_authentication: contradicts issuer and token_endpoint; unset one")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether it listens to this machine alone."""
        return self.host in _LOOPBACK

    @property
    def has_authentication(self) -> bool:
        """Whether anybody can prove who they are."""
        return self.issuer is not None or self.token_endpoint

    @property
    def own_issuer(self) -> str:
        """What tokens of the built-in endpoint name as their issuer."""
        return self.public_url or "urn:pybak:api"

    def check_startable(self) -> None:
        """Raise PlanError unless somebody may be let in, and others are kept out."""
        if not self.has_authentication and not self.no_authentication:
            raise PlanError(
                "no authentication is set up: set PYBAK_API_ISSUER to that of an OpenID provider, "
                "or PYBAK_API_TOKEN_ENDPOINT=true and make a client with `python "
                "deployments/clients.py add NAME`; to try it alone on this machine set "
                "PYBAK_API_NO_AUTHENTICATION=true"
            )


def from_environment(environ: Mapping[str, str]) -> ApiSettings:
    """Read the settings. Raises PlanError, which names the variable but not its value."""
    given: dict[str, Any] = {}
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and value:
            given[variable.removeprefix(PREFIX).lower()] = value
    try:
        return ApiSettings.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        if fault["loc"]:
            name = f"{PREFIX}{str(fault['loc'][0]).upper()}"
            if fault["type"] == "extra_forbidden":
                raise PlanError(f"{name}: there is no such setting; see docs/api.md") from None
            raise PlanError(f"{name}: {_words(fault)}") from None
        name, _, what = _words(fault).partition(": ")
        raise PlanError(f"{PREFIX}{name.upper()}: {what}") from None


def _words(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    text = str(fault["msg"])
    return text[:1].lower() + text[1:]
