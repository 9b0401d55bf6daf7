"""What a run's options mean: format, rules, workers, and whether they fit its password."""

from __future__ import annotations

from typing import Final

from pybak.backup.batches import ZIP
from pybak.backup.rules import Rules
from pybak.errors import PlanError
from pybak.formats.streams import memory_bytes
from pybak.formats.suffixes import format_of_name
from pybak.options import BackupOptions
from pybak.resources import Share, default_workers, share_memory, usable_cpus
from pybak.units import parse_size

NETWORK: Final = ("tcp://", "tls://")


def archive_format(options: BackupOptions, output: str | None) -> str:
    """Give the format that is wanted. A known ending of `output` decides where `options` say zip.

    A form sends its defaults along, so zip may be what nobody chose. Raises PlanError where the
    two contradict each other.
    """
    named = format_of_name(output) if output else None
    if named in (None, options.format):
        return options.format
    if options.format == ZIP:
        return named or ZIP
    raise PlanError(
        f"{output}: is a name for {named}, and the format is {options.format}; "
        f"give it a name that ends with .{options.format}"
    )


def check_password(options: BackupOptions, *, encrypted: bool) -> None:
    """Raise PlanError where a password is missing, or can't get to where it is needed."""
    if options.hide_names and not encrypted:
        raise PlanError("--hide-names: needs a password; give it with -p")
    if encrypted and options.password_block is None and options.cluster.startswith(NETWORK):
        raise PlanError(
            f"--cluster: a typed password does not reach the workers of {options.cluster}; "
            "keep it in a Prefect block and name that with --password-block"
        )


def rules_of(options: BackupOptions) -> Rules:
    """Build the rules that the options ask for. Raises PlanError for what is no pattern."""
    return Rules.build(
        include=options.include,
        exclude=options.exclude,
        exclude_from=options.exclude_from,
        max_file_size=options.max_file_size,
        one_file_system=options.one_file_system,
        use_markers=not options.ignore_markers,
    )


def share_of(options: BackupOptions, archive_format: str) -> Share:
    """Give how many workers there are, and what memory each may take."""
    limit = parse_size(options.memory_limit) if options.memory_limit else None
    wanted = options.workers or default_workers(usable_cpus())
    return share_memory(wanted, limit, more_bytes=memory_bytes(archive_format, options.level))
