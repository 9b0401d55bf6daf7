"""What is wrong with an endpoint, in words without what may be a secret."""

from __future__ import annotations

from urllib.parse import urlsplit

from pybak.bare import bare
from pybak.errors import PlanError


def check_endpoint(endpoint: str | None) -> None:
    """Raise PlanError for a server's URL with a user or password, which nothing needs."""
    if endpoint is None:
        return
    try:
        named = "@" in urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").netloc
    except ValueError:  # told by the SDK
        named = "@" in endpoint
    if named:
        raise PlanError(
            f"{bare(endpoint if '//' in endpoint else f'//{endpoint}')}: an endpoint has no user "
            "and no password; leave them out, credentials have fields of their own"
        )
