"""What a transfer can be told."""

from __future__ import annotations

from pydantic import Field

from pybak.options import shared
from pybak.options.fields import DurationText, Size, cli
from pybak.options.notices import NoticeOptions


class TransferOptions(NoticeOptions):
    """How archives are copied or moved."""

    move: bool = Field(
        default=False,
        title="Move",
        description="Delete each archive where it was once it is whole at the destination.",
        json_schema_extra=cli("--move"),
    )
    verify: bool = Field(
        default=True,
        title="Verify",
        description=(
            "Read back what was written and compare it. With --no-verify the "
            "storage's own checks must do."
        ),
        json_schema_extra=cli("--verify"),
    )
    upload_parts: int = shared.upload_parts("How many parts are sent side by side.")
    bandwidth_limit: Size | None = shared.bandwidth_limit("Send at most this much a second.")
    wait: bool = shared.wait("Wait for other runs of the job to end, instead of giving up.")
    wait_limit: DurationText | None = shared.wait_limit(
        "Longest wait", "Wait for other runs of the job, but not longer than this, such as 15m."
    )
    dry_run: bool = shared.dry_run("Show what would be transferred and change nothing.")
