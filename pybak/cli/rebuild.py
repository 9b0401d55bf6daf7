"""The rebuild command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import NOTICES
from pybak.cli.output import View
from pybak.cli.passwords import PASSWORD, Password, chosen_password, password_of
from pybak.cli.settings import Setting, texts
from pybak.errors import PlanError

if TYPE_CHECKING:
    import click

    from pybak.options.rebuild import RebuildOptions


@dataclass(frozen=True)
class RebuildRequest:
    """A rebuild of the catalog that was asked for."""

    destinations: tuple[str, ...]
    password: Password
    options: RebuildOptions
    view: View


def rebuild_command(run: Callable[[RebuildRequest], int]) -> click.Command:
    """Make the `rebuild` command; `run` does what is asked and gives the exit code."""
    from pybak.options.rebuild import RebuildOptions

    extras = (
        Setting(
            "destinations", "Folders that hold archives, here or in storages, or single archives.",
            metavar="DESTINATION", many=True, is_path=True, in_environment=False,
        ),
        PASSWORD,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        destinations = texts(parsed.given.get("destinations"))
        if not destinations:
            raise PlanError("no DESTINATION; name the folder that holds the archives")
        options = cast("RebuildOptions", parsed.options)
        password = password_of(parsed.given)
        return run(RebuildRequest(destinations, password, options, parsed.view))

    return build_command(
        "rebuild",
        RebuildOptions,
        about="Make the catalog anew from the archives that it is about. The old one is kept.",
        usage="[OPTIONS] DESTINATION...",
        extras=extras,
        groups={
            "Which": ("destinations", "password", "password_block"),
            "How": ("no_digests", "replace", "workers", "dry_run"),
            "Telling": NOTICES,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        settle=chosen_password,
        run=checked,
    )
