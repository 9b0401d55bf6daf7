"""Backups into the GCS emulator: parts become components that are composed, in levels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from backing_up import back_up, judge, noise, shrink
from gcs_fixtures import bucket, gcs, gcs_process, guard  # noqa: F401 - fixtures
from sent import compare, small_parts

from pybak.storage.opening import open_storage


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    shrink(monkeypatch, part=60_000)
    small_parts(monkeypatch, 20_000)


@pytest.mark.parametrize(
    "how",
    [
        {"format": "zip", "cluster": "threads"},
        {"format": "tar.zst"},
        {"format": "zip", "split": "300kB", "checksum": ["sha256"]},
    ],
    ids=["by workers", "from here", "in volumes"],
)
def test_an_archive_arrives_whole(tmp_path: Path, bucket: str, how: dict[str, Any]) -> None:  # noqa: F811
    """More parts than one composition takes, and nothing but the archive is left."""
    src = tmp_path / "src"
    src.mkdir()
    for number in range(40):
        (src / f"f{number:02d}").write_bytes(noise(15_000, number))
    (src / "large").write_bytes(noise(250_000))
    address = f"gs://{bucket}/a/b"
    done = back_up(src, to=address, chunk_size=4, **how)  # type: ignore[arg-type]
    storage = open_storage(address)
    got = tmp_path / "got"
    got.mkdir()
    for stored in storage.list():
        (got / stored.name).write_bytes(storage.read(stored.name, 0, stored.size))
    volumes = {volume.uri.rpartition("/")[2]: volume for volume in done.report.volumes}
    sums = [f"{done.report.archive}.sha256".rpartition("/")[2]] if "checksum" in how else []
    assert sorted(os.listdir(got)) == sorted([*volumes, *sums])
    for name, volume in volumes.items():
        compare(volume, (got / name).read_bytes())
    whole = got / str(done.report.archive).rpartition("/")[2]
    if "split" in how:
        whole.write_bytes(b"".join((got / name).read_bytes() for name in sorted(volumes)))
    judge(whole)
    assert list(storage.unfinished()) == []
