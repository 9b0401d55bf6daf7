"""What must be in an answer of S3, and how an answer is known that no S3 gave.

What servers answer: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from blocks.s3_errors import NotS3Error

_NEEDED: Final = {
    "head_object": ("ContentLength", "LastModified", "ETag"),
    "get_object": ("ContentLength", "Body"),
    "create_multipart_upload": ("UploadId",),
}
_LISTED: Final = {
    "list_objects_v2": ("Contents", ("Key", "Size", "LastModified", "ETag")),
    "list_multipart_uploads": ("Uploads", ("Key", "UploadId", "Initiated")),
    "list_parts": ("Parts", ("PartNumber", "LastModified")),
}
_PAGE: Final = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+)?html", re.I | re.S)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def check_answer(operation: str, answer: Any) -> None:
    """Raise NotS3Error for an answer that lacks what every S3 tells."""
    fields(answer, *_NEEDED.get(operation, ()))
    if operation in _LISTED:
        listed, needed = _LISTED[operation]
        for found in answer.get(listed) or ():
            fields(found, *needed)


def fields(answer: Mapping[str, Any], *names: str) -> list[Any]:
    """Give these fields of an answer. Raises NotS3Error where one is missing."""
    missing = [name for name in names if answer.get(name) is None]
    if missing:
        raise NotS3Error(f"its answer has no {missing[0]}")
    return [answer[name] for name in names]


def refuse_pages(response: Any, operation: Any, **_more: Any) -> None:
    """Raise NotS3Error for a success that is a web page or no XML at all.

    For the SDK's event `needs-retry.s3`: it takes such an answer for one that was cut, and would
    ask again and again. What may be the beginning of XML is left to it.
    """
    if response is None or operation.has_streaming_output:
        return
    reply = response[0]
    status = getattr(reply.raw, "status", reply.status_code)  # it sets that to 500 on the way
    text = reply.content.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if status == 200 and text and (not text.startswith(b"<") or _PAGE.match(text)):
        raise NotS3Error("its answer is no XML")
