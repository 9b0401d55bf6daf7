"""What the dashboard is told, by `PYBAK_DASHBOARD_…` variables of the environment.

All else it takes from the service beside which it runs (`pybak.api.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from pybak.api.auth.scopes import SCOPES
from pybak.api.settings import ApiSettings
from pybak.errors import PlanError

PREFIX: Final = "PYBAK_DASHBOARD_"
PATH: Final = "/dashboard"
"""Where it is, seen from the service's root."""


class DashboardSettings(BaseModel):
    """The settings of the dashboard."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    enabled: bool = True
    client_id: str | None = None
    """The client that the OpenID provider knows the dashboard by."""
    client_secret: SecretStr | None = None
    """Its secret; a public client has none, PKCE is used either way."""
    scope: str = "openid " + " ".join(SCOPES)
    """What is asked for at the provider."""
    session_minutes: int = Field(default=60, ge=1, le=24 * 60)
    """After how long a login ends."""

    def has_login(self, api: ApiSettings) -> bool:
        """Whether somebody can log in, or nobody has to."""
        return api.token_endpoint or api.no_authentication or self.has_provider(api)

    def has_provider(self, api: ApiSettings) -> bool:
        """Whether people log in at an OpenID provider."""
        return api.issuer is not None and self.client_id is not None


def from_environment(environ: Mapping[str, str]) -> DashboardSettings:
    """Read the settings. Raises PlanError, which names the variable but not its value."""
    given = {
        variable.removeprefix(PREFIX).lower(): value
        for variable, value in environ.items()
        if variable.startswith(PREFIX) and value
    }
    try:
        return DashboardSettings.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = f"{PREFIX}{str(fault['loc'][0]).upper()}"
        if fault["type"] == "extra_forbidden":
            raise PlanError(f"{name}: there is no such setting; see docs/dashboard.md") from None
        text = str(fault["msg"])
        raise PlanError(f"{name}: {text[:1].lower()}{text[1:]}") from None
