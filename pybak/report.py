"""What a run did, as values: for the terminal, for scripts (JSON), for the Prefect UI (Markdown).

The JSON keys are a contract with scripts; keys may be added, never renamed. `to_json` gives
everything as it is; the other forms name at most 20 files of a kind and count the rest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from pybak.display import ELLIPSIS, columns, escape, markdown, pad, printable, shell_word
from pybak.errors import (
    ArchiveError,
    ExitCode,
    Interrupted,
    NotFoundError,
    PlanError,
    SourceError,
    StorageError,
)
from pybak.problems import DAMAGED, SOURCE_MISSING, STORAGE, Problem
from pybak.units import format_count, format_duration, format_size
from pybak.volumes.model import Volume

SUCCESS: Final = "success"
UNCHANGED: Final = "unchanged"
PARTIAL: Final = "partial"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

NAMED_FILES: Final = 20
"""How many failed, skipped or damaged files are named for people."""

RESTORE_COMMAND: Final = "python flows/restore.py"
_EXIT_CODES: Final = {
    SUCCESS: ExitCode.DONE,
    UNCHANGED: ExitCode.DONE,
    PARTIAL: ExitCode.PARTIAL,
    FAILED: ExitCode.FAILED,
    CANCELLED: ExitCode.INTERRUPTED,
}
_LABEL_WIDTH: Final = 13
_RATE_FROM_BYTES: Final = 1_000_000  # below this the fixed cost hides the rate


class FileCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How a backup counted its files; folders are not among them."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    excluded: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The files that the backup is about."""
        return self.new + self.changed + self.unchanged + self.failed

    def changes(self) -> str:
        """Say what differs from the run before."""
        return (
            f"{_count(self.new)} new, {_count(self.changed)} changed, "
            f"{_count(self.unchanged)} unchanged"
        )

    def to_json(self) -> dict[str, int]:
        """Give the `files` object of the contract."""
        return {"total": self.total, **msgspec.structs.asdict(self)}


class BackupReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup did.

    `bytes_read` is what was read from the sources, `bytes_stored` the size of the archive.
    `errors` are the files that failed, `skipped` those that could not be taken and are no error.
    `excluded_by` counts excluded files and folders by reason. `message` tells why a run failed.
    """

    status: str
    run_id: str | None = None
    job: str | None = None
    archive: str | None = None
    volumes: tuple[Volume, ...] = ()
    files: FileCounts = FileCounts()
    folders: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    duration_seconds: float = 0.0
    level: int | None = None
    excluded_by: Mapping[str, int] = {}
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return _EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "run_id": self.run_id,
            "job": self.job,
            "archive": self.archive,
            "volumes": [volume.to_json() for volume in self.volumes],
            "files": self.files.to_json(),
            "folders": self.folders,
            "bytes_read": self.bytes_read,
            "bytes_stored": self.bytes_stored,
            "duration_seconds": round(self.duration_seconds, 3),
            "level": self.level,
            "excluded_by": dict(self.excluded_by),
            "errors": _problems_json(self.errors),
            "skipped": _problems_json(self.skipped),
            "message": self.message,
        }

    def to_text(self, width: int = 80) -> str:
        """Give the summary for a terminal; names are never cut."""
        return _text(self.headline(), self._facts(), self._lists(), self._next_step(), width)

    def to_markdown(self) -> str:
        """Give the summary for a Prefect artifact."""
        return _markdown(self.headline(), self._facts(), self._lists(), self._next_step())

    def headline(self) -> str:
        """Say in one line how it went."""
        name = f" of {printable(self.job)}" if self.job else ""
        if self.status == PARTIAL:
            return (
                f"Backup{name} is partial: {_failures(self.files.failed, self.errors)}; "
                "the rest is saved"
            )
        if self.status in (FAILED, CANCELLED):
            return f"Backup{name} {_because(self.status, self.message)}"
        if self.status == UNCHANGED:
            return f"Backup{name}: nothing changed, so nothing was written"
        return f"Backup{name} complete"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.archive:
            yield "Archive", printable(self.archive)
        if len(self.volumes) > 1:
            yield "Volumes", str(len(self.volumes))
        if self.status in (FAILED, CANCELLED) and not self.files.total:
            return
        yield "Files", _and(_found(self.files.total, self.folders), format_size(self.bytes_read))
        if self.files.unchanged or self.files.changed:
            yield "Changes", self.files.changes()
        if self.archive:
            yield (
                "Stored",
                format_size(self.bytes_stored) + _ratio(self.bytes_read, self.bytes_stored),
            )
        yield "Time", _time(self.duration_seconds, self.bytes_read)
        yield from _excluded(self.files.excluded, self.excluded_by)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        yield "Skipped", self.files.skipped, self.skipped
        yield "Failed", self.files.failed, _of_files(self.errors, self.message)

    def _next_step(self) -> tuple[str, str] | None:
        if not self.archive or self.status not in (SUCCESS, PARTIAL):
            return None
        return "Restore with:", f"{RESTORE_COMMAND} {shell_word(self.archive)} --to DIR"


class RestoreCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How a restore counted its files; folders are not among them."""

    restored: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """The files that were asked for."""
        return self.restored + self.skipped + self.failed

    def to_json(self) -> dict[str, int]:
        """Give the `files` object of the contract."""
        return {"total": self.total, **msgspec.structs.asdict(self)}


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did, or with `dry_run` would do."""

    status: str
    archive: str | None = None
    target: str | None = None
    files: RestoreCounts = RestoreCounts()
    folders: int = 0
    bytes_written: int = 0
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    dry_run: bool = False
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return _EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "archive": self.archive,
            "target": self.target,
            "files": self.files.to_json(),
            "folders": self.folders,
            "bytes_written": self.bytes_written,
            "duration_seconds": round(self.duration_seconds, 3),
            "errors": _problems_json(self.errors),
            "skipped": _problems_json(self.skipped),
            "dry_run": self.dry_run,
            "message": self.message,
        }

    def to_text(self, width: int = 80) -> str:
        """Give the summary for a terminal; names are never cut."""
        return _text(self.headline(), self._facts(), self._lists(), None, width)

    def to_markdown(self) -> str:
        """Give the summary for a Prefect artifact."""
        return _markdown(self.headline(), self._facts(), self._lists(), None)

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status in (FAILED, CANCELLED):
            return f"Restore {_because(self.status, self.message)}"
        if self.status == PARTIAL:
            failures = _failures(self.files.failed, self.errors)
            if self.dry_run:
                return f"Restore, dry run: {failures}; nothing was written"
            return f"Restore is partial: {failures}; the rest is in place"
        return "Restore, dry run: nothing was written" if self.dry_run else "Restore complete"

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.archive:
            yield "Archive", printable(self.archive)
        if self.target:
            yield "To", printable(self.target)
        if self.status in (FAILED, CANCELLED) and not self.files.total:
            return
        done = _found(self.files.restored, self.folders)
        label = "To restore" if self.dry_run else "Restored"
        yield label, _and(done, format_size(self.bytes_written))
        if not self.dry_run:
            yield "Time", _time(self.duration_seconds, self.bytes_written)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        yield "Skipped", self.files.skipped, self.skipped
        yield "Failed", self.files.failed, _of_files(self.errors, self.message)


class ArchiveCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What checking one archive found.

    `status` is `success`, `damaged` (bytes are not what they were) or `failed` (it could not be
    read). `members` counts those looked at; `damaged` names the bad ones, each with its reason
    as a problem. `message` says what is wrong with the archive as a whole.
    """

    archive: str
    status: str
    members: int = 0
    damaged: tuple[Problem, ...] = ()
    bytes_read: int = 0
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Give one element of `archives`."""
        return {
            "archive": self.archive,
            "status": self.status,
            "members": self.members,
            "damaged": [problem.path for problem in self.damaged],
            "bytes_read": self.bytes_read,
            "message": self.message,
        }


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of one or more archives found; `status` is failed if any is not whole."""

    status: str
    archives: tuple[ArchiveCheck, ...] = ()
    duration_seconds: float = 0.0
    errors: tuple[Problem, ...] = ()
    message: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return _EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the object that `--json` prints."""
        return {
            "status": self.status,
            "archives": [check.to_json() for check in self.archives],
            "duration_seconds": round(self.duration_seconds, 3),
            "errors": [
                *_problems_json(self.errors),
                *(
                    {"archive": check.archive, **problem}
                    for check in self.archives
                    for problem in _problems_json(check.damaged)
                ),
            ],
            "message": self.message,
        }

    def to_text(self, width: int = 80) -> str:
        """Give the summary for a terminal; names are never cut."""
        return _text(self.headline(), self._facts(), self._lists(), None, width)

    def to_markdown(self) -> str:
        """Give the summary for a Prefect artifact."""
        return _markdown(self.headline(), self._facts(), self._lists(), None)

    def headline(self) -> str:
        """Say in one line how it went."""
        if self.status == CANCELLED or not self.archives:
            return f"Verify {_because(self.status, self.message)}"
        bad = sum(check.status != SUCCESS for check in self.archives)
        if not bad:
            whole = "is whole" if len(self.archives) == 1 else "are whole"
            return f"{format_count(len(self.archives), 'archive')} {whole}"
        return f"{_count(bad)} of {format_count(len(self.archives), 'archive')} not whole"

    def _facts(self) -> Iterator[tuple[str, str]]:
        for check in self.archives:
            yield "Archive", printable(check.archive)
            found = format_count(check.members, "member")
            if check.damaged:
                found += f", {_count(len(check.damaged))} damaged"
            yield "", found + (f"; {escape(check.message)}" if check.message else "")
        if self.archives:
            yield (
                "Time",
                _time(self.duration_seconds, sum(check.bytes_read for check in self.archives)),
            )

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        for check in self.archives:
            label = "Damaged"
            if len(self.archives) > 1:
                label += f" in {printable(check.archive)}"
            yield label, len(check.damaged), check.damaged
        errors = _of_files(self.errors, self.message)
        yield "Failed", len(errors), errors


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup would do, for `--dry-run`; nothing has been written."""

    sources: tuple[str, ...]
    destination: str
    files: FileCounts
    folders: int
    bytes: int
    batches: int
    workers: int
    engine: str
    job: str | None = None
    level: int | None = None
    cluster: str | None = None
    excluded_by: Mapping[str, int] = {}
    errors: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()

    @property
    def status(self) -> str:
        """`partial` when files are known already that could not be taken."""
        return PARTIAL if self.errors or self.files.failed else SUCCESS

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return _EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """Give the keys of a backup's report, with `dry_run` and a `plan`; `archive` is null."""
        report = BackupReport(
            status=self.status,
            job=self.job,
            files=self.files,
            folders=self.folders,
            level=self.level,
            excluded_by=self.excluded_by,
            errors=self.errors,
            skipped=self.skipped,
        )
        plan = {
            "sources": list(self.sources),
            "destination": self.destination,
            "bytes": self.bytes,
            "batches": self.batches,
            "workers": self.workers,
            "engine": self.engine,
            "cluster": self.cluster,
        }
        return {**report.to_json(), "dry_run": True, "plan": plan}

    def to_text(self, width: int = 80) -> str:
        """Give the plan for a terminal; names are never cut."""
        return _text(self.headline(), self._facts(), self._lists(), None, width)

    def to_markdown(self) -> str:
        """Give the plan for a Prefect artifact."""
        return _markdown(self.headline(), self._facts(), self._lists(), None)

    def headline(self) -> str:
        """Say in one line how it went."""
        name = f" of {printable(self.job)}" if self.job else ""
        problems = ""
        if self.status == PARTIAL:
            problems = f"{_failures(self.files.failed, self.errors)}; "
        return f"Backup{name}, dry run: {problems}nothing was written"

    def _facts(self) -> Iterator[tuple[str, str]]:
        for number, source in enumerate(self.sources):
            yield "" if number else "From", printable(source)
        yield "To", printable(self.destination)
        yield "Files", _and(_found(self.files.total, self.folders), format_size(self.bytes))
        if self.files.unchanged or self.files.changed:
            yield "Changes", self.files.changes()
        batches = format_count(self.batches, "batch", "batches")
        by = f", {self.cluster}" if self.cluster else ""
        yield "Work", f"{batches} by {format_count(self.workers, 'worker')}{by}"
        level = self.engine if self.level is None else f"level {self.level} ({self.engine})"
        yield "Compression", level
        yield from _excluded(self.files.excluded, self.excluded_by)

    def _lists(self) -> Iterator[tuple[str, int, Sequence[Problem]]]:
        yield "Skipped", self.files.skipped, self.skipped
        yield "Failed", self.files.failed, self.errors


RunReport = BackupReport | RestoreReport | VerifyReport
Report = RunReport | PlanSummary


def failed_report(command: str, error: BaseException) -> RunReport:
    """Give the report of a run that an error ended: `command` is backup, restore or verify.

    Its exit code is that of the status; the error itself may have a finer one.
    """
    cancelled = isinstance(error, Interrupted | KeyboardInterrupt)
    message = error_message(error)
    status = CANCELLED if cancelled else FAILED
    errors = () if cancelled else (Problem("", _error_code(error, command), message),)
    if command == "restore":
        return RestoreReport(status=status, errors=errors, message=message)
    if command == "verify":
        return VerifyReport(status=status, errors=errors, message=message)
    return BackupReport(status=status, errors=errors, message=message)


def error_message(error: BaseException) -> str:
    """Give an error's one line, safe to print."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return escape(str(error)) or type(error).__name__


def _error_code(error: BaseException, command: str) -> str:
    match error:
        case SourceError():
            return error.code
        case StorageError():
            return STORAGE
        case ArchiveError():
            return DAMAGED
        case NotFoundError():
            return SOURCE_MISSING if command == "backup" else "not_found"
        case PlanError():
            return "usage"
        case _:
            return "internal"


def _problems_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [
        {"path": problem.path, "code": problem.code, "message": problem.message}
        for problem in problems
    ]


# ---- phrases


def _count(count: int) -> str:
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}")


def _and(*phrases: str) -> str:
    return ", ".join(phrases)


def _found(files: int, folders: int) -> str:
    found = format_count(files, "file")
    return found + (f" in {format_count(folders, 'folder')}" if folders else "")


def _failures(failed: int, errors: Sequence[Problem]) -> str:
    if failed:
        return f"{format_count(failed, 'file')} failed"
    return format_count(len(errors), "problem")  # such as a pattern that matched nothing


def _because(status: str, message: str | None) -> str:
    return f"{status}: {escape(message)}" if message else status


def _ratio(read: int, stored: int) -> str:
    if not read or not stored:
        return ""
    share = f" ({stored / read:.0%} of the size)" if stored <= read else ""
    return f", ratio {read / stored:.2f}{share}"


def _time(seconds: float, size_bytes: int) -> str:
    text = format_duration(seconds)
    if seconds > 0 and size_bytes >= _RATE_FROM_BYTES:
        text += f", {format_size(size_bytes / seconds)}/s"
    return text


def _excluded(count: int, reasons: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if not count and not reasons:
        return
    yield "Excluded", _count(count or sum(reasons.values()))
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:NAMED_FILES]
    width = max((len(_count(number)) for _, number in shown), default=0)
    for reason, number in shown:
        yield "", f"{_count(number):>{width}} {escape(reason)}"
    if len(ordered) > len(shown):
        yield "", f"{ELLIPSIS} and {_count(len(ordered) - len(shown))} more reasons"


def _of_files(errors: Sequence[Problem], message: str | None) -> Sequence[Problem]:
    """Leave out the error that ended the run: the headline tells it."""
    return [error for error in errors if error.path or error.message != message]


def _reason(problem: Problem) -> str:
    """What is wrong, without the path that is shown beside it."""
    for path in (problem.path, printable(problem.path)):
        if path and problem.message.startswith(path + ": "):
            return escape(problem.message[len(path) + 2 :])
    return escape(problem.message)


# ---- forms

_Facts = Iterator[tuple[str, str]]
_Lists = Iterator[tuple[str, int, Sequence[Problem]]]


def _text(
    headline: str, facts: _Facts, lists: _Lists, next_step: tuple[str, str] | None, width: int
) -> str:
    lines = [*_wrap(headline, width), ""]
    for label, value in facts:
        lines.append((pad(label, _LABEL_WIDTH) + value).rstrip())
    for label, count, problems in lists:
        if not count and not problems:
            continue
        lines += ["", f"{label}: {_count(max(count, len(problems)))}"]
        lines += _problem_lines(problems[:NAMED_FILES], width)
        left = max(count, len(problems)) - min(len(problems), NAMED_FILES)
        if left and problems:
            lines.append(f"  {ELLIPSIS} and {_count(left)} more")
    if next_step:
        lines += ["", f"{next_step[0]} {next_step[1]}"]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n"


def _problem_lines(problems: Sequence[Problem], width: int) -> Iterator[str]:
    """Name each path with what happened; paths that share a reason stand below it."""
    by_reason: dict[str, list[str]] = {}
    for problem in problems:
        by_reason.setdefault(_reason(problem), []).append(printable(problem.path))
    for reason, names in by_reason.items():
        line = f"  {names[0]}: {reason}"
        if len(names) == 1 and not names[0]:
            yield from _wrap(reason, width, indent="  ")
        elif len(names) == 1 and columns(line) <= width:
            yield line
        else:
            yield from _wrap(reason, width, indent="  ")
            yield from (f"    {name}" for name in names)


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _markdown(
    headline: str, facts: _Facts, lists: _Lists, next_step: tuple[str, str] | None
) -> str:
    lines = [f"**{markdown(headline)}**", "", "| | |", "| --- | --- |"]
    lines += [f"| {label} | {markdown(value.strip())} |" for label, value in facts]
    for label, count, problems in lists:
        if not count and not problems:
            continue
        lines += ["", f"**{markdown(label)}: {_count(max(count, len(problems)))}**"]
        if problems:
            lines += ["", "| File | What happened |", "| --- | --- |"]
        for problem in problems[:NAMED_FILES]:
            lines.append(f"| {markdown(printable(problem.path))} | {markdown(_reason(problem))} |")
        left = max(count, len(problems)) - min(len(problems), NAMED_FILES)
        if left and problems:
            lines += ["", f"{ELLIPSIS} and {_count(left)} more"]
    if next_step:
        lines += ["", next_step[0], "", "```", next_step[1], "```"]
    return "\n".join(lines) + "\n"
