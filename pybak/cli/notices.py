"""The options of notices and hooks, as the help of commands groups them."""

from __future__ import annotations

from typing import Final

NOTICES: Final = ("mail", "mail_when", "webhook", "ping", "log_file")
"""The group "Telling"."""

HOOKS: Final = ("before", "after", "hook_timeout")
"""The group "Hooks"."""
