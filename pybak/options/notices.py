"""Whom a run tells how it ended, and what it runs before and after itself.

Blocks are named, never described: addresses and passwords stay with Prefect's server.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from pybak.options.fields import DurationText, Options, cli


def _last_in_forms(schema: dict[str, Any]) -> None:
    """Show what a flow does before whom it tells; pydantic puts inherited fields first."""
    fields: dict[str, Any] = schema.get("properties", {})
    late = {*NoticeOptions.model_fields, *HookOptions.model_fields}
    schema["properties"] = {
        **{name: field for name, field in fields.items() if name not in late},
        **{name: field for name, field in fields.items() if name in late},
    }


class NoticeOptions(Options):
    """Whom a run tells how it ended."""

    model_config = ConfigDict(json_schema_extra=_last_in_forms)

    mail: str | None = Field(
        default=None,
        min_length=1,
        title="Mail",
        description="The Prefect block of the mail server that sends a report of the run.",
        json_schema_extra=cli("--mail", metavar="BLOCK"),
    )
    mail_when: Literal["always", "on-change", "on-problem"] = Field(
        default="on-change",
        title="Mail when",
        description=(
            "After every run, after runs that did something, or after those with a problem and "
            "the first good one again."
        ),
        json_schema_extra=cli("--mail-when"),
    )
    webhook: str | None = Field(
        default=None,
        min_length=1,
        title="Webhook",
        description="The Prefect block of an address that gets the report as JSON.",
        json_schema_extra=cli("--webhook", metavar="BLOCK"),
    )
    ping: str | None = Field(
        default=None,
        min_length=1,
        title="Ping",
        description="The Prefect block of an address that is told of start, success and failure.",
        json_schema_extra=cli("--ping", metavar="BLOCK"),
    )
    log_file: str | None = Field(
        default=None,
        min_length=1,
        title="Log file",
        description="Also write the run's log lines to the end of this file.",
        json_schema_extra=cli("--log-file", metavar="FILE"),
    )


class HookOptions(Options):
    """What a run has the shell do before it starts and after it ended. No secrets in commands."""

    before: str | None = Field(
        default=None,
        min_length=1,
        title="Before",
        description="A shell command to run first; if it fails, the run does not start.",
        json_schema_extra=cli("--before", metavar="COMMAND"),
    )
    after: str | None = Field(
        default=None,
        min_length=1,
        title="After",
        description="A shell command to run at the end, however the run ended.",
        json_schema_extra=cli("--after", metavar="COMMAND"),
    )
    hook_timeout: DurationText = Field(
        default="10m",
        title="Hook timeout",
        description="Stop a command of --before or --after that takes longer.",
        json_schema_extra=cli("--hook-timeout", metavar="DURATION"),
    )
