"""The drill command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import NOTICES
from pybak.cli.output import View
from pybak.cli.passwords import PASSWORD, Password, chosen_password, password_of
from pybak.cli.settings import Setting, text

if TYPE_CHECKING:
    import click

    from pybak.options.drill import DrillOptions


@dataclass(frozen=True)
class DrillRequest:
    """A restore drill that was asked for; `job` may be left out where there is only one."""

    job: str | None
    password: Password
    options: DrillOptions
    view: View


def drill_command(run: Callable[[DrillRequest], int]) -> click.Command:
    """Make the `drill` command; `run` does what is asked and gives the exit code."""
    from pybak.options.drill import DrillOptions

    extras = (
        Setting("job", "The job whose newest backup is tried.", ("--job",), metavar="NAME"),
        PASSWORD,
    )

    def checked(parsed: Parsed) -> int:
        job = text(parsed.given.get("job"))
        options = cast("DrillOptions", parsed.options)
        return run(DrillRequest(job, password_of(parsed.given), options, parsed.view))

    return build_command(
        "drill",
        DrillOptions,
        about=(
            "Restore a random sample of the newest backup and compare it with what was saved; "
            "any difference gives exit code 1."
        ),
        usage="[OPTIONS] --job NAME",
        extras=extras,
        groups={
            "Which": ("job", "sample", "seed", "password", "password_block"),
            "How": ("scratch", "workers", "cluster", "max_ratio", "max_members"),
            "Telling": NOTICES,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        settle=chosen_password,
        run=checked,
    )
