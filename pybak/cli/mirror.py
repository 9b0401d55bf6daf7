"""The mirror command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pybak.cli.building import LAYERS, Parsed, build_command
from pybak.cli.notices import HOOKS, NOTICES
from pybak.cli.output import View
from pybak.cli.settings import Given, Setting, text, texts
from pybak.display import printable
from pybak.errors import PlanError

if TYPE_CHECKING:
    import click

    from pybak.options.mirror import MirrorOptions

_EPILOG: Final = f"""\
{LAYERS}

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial (some files failed, or more was to be deleted
than may be), 10 not found, 11 job is running, 130 interrupted."""


@dataclass(frozen=True)
class MirrorRequest:
    """A mirror that was asked for."""

    source: str
    destination: str
    job: str | None
    options: MirrorOptions
    view: View


def mirror_command(run: Callable[[MirrorRequest], int]) -> click.Command:
    """Make the `mirror` command; `run` does what is asked and gives the exit code."""
    from pybak.options.mirror import MirrorOptions

    # PYBAK_SOURCE or the like must never say where things are deleted.
    extras = (
        Setting(
            "places",
            "The folder whose content is copied, and the folder that gets it: SOURCE/a becomes "
            "DESTINATION/a. A single file goes into the folder DESTINATION.",
            metavar="SOURCE DESTINATION", many=True, is_path=True, in_environment=False,
            in_file=False,
        ),
        Setting(
            "source", "The same as SOURCE, for the configuration file.", ("--source",),
            metavar="DIR", is_path=True, in_environment=False,
        ),
        Setting(
            "destination", "The same as DESTINATION, for the configuration file.",
            ("--destination",), metavar="DIR", is_path=True, in_environment=False,
        ),
        Setting(
            "job", "What this mirror is called in the history. Default: the destination.",
            ("--job",), metavar="NAME", in_environment=False,
        ),
        Setting(
            "processes", "The same as --workers, as older configuration files call it.",
            ("--processes",), metavar="N", in_environment=False,
        ),
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        source, destination = _places(parsed)
        job = text(parsed.given.get("job"))
        options = cast("MirrorOptions", parsed.options)
        return run(MirrorRequest(source, destination, job, options, parsed.view))

    return build_command(
        "mirror",
        MirrorOptions,
        about=(
            "Copy the content of a folder into another one in parallel, with all metadata, and "
            "only what changed; with --delete make it the same."
        ),
        usage="[OPTIONS] SOURCE DESTINATION",
        epilog=_EPILOG,
        extras=extras,
        groups={
            "Where": ("places", "source", "destination", "job"),
            "Which files": ("include", "exclude", "all", "compare_content"),
            "Deleting": ("delete", "max_delete", "allow_empty"),
            "How": ("verify", "owner", "workers", "processes", "cluster", "wait", "wait_limit",
                    "dry_run"),
            "Telling": NOTICES,
            "Hooks": HOOKS,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        settle=_processes_are_workers,
        run=checked,
    )  # fmt: skip


def _processes_are_workers(given: dict[str, Given], _words: Sequence[str]) -> Mapping[str, Given]:
    """Take `processes` for `workers`; of the two the stronger layer counts."""
    processes, workers = given.get("processes"), given.get("workers")
    if processes is not None and (workers is None or processes.layer < workers.layer):
        given["workers"] = processes
    return given


def _places(parsed: Parsed) -> tuple[str, str]:
    """Give source and destination; words of the line beat the options, and these the file."""
    words = texts(parsed.given.get("places"))
    source, destination = text(parsed.given.get("source")), text(parsed.given.get("destination"))
    if len(words) > 2:
        raise PlanError(
            f"{len(words)} places named, {printable(words[2])} is one too many; name SOURCE and "
            "DESTINATION"
        )
    if len(words) == 1:
        raise PlanError(
            f"{printable(words[0])} alone; name SOURCE and DESTINATION, or --source and "
            "--destination"
        )
    if words:
        source, destination = words
    if source is None or destination is None:
        missing = "SOURCE" if source is None else "DESTINATION"
        raise PlanError(f"no {missing}; name the folder to copy and the one to copy into")
    return source, destination
