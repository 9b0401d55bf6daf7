"""The `pybak` command called inside the test process, and what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pybak.cli.program import pybak


def look(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run it; give the exit code and both outputs."""
    code = pybak(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def parsed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Give the one JSON object that it prints; it must end well and say nothing else."""
    code, out, err = look(capsys, *words, "--json")
    assert (code, err) == (0, "")
    assert out.isascii()
    return json.loads(out)
