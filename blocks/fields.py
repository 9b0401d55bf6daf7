"""What several blocks declare, so that they say it in the same words and check it alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, HttpUrl, SecretStr

from pybak.notify.http import is_address

DOCUMENTATION: Final = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

Bucket = Annotated[str, Field(min_length=3, description="The name of the bucket.")]
Prefix = Annotated[
    str,
    Field(description="The path of the folder in the bucket; empty is the bucket itself."),
]
KeptDays = Annotated[
    int | None,
    Field(ge=1, description="For how many days from its writing an archive is kept."),
]

Timeout = Annotated[float, Field(gt=0, le=30, description="How many seconds each answer may take.")]
Verify = Annotated[
    bool, Field(description="Whether the server's certificate must be a trusted one.")
]
CaFile = Annotated[
    str | None,
    Field(
        description="A file of certificates to trust, on the machine that sends; empty: its own."
    ),
]


def expanded(ca_file: str | None) -> str | None:
    """Give the path of a file of certificates, which may begin with `~`."""
    return str(Path(ca_file).expanduser()) if ca_file else None


def check_address(value: SecretStr | None) -> SecretStr | None:
    """Give an address back. Raises ValueError, which does not show it, for what is none."""
    if value is not None and not is_address(value.get_secret_value()):
        raise ValueError("is no address; write it as in https://example.org/path")
    return value
