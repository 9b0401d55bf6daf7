"""What S3 is sent when the run is to stop."""

from __future__ import annotations

import pytest
from s3_servers import S3Server

from blocks.s3 import open_address
from pybak.errors import Interrupted
from pybak.storage.bandwidth import PacedBody
from pybak.storage.body import BytesBody


@pytest.mark.needs_component("swift")
@pytest.mark.parametrize("in_parts", [True, False])
def test_a_body_that_stops_is_not_tried_again(
    swift: S3Server, s3_address: str, in_parts: bool
) -> None:
    """The SDK would take it for a broken connection (case 75)."""
    storage = open_address(s3_address)
    asked: list[bool] = []

    def stop() -> None:
        asked.append(True)
        raise Interrupted("stopped on request")

    body = PacedBody(BytesBody(b"x" * 6_000_000), stop)
    upload = storage.begin("a")
    with pytest.raises(Interrupted, match=r"^stopped on request$"):
        _ = storage.send(upload, 1, body) if in_parts else storage.put("a", body)
    assert len(asked) == 1
    assert storage.stat("a") is None
    storage.abort(upload)
    storage.put("a", BytesBody(b"content"))
    assert storage.read("a", 0, 10) == b"content"
