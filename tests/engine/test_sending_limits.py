"""Where sending comes to its limits: part numbers, the size of a volume, and who sees what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from storage.memory import MemoryStorage, used

from pybak import aes
from pybak.backup import stretches
from pybak.backup.compress import compress_batches
from pybak.backup.run import BackupRun
from pybak.backup.send_pieces import StagedFiles
from pybak.backup.send_wrapped import WrappedFile
from pybak.backup.stretches import Stretches, plan_stretches
from pybak.errors import StorageError
from pybak.formats.wrapper import largest_inner_size, wrapper_end, wrapper_overhead
from pybak.formats.zip_records import MAX32
from pybak.options import BackupOptions
from pybak.storage.protocol import PartLimits

MIB = 1 << 20
BATCH = 32 * MIB
LIMITS = PartLimits(5 * MIB, 5 << 30, 10_000)


def planned(
    patch: pytest.MonkeyPatch, folder: Path, files: int, size: int, **more: Any
) -> Stretches | None:
    """Plan the stretches of so many large files of `size` bytes."""
    count = -(-size // BATCH)
    batches = [SimpleNamespace(part=SimpleNamespace(count=count))] * (count * files)
    patch.setattr(stretches, "read_batch", lambda _folder, number, _parts: batches[number])
    patch.setattr(stretches, "most_bytes", lambda _batch: BATCH + 1000)
    job: Any = SimpleNamespace(batches=len(batches), parts=len(batches), encrypted=False)
    how: dict[str, Any] = {"workers": 2, "limits": LIMITS, "staged_bytes": 700 * MIB, **more}
    return plan_stretches(folder, job, **how)


@pytest.mark.parametrize(
    ("files", "size"),
    [(200, 1024 * MIB), (300, 1024 * MIB), (700, 64 * MIB), (700, 40 * MIB), (3000, 40 * MIB),
     (50, 20 << 30), (1, 1000 << 30)],
)  # fmt: skip
def test_part_numbers_suffice_for_everyday_large_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, size: int
) -> None:
    found = planned(monkeypatch, tmp_path, files, size, always=True)
    assert found is not None
    assert found.all[-1].end <= LIMITS.count * 0.9
    count = -(-size // BATCH)
    for one in found.all:
        parts = one.end - one.first - 1
        assert parts * found.part_bytes >= (one.stop - one.start) * BATCH
        assert one.start // count == (one.stop - 1) // count, "of one file"
    assert [one.start for one in found.all] == [0, *(one.stop for one in found.all[:-1])]


def test_a_file_is_one_stretch_while_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones are shared out, so that no worker waits long."""
    found = planned(monkeypatch, tmp_path, 30, 1024 * MIB)
    assert found is not None
    lengths = [one.stop - one.start for one in found.all]
    assert lengths[:25] == [32] * 25
    assert max(lengths[-4:]) < 32


def test_more_files_than_numbers_are_left_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned(monkeypatch, tmp_path, 9000, 40 * MIB, always=True) is None


@pytest.mark.parametrize(
    "split", [MAX32 - MIB + 500, MAX32 - 1000, MAX32 - 400, MAX32, 1 << 32, (1 << 32) + 1000]
)
def test_a_full_wrapped_volume_is_no_larger_than_split(tmp_path: Path, split: int) -> None:
    """Its ZIP64 fields are there when the largest volume needs them (case 49)."""
    name, mtime_ns = b"backup_20261121_221841.tar.001", 10**18
    rooms: list[Any] = []
    out: Any = SimpleNamespace(add=rooms.append)
    for size in range(split - 60, split + 60, 7):
        largest = largest_inner_size(name, size, mtime_ns=mtime_ns)
        file = WrappedFile(
            out, name, StagedFiles(), password=b"secret", mtime_ns=mtime_ns, folder=tmp_path,
            expected=largest,
        )  # fmt: skip
        file._size = largest
        assert len(file._head()) == file._room.size, "what the room was made for"
        end = wrapper_end(name, largest, mtime_ns=mtime_ns, force_zip64=file._zip64)
        total = file._room.size + aes.OVERHEAD + largest + len(end)
        assert size - 128 < total <= size
        assert total >= largest + wrapper_overhead(name, largest, mtime_ns=mtime_ns)


def test_a_worker_that_does_not_see_the_staging_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"not there for this worker; .*--staging") as caught:
        compress_batches(tmp_path / "elsewhere", range(3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "needs"),
    [
        ({}, False),
        ({"split": "1MB"}, True),
        ({"bandwidth_limit": "1MB"}, True),
        ({"split": "1MB", "cluster": "processes"}, False),
    ],
)
def test_a_run_knows_that_workers_must_see_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], needs: bool
) -> None:
    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    src = tmp_path / "src"
    src.mkdir()
    (src / "a").write_bytes(b"a")
    storage = MemoryStorage()
    options = BackupOptions(**{"cluster": "tcp://scheduler:8786", **how})
    with (
        used(storage),
        BackupRun([str(src)], output=None, to=storage.address, job=None, options=options) as run,
    ):
        run.choose_base(None)
        run.plan(run.filter(run.discover()))
        assert run.needs_shared_staging is needs
