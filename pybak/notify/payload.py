"""What a webhook gets: one JSON object about a run, the report of `--json` in it.

The keys are a contract with whoever receives it; keys may be added, never renamed.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pybak.notify.ending import Ending
from pybak.notify.letter import encodable
from pybak.notify.message import NAMED

MOST_BYTES: Final = 1_000_000
"""Larger reports lose all but the first files of their lists; `truncated` then says so."""


def payload(ending: Ending) -> bytes:
    """Give the body of the request, in UTF-8. Names that are no text have escapes in them."""
    report = _readable(ending.report.to_json())
    body = {
        "event": "run-ended",
        "kind": ending.kind,
        "job": encodable(ending.what),
        "machine": encodable(ending.machine),
        "status": ending.status,
        "is_problem": ending.verdict == "problem",
        "headline": encodable(ending.report.to_text().splitlines()[0]),
        "started_at": ending.started_at.isoformat(),
        "ended_at": ending.ended_at.isoformat(),
        "duration_seconds": round(ending.seconds, 3),
        "run_id": ending.run_id,
        "flow_run": ending.flow_run,
        "archive": encodable(ending.archive) if ending.archive else None,
        "notes": [encodable(note) for note in ending.notes],
        "truncated": False,
        "report": report,
    }
    data = json.dumps(body, ensure_ascii=False).encode()
    if len(data) > MOST_BYTES:
        body |= {"truncated": True, "report": _shortened(report)}
        data = json.dumps(body, ensure_ascii=False).encode()
    return data


def _readable(value: Any) -> Any:
    """Make all text in a value such that UTF-8 can hold it."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(str(name)): _readable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in value]
    return value


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value[:NAMED]]
    return value
