"""What a restore drill can be told."""

from __future__ import annotations

import re
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field

from pybak.options.fields import cli
from pybak.options.read import ReadOptions, percent_number

_SAMPLE: Final = re.compile(r"(\d{1,12})|(\d{1,3}(?:\.\d+)?)\s*%")
_LEAST_FILES: Final = 50
_USUAL_SHARE: Final = 0.01


def _sample_text(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    text = str(value).strip()
    found = _SAMPLE.fullmatch(text)
    is_percent = found is not None and found[2] is not None
    if found is None or not 0 < float(found[1] or found[2]) <= (100 if is_percent else 10**12):
        raise ValueError(f"{text!r} is no sample; write a number of files like 100, or 5%")
    return text.replace(" ", "")


Sample = Annotated[str, BeforeValidator(_sample_text)]
"""How much is taken: a number of files, or a share of them with its sign: `100`, `2.5%`."""


class DrillOptions(ReadOptions):
    """What is restored in a drill, and where."""

    sample: Sample | None = Field(
        default=None,
        title="Sample",
        description=(
            "How many files are restored: a number, or a share such as 5%. Empty: one percent, "
            "and at least 50; always one or more from each archive."
        ),
        json_schema_extra=cli("--sample", metavar="N|PERCENT%"),
    )
    seed: str | None = Field(
        default=None,
        title="Seed",
        description="Choose the same files as the drill that reported this seed did.",
        json_schema_extra=cli("--seed", metavar="TEXT"),
    )
    scratch: str | None = Field(
        default=None,
        title="Scratch folder",
        description="Restore below this folder instead of the one for temporary files.",
        json_schema_extra=cli("--scratch", metavar="DIR"),
    )


class Share(NamedTuple):
    """A number of files, or a part of all; the larger one counts."""

    files: int
    part: float

    def of(self, total: int) -> int:
        """Give how many of so many files are meant: at least one, at most all."""
        return min(total, max(1, self.files, round(total * self.part)))


def sample_share(text: str | None) -> Share:
    """Give what a `Sample` says; None is the default."""
    if text is None:
        return Share(_LEAST_FILES, _USUAL_SHARE)
    if text.endswith("%"):
        return Share(0, percent_number(text) / 100)
    return Share(int(text), 0.0)
