"""The three commands: what each can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import HOOKS, NOTICES
from pybak.cli.output import View
from pybak.cli.outputs import output_or_destination, settle_format
from pybak.cli.passwords import (
    PASSWORD,
    Password,
    check_reaches_workers,
    chosen_password,
    password_of,
)
from pybak.cli.settings import Given, Setting, shown, text, texts
from pybak.display import escape, printable
from pybak.errors import PlanError
from pybak.units import parse_size

if TYPE_CHECKING:
    import click

    from pybak.options import BackupOptions, RestoreOptions, VerifyOptions

JOB = Setting(
    "job", "Name of this backup job; its runs form one history.", ("--job",), metavar="NAME"
)
_FILES_HELP: Final = (
    "include", "exclude", "exclude_from", "files_from", "max_file_size", "one_file_system",
    "ignore_markers", "overwrite", "delete",
)  # fmt: skip
_YES: Final = ("true", "1", "yes", "y", "on", "t")
_COMMON: Final = ("config", "json", "quiet", "debug", "version", "help")


@dataclass(frozen=True)
class BackupRequest:
    """A backup that was asked for; at most one of `to` and `output` is set."""

    sources: tuple[str, ...]
    to: str | None
    output: str | None
    job: str | None
    password: Password
    options: BackupOptions
    view: View


@dataclass(frozen=True)
class RestoreRequest:
    """A restore that was asked for; `archive` is a path, a run's id or `latest`.

    `to` is None for one file that goes to stdout.
    """

    archive: str
    to: str | None
    job: str | None
    password: Password
    options: RestoreOptions
    view: View


@dataclass(frozen=True)
class VerifyRequest:
    """A check that was asked for; each archive is a path, a run id or `latest`."""

    archives: tuple[str, ...]
    job: str | None
    password: Password
    options: VerifyOptions
    view: View


def backup_command(run: Callable[[BackupRequest], int]) -> click.Command:
    """Make the `backup` command; `run` does what is asked and gives the exit code."""
    from pybak.options import BackupOptions

    extras = (
        Setting(
            "sources", "Folders and files to back up.",
            metavar="SOURCE", many=True, is_path=True,
        ),
        Setting(
            "output", "Write the archive to this file, which must not exist.",
            ("-o", "--output"), metavar="FILE", is_path=True,
        ),
        Setting(
            "to",
            "Write the archive into this folder, named by job and time. Without -o and --to: "
            "the current folder.",
            ("--to",), metavar="DESTINATION", is_path=True,
        ),
        JOB,
        PASSWORD,
    )  # fmt: skip

    def settled(given: dict[str, Given], words: Sequence[str]) -> Mapping[str, Given]:
        kept = output_or_destination(chosen_password(given, words))
        hides = "hide_names" in kept and str(kept["hide_names"].value).lower() in _YES
        return settle_format(kept, encrypted=bool(password_of(kept)), hides_names=hides)

    def checked(parsed: Parsed) -> int:
        options = cast("BackupOptions", parsed.options)
        given, password = parsed.given, password_of(parsed.given)
        sources = texts(given.get("sources"))
        if not sources and not options.files_from:
            raise PlanError("no SOURCE; name a folder or a file to back up")
        _check_split(given.get("split"))
        if options.hide_names and not password:
            raise PlanError(
                f"{given['hide_names'].origin}: names are hidden by encryption; "
                "give a password with -p"
            )
        check_reaches_workers(password, options.cluster)
        if options.full_every is not None and options.mode == "full":
            raise PlanError(
                "--full-every: every run is full without --mode incremental or differential; "
                "add one of these"
            )
        return run(
            BackupRequest(
                sources=sources,
                to=text(given.get("to")),
                output=text(given.get("output")),
                job=job_name(given.get("job")),
                password=password,
                options=options,
                view=parsed.view,
            )
        )

    return build_command(
        "backup",
        BackupOptions,
        about="Back up folders and files into one ordinary archive, with every core.",
        usage="[OPTIONS] SOURCE...",
        extras=extras,
        groups={
            "Where": ("sources", "output", "to", "also_to", "job"),
            "Which files": _FILES_HELP,
            "What is written": ("format", "level", "password", "password_block", "hide_names",
                                "split", "checksum"),
            "History": ("mode", "full_every", "tag", "checksum_compare", "ignore_ctime",
                        "ignore_inode", "allow_empty", "dedupe", "wait", "wait_limit"),
            "How": ("workers", "chunk_size", "memory_limit", "staging", "staging_limit",
                    "upload_parts", "bandwidth_limit", "cluster", "dry_run"),
            "Telling": NOTICES,
            "Hooks": HOOKS,
            "This command": _COMMON,
        },
        settle=settled,
        run=checked,
    )  # fmt: skip


def restore_command(run: Callable[[RestoreRequest], int]) -> click.Command:
    """Make the `restore` command; `run` does what is asked and gives the exit code."""
    from pybak.options import RestoreOptions

    extras = (
        Setting(
            "archive", "An archive, a run's id, or `latest`, which --at means by itself.",
            metavar="ARCHIVE", many=True, is_path=True, in_environment=False,
        ),
        # PYBAK_TO says where backups go; it must never say where a restore writes.
        Setting(
            "to", "The folder to restore into; made if missing. Never taken from the environment.",
            ("--to",), metavar="DIR", is_path=True, in_environment=False,
        ),
        Setting(
            "stdout", "Write the one file that --include names to stdout instead.",
            ("--stdout",), flag=True, in_environment=False, in_file=False,
        ),
        JOB,
        PASSWORD,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        archives = texts(parsed.given.get("archive"))
        options = cast("RestoreOptions", parsed.options)
        if not archives and options.at is not None:
            archives = ("latest",)
        if not archives:
            raise PlanError("no ARCHIVE; name an archive, a run id or latest")
        if len(archives) > 1:
            raise PlanError(
                f"{len(archives)} archives named, {printable(archives[1])} is one too many; "
                "restore one at a time"
            )
        return run(
            RestoreRequest(
                archive=archives[0],
                to=_target(parsed, options),
                job=text(parsed.given.get("job")),
                password=password_of(parsed.given),
                options=options,
                view=parsed.view,
            )
        )

    return build_command(
        "restore",
        RestoreOptions,
        about=(
            "Restore files from an archive or from the history of a job. Nothing is ever written "
            "outside the folder --to."
        ),
        usage="[OPTIONS] ARCHIVE|RUN|latest --to DIR|--stdout",
        extras=extras,
        groups={
            "Where": ("archive", "to", "stdout", "job", "at", "password", "password_block"),
            "Which files": _FILES_HELP,
            "How": ("owner", "workers", "cluster", "max_ratio", "max_members", "dry_run"),
            "Telling": NOTICES,
            "This command": _COMMON,
        },
        settle=chosen_password,
        run=checked,
    )


def verify_command(run: Callable[[VerifyRequest], int]) -> click.Command:
    """Make the `verify` command; `run` does what is asked and gives the exit code."""
    from pybak.options import VerifyOptions

    extras = (
        Setting(
            "archives", "Archives; runs' ids or `latest` for all archives that a backup needs.",
            metavar="ARCHIVE", many=True, is_path=True, in_environment=False,
        ),
        JOB,
        PASSWORD,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        archives = texts(parsed.given.get("archives"))
        if not archives:
            raise PlanError("no ARCHIVE; name an archive, a run id or latest")
        return run(
            VerifyRequest(
                archives=archives,
                job=text(parsed.given.get("job")),
                password=password_of(parsed.given),
                options=cast("VerifyOptions", parsed.options),
                view=parsed.view,
            )
        )

    return build_command(
        "verify",
        VerifyOptions,
        about="Read archives through and check every member; damage gives exit code 1.",
        usage="[OPTIONS] ARCHIVE|RUN|latest...",
        extras=extras,
        groups={
            "Which": ("archives", "job", "password", "password_block"),
            "How": ("sample", "workers", "cluster", "max_ratio", "max_members"),
            "Telling": NOTICES,
            "This command": _COMMON,
        },
        settle=chosen_password,
        run=checked,
    )


def _check_split(split: Given | None) -> None:
    if split is None:
        return
    from pybak.volumes.write import LEAST_SPLIT

    if parse_size(split.value) < LEAST_SPLIT:
        raise PlanError(
            f"{split.origin}: {shown(split.value)} is too small for a volume; "
            f"write at least {LEAST_SPLIT >> 10}KiB"
        )


def _target(parsed: Parsed, options: RestoreOptions) -> str | None:
    """Give the folder to restore into, None for stdout."""
    to = parsed.given.get("to")
    if "stdout" not in parsed.given or not parsed.given["stdout"].value:
        if to is None:
            raise PlanError("--to is missing; name the folder to restore into")
        return text(to)
    others = {
        "--to": to is not None and to.layer == 0,
        "--json": parsed.view.json,
        "--delete": options.delete,
        "--dry-run": options.dry_run,
    }
    if clash := next((name for name, is_given in others.items() if is_given), None):
        raise PlanError(
            f"--stdout and {clash} exclude each other; with --stdout one file's content is "
            "written there, and nothing else"
        )
    if not options.include:
        raise PlanError("--stdout: which file? name it with --include")
    return None


def job_name(given: Given | None) -> str | None:
    """Give the job that a backup is of. Raises PlanError for what can't be part of a file name.

    A job without a name is called after its sources; it can be looked up by that, slashes and all.
    """
    job = text(given)
    if given is not None and job is not None and ("/" in job or escape(job) != job):
        raise PlanError(
            f"{given.origin}: {shown(job)} is no job name; "
            "archives are named after it, so leave out slashes and control characters"
        )
    return job
