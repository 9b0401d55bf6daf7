"""Cutting an archive into volumes and writing them: any cut, twice at once, stopped, wrapped."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from backing_up import PASSWORD, unwrapped
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak import staging
from pybak.backup.check_password import leave_check
from pybak.backup.output import Extent
from pybak.errors import Interrupted, PlanError, StorageError
from pybak.volumes import write as volume_writing
from pybak.volumes.write import (
    LEAST_SPLIT,
    payload,
    plan_volumes,
    read_finished,
    suffixes,
    write_volumes,
)

NOON = 1_700_000_000 * 10**9


class Cut:
    """A layout that is cut in a folder of its own."""

    def __init__(self, folder: Path, name: str = "a.tar") -> None:
        self.staging, self.target, self.name = folder / "staging", folder / "target", name
        self.staging.mkdir(parents=True)
        self.target.mkdir()
        leave_check(self.staging, PASSWORD)
        self.extents: list[Extent] = []
        self.content = b""

    def add(self, data: bytes, *, as_file: bool, skip: int = 0) -> None:
        if as_file:
            path = self.staging / f"segment-{len(self.extents)}"
            path.write_bytes(b"?" * skip + data)
            self.extents.append(Extent(len(data), os.fsencode(path), skip))
        else:
            self.extents.append(Extent(len(data), data=data))
        self.content += data

    def plan(self, size: int | None, *, wrapped: bool = False) -> list[str]:
        return plan_volumes(
            self.staging, self.extents, size=len(self.content), payload_bytes=size,
            wrapped=wrapped, name=self.name, mtime_ns=NOON,
        )  # fmt: skip

    def write(self, count: int, **more: Any) -> list[bytes]:
        """Write all volumes; give their bytes, checked against what is told of them."""
        assert write_volumes(self.staging, range(count), target=self.target, **more) == count
        found = []
        for volume in read_finished(self.staging, count):
            data = volume.path.read_bytes()
            assert volume.size == len(data)
            for kind, digest in volume.sums.items():
                assert hashlib.new(kind, data).hexdigest() == digest
            assert set(volume.sums) == {"sha256", *more.get("kinds", ())}
            found.append(data)
        return found


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    made = Cut(tmp_path)
    made.add(b"head", as_file=False)
    made.add(bytes(range(256)) * 1000, as_file=True, skip=5)
    made.add(b"tail", as_file=False)
    return made


EXTENTS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.booleans(), st.integers(0, 3)),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(extents=EXTENTS, size=st.integers(1, 50))
def test_volumes_joined_are_the_archive(
    extents: list[tuple[bytes, bool, int]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every one but the last is full."""
    cut = Cut(tmp_path_factory.mktemp("cut"))
    for data, as_file, skip in extents:
        cut.add(data, as_file=as_file, skip=skip)
    names = cut.plan(size)
    volumes = cut.write(len(names))
    assert b"".join(volumes) == cut.content
    assert [len(data) for data in volumes[:-1]] == [size] * (len(volumes) - 1)
    assert 0 < len(volumes[-1]) <= size
    assert names == [f".{number:03d}" for number in range(1, len(volumes) + 1)]


@pytest.mark.parametrize("threads", [1, 2])
def test_wrapped_volumes_hold_volumes_of_the_same_name(cut: Cut, threads: int) -> None:
    names = cut.plan(100_000, wrapped=True)
    assert names == [".001.zip", ".002.zip", ".003.zip"]
    volumes = cut.write(3, password=PASSWORD, kinds=["md5"], threads=threads)
    found = []
    for number, data in enumerate(volumes, 1):
        path = cut.target / "w.zip"
        path.write_bytes(data)
        name, inside = unwrapped(path, PASSWORD)
        assert name == f"a.tar.{number:03d}"
        found.append(inside)
    assert b"".join(found) == cut.content
    assert len({data[60:90] for data in volumes}) == 3, "salts differ"


def test_one_wrapped_file_has_the_archive_s_name_inside(cut: Cut) -> None:
    assert cut.plan(None, wrapped=True) == [".zip"]
    (data,) = cut.write(1, password=PASSWORD)
    (cut.target / "w.zip").write_bytes(data)
    assert unwrapped(cut.target / "w.zip", PASSWORD) == ("a.tar", cut.content)


def test_names_of_any_bytes_are_wrapped(tmp_path: Path) -> None:
    """(case 3)"""
    cut = Cut(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), os.fsdecode(b"\xff.tar"))
    cut.add(b"x" * 100, as_file=True)
    assert cut.plan(None, wrapped=True) == [".zip"]
    (data,) = cut.write(1, password=PASSWORD)
    assert b"\xff.tar" in data


def test_more_than_999_volumes_get_more_digits() -> None:
    names = suffixes(1001, 1, wrapped=False)
    assert (names[0], names[998], names[999], names[1000]) == (".001", ".999", ".1000", ".1001")
    assert suffixes(0, 1, wrapped=True) == [".001.zip"]
    assert suffixes(10, None, wrapped=True) == [".zip"]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("split", [LEAST_SPLIT, 1 << 20, 5 << 30])
def test_no_volume_is_larger_than_asked_for(wrapped: bool, split: int) -> None:
    """The wrapper counts, with the longest number it may get, and ZIP64 where it needs it."""
    from pybak.formats.wrapper import wrapper_overhead

    size = payload(split, "name.tar.zst", wrapped=wrapped, mtime_ns=NOON)
    assert size is not None
    assert size <= split
    if wrapped:
        for number in (b"001", b"1000", b"999999999"):
            name = b"name.tar.zst." + number
            assert size + wrapper_overhead(name, size, mtime_ns=NOON) <= split
    assert split - size < 500
    assert payload(None, "name", wrapped=wrapped, mtime_ns=NOON) is None


@pytest.mark.parametrize("split", [1, LEAST_SPLIT - 1])
def test_volumes_that_would_hold_nothing_are_refused(split: int) -> None:
    with pytest.raises(PlanError, match="--split: a volume needs 64 KiB or more"):
        payload(split, "name", wrapped=False, mtime_ns=NOON)


def test_what_is_written_is_not_written_again(cut: Cut) -> None:
    cut.plan(100_000)
    first = cut.write(3)
    before = sorted(cut.target.iterdir())
    for path in cut.staging.glob("segment-*"):
        path.unlink()
    assert cut.write(3) == first
    assert sorted(cut.target.iterdir()) == before


def test_two_who_write_a_volume_at_once_leave_one_whose_digest_is_known(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted twice it is not the same, so file and digest must be of one of them."""
    cut.plan(None, wrapped=True)
    both = threading.Barrier(2)
    real = staging.write_once

    def wait(path: Path, data: bytes) -> bool:
        both.wait(10)
        return real(path, data)

    monkeypatch.setattr(volume_writing.staging, "write_once", wait)
    workers = [
        threading.Thread(
            target=write_volumes, args=(cut.staging, [0]),
            kwargs={"target": cut.target, "password": PASSWORD},
        )
        for _ in range(2)
    ]  # fmt: skip
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    monkeypatch.undo()
    (data,) = cut.write(1, password=PASSWORD)
    assert len(list(cut.target.iterdir())) == 1
    (cut.target / "w.zip").write_bytes(data)
    assert unwrapped(cut.target / "w.zip", PASSWORD)[1] == cut.content


def test_a_cancel_stops_inside_a_volume_and_leaves_nothing(cut: Cut) -> None:
    """(case 95)"""
    cut.plan(100_000)
    seen = 0

    def advance(_volumes: int, size: int) -> None:
        nonlocal seen
        seen += size
        staging.request_cancel(cut.staging)

    with pytest.raises(Interrupted):
        write_volumes(cut.staging, range(3), target=cut.target, advance=advance)
    assert 0 < seen <= 100_000
    assert os.listdir(cut.target) == []
    assert list((cut.staging / "volumes").glob("*.done")) == []


def test_progress_counts_every_byte_and_volume_once(cut: Cut) -> None:
    cut.plan(100_000)
    seen: list[tuple[int, int]] = []
    cut.write(3, advance=lambda volumes, size: seen.append((volumes, size)))
    assert sum(size for _, size in seen) == len(cut.content)
    assert [volumes for volumes, _ in seen if volumes] == [1, 1, 1]


def test_a_segment_that_is_cut_short_is_noticed(cut: Cut) -> None:
    """Nothing half-made stays."""
    cut.plan(100_000)
    (segment,) = cut.staging.glob("segment-*")
    os.truncate(segment, 150_000)
    with pytest.raises(StorageError, match=r"a segment ends \d+ bytes early"):
        write_volumes(cut.staging, range(3), target=cut.target)
    assert len(os.listdir(cut.target)) == 1
    assert len(list((cut.staging / "volumes").glob("*.done"))) == 1


def test_volumes_are_private(cut: Cut) -> None:
    os.umask(0)
    cut.plan(100_000)
    cut.write(3)
    assert {path.stat().st_mode & 0o777 for path in cut.target.iterdir()} == {0o600}


@pytest.mark.parametrize("password", [None, b"another"])
def test_a_worker_without_the_run_s_password_leaves_no_volume(
    cut: Cut, password: bytes | None
) -> None:
    cut.plan(None, wrapped=True)
    with pytest.raises(PlanError, match=r"(none|another password).*; set .*PYBAK_PASSWORD"):
        cut.write(1, password=password)
    assert list(cut.target.iterdir()) == []
