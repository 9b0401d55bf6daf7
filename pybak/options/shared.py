"""Options that several commands have: one name, limit and form, told in each one's own words."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pybak.options.fields import cli


def dry_run(description: str) -> Any:
    """Give the field of `--dry-run`."""
    return _switch("Dry run", description, "--dry-run")


def wait(description: str) -> Any:
    """Give the field of `--wait`."""
    return _switch("Wait", description, "--wait")


def wait_limit(title: str, description: str) -> Any:
    """Give the field of `--wait-limit`, a duration."""
    return _text(title, description, "--wait-limit", metavar="DURATION")


def password_block(description: str) -> Any:
    """Give the field of `--password-block`."""
    return _text("Password block", description, "--password-block", metavar="NAME")


def bandwidth_limit(description: str) -> Any:
    """Give the field of `--bandwidth-limit`, a size."""
    return _text("Bandwidth limit", description, "--bandwidth-limit", metavar="SIZE")


def upload_parts(description: str) -> Any:
    """Give the field of `--upload-parts`."""
    return Field(
        default=4,
        ge=1,
        le=64,
        title="Parts at once",
        description=description,
        json_schema_extra=cli("--upload-parts", metavar="N"),
    )


def workers(description: str) -> Any:
    """Give the field of `--workers`."""
    return Field(
        default=None,
        ge=1,
        le=256,
        title="Workers",
        description=description,
        json_schema_extra=cli("-w", "--workers", metavar="N"),
    )


def _switch(title: str, description: str, name: str) -> Any:
    return Field(default=False, title=title, description=description, json_schema_extra=cli(name))


def _text(title: str, description: str, name: str, *, metavar: str) -> Any:
    return Field(
        default=None,
        title=title,
        description=description,
        json_schema_extra=cli(name, metavar=metavar),
    )
