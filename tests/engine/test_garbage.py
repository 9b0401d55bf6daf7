"""Commands and helpers look for garbage seldom; what is garbage still goes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from pybak import garbage
from pybak.cli.program import pybak


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_a_command_collects_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    gc.set_threshold(700, 10, 10)
    assert pybak(["--version"]) == 0
    assert gc.get_threshold()[0] == 20_000


def test_a_helper_collects_seldom() -> None:
    code = (
        "import gc, sys; from pybak.workers import helper; "
        "helper.serve = lambda *_, **__: print(gc.get_threshold()[0], file=sys.stderr); "
        "helper.main('pybak.workers.messages')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "20000\n"


def test_cycles_still_go() -> None:
    class Knot:
        def __init__(self) -> None:
            self.itself = self

    garbage.collect_seldom()
    left = [weakref.ref(Knot()) for _ in range(50_000)]
    assert sum(one() is not None for one in left) < 25_000
