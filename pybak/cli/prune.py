"""The prune command: what it can be told, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pybak.cli.building import Parsed, build_command
from pybak.cli.notices import NOTICES
from pybak.cli.output import View
from pybak.cli.passwords import PASSWORD, Password, chosen_password, password_of
from pybak.cli.settings import Given, Setting, text
from pybak.errors import PlanError

if TYPE_CHECKING:
    import click

    from pybak.options import PruneOptions

_YES: Final = ("true", "1", "yes", "y", "on", "t")


@dataclass(frozen=True)
class PruneRequest:
    """A prune that was asked for; without `job` it is of all jobs, each by itself."""

    job: str | None
    password: Password
    options: PruneOptions
    view: View


def prune_command(run: Callable[[PruneRequest], int]) -> click.Command:
    """Make the `prune` command; `run` does what is asked and gives the exit code."""
    from pybak.options import PruneOptions

    extras = (
        Setting("job", "The job whose snapshots are judged.", ("--job",), metavar="NAME"),
        # Never from the environment: it is said where the prune is asked for, or not at all.
        Setting(
            "all_jobs", "Judge the snapshots of every job, each job by itself.",
            ("--all-jobs",), flag=True, in_environment=False,
        ),
        PASSWORD,
    )  # fmt: skip

    def checked(parsed: Parsed) -> int:
        job = text(parsed.given.get("job"))
        if job is None and "all_jobs" not in parsed.given:
            raise PlanError("which job? name one with --job, or give --all-jobs")
        options = cast("PruneOptions", parsed.options)
        return run(PruneRequest(job, password_of(parsed.given), options, parsed.view))

    return build_command(
        "prune",
        PruneOptions,
        about="Remove snapshots that no rule keeps, and the archives that nothing needs any more.",
        usage="[OPTIONS] --job NAME|--all-jobs",
        extras=extras,
        groups={
            "Which": ("job", "all_jobs"),
            "What is kept": ("keep_last", "keep_hourly", "keep_daily", "keep_weekly",
                             "keep_monthly", "keep_yearly", "keep_within", "keep_tag"),
            "How": ("consolidate", "password", "password_block", "dry_run", "wait", "wait_limit"),
            "Telling": NOTICES,
            "This command": ("config", "json", "quiet", "debug", "version", "help"),
        },
        settle=_settled,
        run=checked,
    )  # fmt: skip


def _settled(given: dict[str, Given], words: Sequence[str]) -> Mapping[str, Given]:
    return _one_of(chosen_password(given, words))


def _one_of(given: dict[str, Given]) -> Mapping[str, Given]:
    """Keep the stronger one of `--job` and `--all-jobs`; both in one layer can't be meant."""
    if "all_jobs" in given and str(given["all_jobs"].value).lower() not in _YES:
        del given["all_jobs"]
    if "job" not in given or "all_jobs" not in given:
        return given
    job, everything = given["job"], given["all_jobs"]
    if job.layer == everything.layer:
        raise PlanError(f"{job.origin} and {everything.origin} exclude each other")
    del given["all_jobs" if job.layer < everything.layer else "job"]
    return given
