"""What a Prefect server that answers, but refuses, is told as: the one place for these sentences.

A server can't say itself that it lacks the key of its blocks: it answers 500 to all that reads
one, also to their list.
"""

from __future__ import annotations

from typing import Final

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
SERVER_ERROR: Final = 500
_PASSING: Final = (429, 502, 503, 504)
_BLOCKS: Final = "/block_documents"
_LOAD_SECRETS: Final = "`set -a; . ~/.config/pybak/secrets.env; set +a`"


def password_refused(place: str, *, has_auth: bool) -> str:
    """Say that the server at `place` wants a password, or `has_auth` another than was given."""
    what = "is another one" if has_auth else "is asked for"
    return (
        f"{place}: the server's password {what}; set PREFECT_API_AUTH_STRING to user:password as "
        f"the server has it ({_LOAD_SECRETS})"
    )


def refused(place: str, path: str, code: int, *, has_auth: bool, detail: str = "") -> str:
    """Say that the server at `place` answers `code` (HTTP, no success) to `path`.

    `detail` is what it says of that, in one line, or empty.
    """
    if code in (UNAUTHORIZED, FORBIDDEN):
        return password_refused(place, has_auth=has_auth)
    if code == SERVER_ERROR and _BLOCKS in path:
        return (
            f"{place}: the server can't read its blocks (500): it probably has another "
            "PREFECT_SERVER_ENCRYPTION_KEY than when they were made; start it with that one, or "
            "without one if it had none; to change the key, delete the blocks first, and make "
            "them again afterwards"
        )
    return f"{place}{path}: the server answers {code}{': ' if detail else ''}{detail}"


def is_passing(code: int) -> bool:
    """Whether the same question may be answered later."""
    return code in _PASSING
