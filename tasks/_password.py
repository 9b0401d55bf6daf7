"""The password of an archive, found where a task or flow runs."""

from __future__ import annotations

import os

from pybak.password import from_environment


def password_for(block: str | None) -> bytes | None:
    """Give the password in the Prefect block `block`; without one, that of the environment.

    None if there is neither. The result must not become a task's parameter or result. Raises
    PlanError for a block that does not exist, and for an empty password.
    """
    if block is None:
        return from_environment(os.environ)
    from blocks.password import load_password

    return load_password(block)
