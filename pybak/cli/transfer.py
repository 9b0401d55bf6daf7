"""The transfer command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import NOTICES
from pybak.cli.output import View
from pybak.cli.settings import Setting, text, texts
from pybak.errors import PlanError

if TYPE_CHECKING:
    import click

    from pybak.options.transfer import TransferOptions


@dataclass(frozen=True)
class TransferRequest:
    """A transfer that was asked for; without `archives` all archives of `job`."""

    archives: tuple[str, ...]
    to: str
    job: str | None
    options: TransferOptions
    view: View


def transfer_command(run: Callable[[TransferRequest], int]) -> click.Command:
    """Make the `transfer` command; `run` does what is asked and gives the exit code."""
    from pybak.options.transfer import TransferOptions

    extras = (
        Setting(
            "archives",
            "Archives; runs' ids or `latest` for all archives that a backup needs. Without any: "
            "all of the job --job.",
            metavar="ARCHIVE", many=True, is_path=True, in_environment=False,
        ),
        # PYBAK_TO says where backups go, and PYBAK_JOB what they are called.
        Setting(
            "to",
            "The folder to put them in: a path, s3://BUCKET/PREFIX, gs://… or block:NAME. Never "
            "taken from the environment.",
            ("--to",), metavar="DESTINATION", is_path=True, in_environment=False,
        ),
        Setting(
            "job", "The job whose archives are meant, or whose latest backup.", ("--job",),
            metavar="NAME", in_environment=False,
        ),
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        archives, job = texts(parsed.given.get("archives")), text(parsed.given.get("job"))
        to = text(parsed.given.get("to"))
        if not archives and job is None:
            raise PlanError("no ARCHIVE; name an archive, a run id or latest, or a job with --job")
        if to is None:
            raise PlanError("no --to; name the folder to put the archives in")
        options = cast("TransferOptions", parsed.options)
        return run(TransferRequest(archives, to, job, options, parsed.view))

    return build_command(
        "transfer",
        TransferOptions,
        about=(
            "Copy archives to another place, or move them there, and check what arrived. The "
            "catalog knows them in both places, or in the new one."
        ),
        usage="[OPTIONS] ARCHIVE|RUN|latest... --to DESTINATION",
        extras=extras,
        groups={
            "Which": ("archives", "job"),
            "Where": ("to", "move"),
            "How": ("verify", "upload_parts", "bandwidth_limit", "dry_run", "wait", "wait_limit"),
            "Telling": NOTICES,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        run=checked,
    )
