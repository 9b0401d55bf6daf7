"""The inbox command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import HOOKS, NOTICES
from pybak.cli.output import View
from pybak.cli.passwords import PASSWORD, Password, chosen_password, password_of
from pybak.cli.settings import Setting, text, texts
from pybak.display import printable
from pybak.errors import PlanError
from pybak.units import parse_duration

if TYPE_CHECKING:
    import click

    from pybak.options.inbox import InboxOptions

EVERY: Final = "120s"


@dataclass(frozen=True)
class InboxRequest:
    """A round that was asked for; with `every_seconds` one after the other."""

    source: str
    destination: str
    every_seconds: float | None
    password: Password
    options: InboxOptions
    view: View


def inbox_command(run: Callable[[InboxRequest], int]) -> click.Command:
    """Make the `inbox` command; `run` does what is asked and gives the exit code."""
    from pybak.options.inbox import InboxOptions

    # PYBAK_SOURCE or the like must never say whose files are taken away.
    extras = (
        Setting(
            "places", "The folder whose files are taken, and the place that gets them.",
            metavar="SOURCE DESTINATION", many=True, is_path=True, in_environment=False,
            in_file=False,
        ),
        Setting(
            "source", "The same as SOURCE, for the configuration file.", ("--source",),
            metavar="DIR", is_path=True, in_environment=False,
        ),
        Setting(
            "destination",
            "The same as DESTINATION: a folder, s3://BUCKET/PREFIX, gs://… or block:NAME.",
            ("--destination",), metavar="DESTINATION", is_path=True, in_environment=False,
        ),
        Setting(
            "watch", "Do rounds again and again in the foreground, until Ctrl-C.", ("--watch",),
            flag=True, in_environment=False,
        ),
        Setting(
            "every", f"From the start of a round with --watch to the next  [default: {EVERY}]",
            ("--every",), metavar="DURATION", in_environment=False,
        ),
        PASSWORD,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        options = cast("InboxOptions", parsed.options)
        source, destination = _places(parsed)
        return run(
            InboxRequest(
                source=source,
                destination=destination,
                every_seconds=_every(parsed, options),
                password=password_of(parsed.given),
                options=options,
                view=parsed.view,
            )
        )

    return build_command(
        "inbox",
        InboxOptions,
        about=(
            "Compress the new files of a folder, each into one file named by the time, store and "
            "check them, and only then remove them. What is still being written waits."
        ),
        usage="[OPTIONS] SOURCE DESTINATION",
        extras=extras,
        groups={
            "Where": ("places", "source", "destination", "also_to"),
            "Which files": ("include", "exclude", "settle", "all_names", "keep",
                            "keep_duplicates", "duplicates_to"),
            "What is written": ("format", "level", "password", "password_block", "read_back"),
            "How": ("watch", "every", "workers", "staging", "wait", "wait_limit", "dry_run"),
            "Telling": NOTICES,
            "Hooks": HOOKS,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        settle=chosen_password,
        run=checked,
    )  # fmt: skip


def _places(parsed: Parsed) -> tuple[str, str]:
    """Give source and destination; words of the line beat the options, and these the file."""
    words = texts(parsed.given.get("places"))
    if len(words) > 2:
        raise PlanError(
            f"{len(words)} places named, {printable(words[2])} is one too many; name SOURCE and "
            "DESTINATION, and further places by --also-to"
        )
    source, destination = text(parsed.given.get("source")), text(parsed.given.get("destination"))
    if len(words) == 1 and source is not None and destination is None:
        destination = words[0]
    elif words:
        source = words[0]
        destination = words[1] if len(words) == 2 else destination
    if source is None:
        raise PlanError("no SOURCE; name the folder whose files are to be taken")
    if destination is None:
        raise PlanError("no DESTINATION; name the folder or storage that gets the files")
    return source, destination


def _every(parsed: Parsed, options: InboxOptions) -> float | None:
    watch, every = parsed.given.get("watch"), text(parsed.given.get("every"))
    if watch is None or str(watch.value).lower() not in ("true", "1", "yes", "on"):
        if every is not None and parsed.given["every"].layer == 0:
            raise PlanError("--every: only --watch does more than one round; add --watch")
        return None
    if options.dry_run:
        raise PlanError("--watch and --dry-run exclude each other; leave one out")
    try:
        return float(parse_duration(every or EVERY).total_seconds)
    except ValueError as error:
        raise PlanError(f"{parsed.given['every'].origin}: {error}") from error
