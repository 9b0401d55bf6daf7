"""The `pybak` command: it looks, and changes nothing.

    pybak list backup_20261121_101500.tar.zst
    pybak find '*.odt'
    pybak snapshots

`python -m pybak` is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from pybak.cli.building import HELP_COLUMNS
from pybak.cli.diff import diff_command
from pybak.cli.doctor import doctor_command
from pybak.cli.logs import logs_command
from pybak.cli.look import find_command, list_command
from pybak.cli.output import print_text
from pybak.cli.running import main
from pybak.cli.settings import did_you_mean, shown
from pybak.cli.snapshots import snapshots_command
from pybak.cli.status import status_command
from pybak.cli.versions import versions_command
from pybak.errors import PlanError

COMMANDS: Final = {
    "status": status_command,
    "list": list_command,
    "find": find_command,
    "snapshots": snapshots_command,
    "versions": versions_command,
    "diff": diff_command,
    "logs": logs_command,
    "doctor": doctor_command,
}


def pybak(argv: Sequence[str] | None = None) -> int:
    """Run the `pybak` command on `argv` (the process's own without it); give the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and (make := COMMANDS.get(words[0])) is not None:
        return main(make(), words[1:])
    return main(_Group(), words or ["--help"])


class _Group(click.Command):
    """What `pybak` says without a command that it knows."""

    def __init__(self) -> None:
        super().__init__("pybak", add_help_option=False, params=[
            click.Argument(["words"], nargs=-1),
            click.Option(["--version"], is_flag=True, help="Show the version."),
            click.Option(["-h", "--help"], is_flag=True, help="Show this help."),
        ], context_settings={"max_content_width": HELP_COLUMNS})  # fmt: skip
        self.program = "pybak"

    def invoke(self, ctx: click.Context) -> int:
        """Show the help or the version, or say which commands there are."""
        if ctx.params["version"]:
            from pybak import __version__

            print_text(f"pybak {__version__}\n", sys.stdout)
            return 0
        if words := ctx.params["words"]:
            hint = did_you_mean(words[0], COMMANDS) or f"; known are {', '.join(COMMANDS)}"
            raise PlanError(f"no command {shown(words[0])}{hint}")
        print_text(self.get_help(ctx) + "\n", sys.stdout)
        return 0

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage, the commands and the options."""
        formatter.write_usage(ctx.command_path, "COMMAND ...")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(
                "Look into archives and backups, and at how they run. Nothing is ever changed."
            )
        with formatter.section("Commands"):
            formatter.write_dl([(name, make().help or "") for name, make in COMMANDS.items()])
        self.format_options(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(
            "pybak COMMAND --help tells more. Backups are made by `python flows/backup.py`, "
            "unpacked by `python flows/restore.py`, checked by `python flows/verify.py`, removed "
            "by `python flows/prune.py`, copied and moved by `python flows/transfer.py`; "
            "flows/inbox.py empties a folder of new files, flows/mirror.py keeps a copy of a "
            "folder; flows/drill.py tries archives out, and flows/rebuild.py makes a lost catalog "
            "anew."
        )
