"""Why a request is refused before it is looked at, and what the answer says (RFC 6750 §3)."""

from __future__ import annotations

from typing import Final

from pybak.display import escape

REALM: Final = "pybak"


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """A request without the right to what it asks for; `header` is for `WWW-Authenticate`."""

    status = 401
    code = "unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def header(self) -> str:
        """The challenge; without credentials it names no error (RFC 6750 §3.1)."""
        return f'Bearer realm="{REALM}"'


class InvalidTokenError(Refusal):
    """A token that is not valid, or not for here. The text is for the one who sent it."""

    code = "invalid-token"

    @property
    def header(self) -> str:
        """The challenge of RFC 6750 §3.1."""
        return (
            f'Bearer realm="{REALM}", error="invalid_token", '
            f'error_description="{quoted(self.detail)}"'
        )


class InsufficientScopeError(Refusal):
    """A good token that does not allow this."""

    status = 403
    code = "insufficient-scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs the scope {scope}; ask for a token that has it")
        self.scope = scope

    @property
    def header(self) -> str:
        """The challenge, with the scope that is missing."""
        return (
            f'Bearer realm="{REALM}", error="insufficient_scope", '
            f'error_description="{quoted(self.detail)}", scope="{self.scope}"'
        )


class ProviderError(Exception):
    """The provider's keys can't be had, so that nothing can be decided; in one line."""


def quoted(text: str) -> str:
    """Give text for inside the quotes of a header: ASCII without quotes and backslashes."""
    plain = escape(text).encode("ascii", "replace").decode("ascii")
    return plain.replace("\\", "/").replace('"', "'")
