"""The three commands: what each can be told, and the request that comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.output import View
from pybak.cli.settings import Given, Setting, shown, text, texts
from pybak.display import escape, printable
from pybak.errors import PlanError

if TYPE_CHECKING:
    import click

    from pybak.options import BackupOptions, RestoreOptions, VerifyOptions

# Suffixes by which people and programs know an archive's format.
_SUFFIX_FORMATS: Final = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "tar.gz", ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2", ".tbz2": "tar.bz2", ".tbz": "tar.bz2",
    ".tar.zst": "tar.zst", ".tzst": "tar.zst",
    ".tar.xz": "tar.xz", ".txz": "tar.xz",
    ".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".7z": "7z", ".rar": "rar",
}  # fmt: skip

_JOB = Setting(
    "job", "Name of this backup job; its runs form one history.", ("--job",), metavar="NAME"
)
_FILES_HELP: Final = (
    "include", "exclude", "exclude_from", "files_from", "max_file_size", "one_file_system",
    "ignore_markers", "overwrite",
)  # fmt: skip
_COMMON: Final = ("config", "json", "quiet", "debug", "version", "help")


@dataclass(frozen=True)
class BackupRequest:
    """A backup that was asked for; at most one of `to` and `output` is set."""

    sources: tuple[str, ...]
    to: str | None
    output: str | None
    job: str | None
    options: BackupOptions
    view: View


@dataclass(frozen=True)
class RestoreRequest:
    """A restore that was asked for; `archive` is a path, a run id or `latest`."""

    archive: str
    to: str
    job: str | None
    options: RestoreOptions
    view: View


@dataclass(frozen=True)
class VerifyRequest:
    """A check that was asked for; each archive is a path, a run id or `latest`."""

    archives: tuple[str, ...]
    job: str | None
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
        _JOB,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        options = cast("BackupOptions", parsed.options)
        given = _output_or_destination(parsed.given)
        sources = texts(given.get("sources"))
        if not sources and not options.files_from:
            raise PlanError("no SOURCE; name a folder or a file to back up")
        output = text(given.get("output"))
        if output is not None:
            _check_output(output, options.format, given["output"].origin)
        return run(
            BackupRequest(
                sources=sources,
                to=text(given.get("to")),
                output=output,
                job=_job(given.get("job")),
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
            "Where": ("sources", "output", "to", "job"),
            "Which files": _FILES_HELP,
            "How": ("format", "level", "workers", "chunk_size", "memory_limit", "staging",
                    "cluster", "dry_run"),
            "This command": _COMMON,
        },
        run=checked,
    )  # fmt: skip


def restore_command(run: Callable[[RestoreRequest], int]) -> click.Command:
    """Make the `restore` command; `run` does what is asked and gives the exit code."""
    from pybak.options import RestoreOptions

    extras = (
        Setting(
            "archive", "An archive, a run's id, or `latest`.",
            metavar="ARCHIVE", many=True, is_path=True, in_environment=False,
        ),
        # PYBAK_TO says where backups go; it must never say where a restore writes.
        Setting(
            "to", "The folder to restore into; made if missing. Never taken from the environment.",
            ("--to",), metavar="DIR", is_path=True, in_environment=False,
        ),
        _JOB,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        archives = texts(parsed.given.get("archive"))
        if not archives:
            raise PlanError("no ARCHIVE; name an archive, a run id or latest")
        if len(archives) > 1:
            raise PlanError(
                f"{len(archives)} archives named, {printable(archives[1])} is one too many; "
                "restore one at a time"
            )
        to = text(parsed.given.get("to"))
        if to is None:
            raise PlanError("--to is missing; name the folder to restore into")
        return run(
            RestoreRequest(
                archive=archives[0],
                to=to,
                job=_job(parsed.given.get("job")),
                options=cast("RestoreOptions", parsed.options),
                view=parsed.view,
            )
        )

    return build_command(
        "restore",
        RestoreOptions,
        about="Restore files from an archive. Nothing is ever written outside the folder --to.",
        usage="[OPTIONS] ARCHIVE|RUN|latest --to DIR",
        extras=extras,
        groups={
            "Where": ("archive", "to", "job"),
            "Which files": _FILES_HELP,
            "How": ("workers", "cluster", "dry_run"),
            "This command": _COMMON,
        },
        run=checked,
    )


def verify_command(run: Callable[[VerifyRequest], int]) -> click.Command:
    """Make the `verify` command; `run` does what is asked and gives the exit code."""
    from pybak.options import VerifyOptions

    extras = (
        Setting(
            "archives", "Archives, run ids, or `latest`.",
            metavar="ARCHIVE", many=True, is_path=True, in_environment=False,
        ),
        _JOB,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        archives = texts(parsed.given.get("archives"))
        if not archives:
            raise PlanError("no ARCHIVE; name an archive, a run id or latest")
        return run(
            VerifyRequest(
                archives=archives,
                job=_job(parsed.given.get("job")),
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
            "Which": ("archives", "job"),
            "How": ("workers", "cluster"),
            "This command": _COMMON,
        },
        run=checked,
    )


def _output_or_destination(given: Mapping[str, Given]) -> Mapping[str, Given]:
    """Keep the stronger one of `output` and `to`; both in one layer can't be meant."""
    if "output" not in given or "to" not in given:
        return given
    output, to = given["output"], given["to"]
    if output.layer == to.layer:
        raise PlanError(
            f"{output.origin} and {to.origin} exclude each other; "
            "--output names the file, --to the folder"
        )
    weaker = "to" if output.layer < to.layer else "output"
    return {name: value for name, value in given.items() if name != weaker}


def _check_output(output: str, archive_format: str, origin: str) -> None:
    if output.endswith("/") or os.path.isdir(output):
        raise PlanError(
            f"{origin}: {printable(output)} is a folder; name a file, or give the folder as --to"
        )
    name = os.path.basename(output).lower()
    # The longest suffix that fits: .tar.gz before .gz.
    suffix = max((s for s in _SUFFIX_FORMATS if name.endswith(s)), key=len, default=None)
    if suffix is not None and _SUFFIX_FORMATS[suffix] != archive_format:
        better = output[: -len(suffix)] + "." + archive_format
        raise PlanError(
            f"{origin}: {printable(output)} is a name for {_SUFFIX_FORMATS[suffix]}, and --format "
            f"is {archive_format}; name it {printable(better)}"
        )


def _job(given: Given | None) -> str | None:
    job = text(given)
    if given is not None and job is not None and ("/" in job or escape(job) != job):
        raise PlanError(
            f"{given.origin}: {shown(job)} is no job name; "
            "archives are named after it, so leave out slashes and control characters"
        )
    return job
