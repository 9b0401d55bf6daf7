"""What servers and SDKs say, made fit to be shown: in one line, without what may be a secret."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from pybak.errors import PlanError

_USER: Final = re.compile(r"""(?:(?<=//)|(?<=endpoint: )|(?<=["'`])(?=[^\s"'`/]*:))[^\s"'`<>]*@""")
_QUERY: Final = re.compile(r"\?[^\s\"'`<>]+")


def bare(said: object) -> str:
    """Give a text in one line, without the users, passwords and queries of its URLs."""
    return _QUERY.sub("", _USER.sub("", " ".join(str(said).split())))


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
