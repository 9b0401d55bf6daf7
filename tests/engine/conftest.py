"""Places that tests of the engine work in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the storage in memory


@pytest.fixture(autouse=True)
def _cheap_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash the secrets of clients at a thousandth of the cost."""
    if (clients := sys.modules.get("pybak.api.auth.clients")) is not None:
        monkeypatch.setattr(clients, "_N", 1 << 4)


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    """Where a test's archive goes."""
    return tmp_path / "a.zip"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder to restore into, not made yet."""
    return tmp_path / "target"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that anyone may use, the way to it included."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o777)
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", path], check=False)
    shutil.rmtree(path)
