"""Small files are opened before their turn; only when the system fetches them is different."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from backing_up import FORMATS, back_up

from pybak.backup import opened_ahead, packing
from pybak.backup.opened_ahead import AHEAD, OpenedAhead
from pybak.backup.packing import BatchPacker

KINDS = ["zip", "tar", "tar.zst"]
COUNT = 3 * AHEAD


@pytest.fixture
def paths(tmp_path: Path) -> list[bytes]:
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"f{number:03d}").write_bytes(b"%d" % number)
    return [os.fsencode(folder / f"f{number:03d}") for number in range(COUNT)]


def open_files(folder: Path) -> int:
    """Count the descriptors of this process that are of files in `folder`."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += Path(os.readlink(f"/proc/self/fd/{name}")).parent == folder
        except OSError:
            continue
    return found


def content(ahead: OpenedAhead, path: bytes) -> bytes:
    small = ahead.open(path)
    assert small is not None
    try:
        return os.pread(small.fd, small.status.st_size, 0)
    finally:
        os.close(small.fd)


def test_files_come_in_their_order_and_few_are_open(paths: list[bytes], tmp_path: Path) -> None:
    with closing(OpenedAhead(paths, 100)) as ahead:
        most = 0
        for number, path in enumerate(paths):
            assert content(ahead, path) == b"%d" % number
            most = max(most, open_files(tmp_path / "src"))
        assert most == AHEAD - 1
    assert open_files(tmp_path / "src") == 0


@pytest.mark.parametrize(
    ("allowed", "each"), [(2560, AHEAD), (400, 10), (20, 1), (resource.RLIM_INFINITY, AHEAD)]
)
def test_many_at_work_share_what_a_process_may_open(
    paths: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, each: int
) -> None:
    """As the threads of one worker on a machine with many cores."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    with ExitStack() as stack:
        many = [stack.enter_context(closing(OpenedAhead(paths, 100))) for _ in range(10)]
        for number, path in enumerate(paths[:5]):
            for ahead in many:
                assert content(ahead, path) == b"%d" % number
        assert open_files(tmp_path / "src") == 10 * (each - 1)
    assert open_files(tmp_path / "src") == 0
    monkeypatch.undo()
    with closing(OpenedAhead(paths, 100)) as alone:
        assert content(alone, paths[0]) == b"0"
        assert open_files(tmp_path / "src") == AHEAD - 1, "the others count no more"


def test_some_are_left_out_and_some_come_out_of_turn(paths: list[bytes], tmp_path: Path) -> None:
    other = tmp_path / "src/other"
    other.write_bytes(b"other")
    with closing(OpenedAhead(paths, 100)) as ahead:
        assert content(ahead, paths[0]) == b"0"
        assert content(ahead, os.fsencode(other)) == b"other"
        assert content(ahead, paths[1]) == b"1"
        assert content(ahead, paths[9]) == b"9"
        assert content(ahead, paths[5]) == b"5", "its turn is over"
        assert content(ahead, paths[-1]) == b"%d" % (COUNT - 1)
        assert content(ahead, paths[10]) == b"10"
        assert ahead.open(os.fsencode(tmp_path / "missing")) is None
    assert open_files(tmp_path / "src") == 0


def test_what_can_t_be_opened_stands_in_nobody_s_way(paths: list[bytes], tmp_path: Path) -> None:
    os.unlink(paths[3])
    os.unlink(paths[4])
    os.mkfifo(paths[4])
    Path(os.fsdecode(paths[5])).write_bytes(bytes(101))
    with closing(OpenedAhead(paths, 100)) as ahead:
        found = [ahead.open(path) for path in paths[:8]]
    assert [one is not None for one in found] == [True] * 3 + [False] * 3 + [True] * 2
    for one in found:
        if one is not None:
            os.close(one.fd)
    assert open_files(tmp_path / "src") == 0


@pytest.mark.parametrize("answer", [None, OSError(errno.EOPNOTSUPP, "no advice")])
def test_the_system_is_asked_to_fetch_them(
    paths: list[bytes], monkeypatch: pytest.MonkeyPatch, answer: OSError | None
) -> None:
    asked: list[tuple[int, ...]] = []

    def advise(_fd: int, *how: int) -> None:
        asked.append(how)
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(opened_ahead, "_FETCHED_BYTES", 1)
    with closing(OpenedAhead(paths, 100)) as ahead:
        assert content(ahead, paths[0]) == b"0"
        assert asked == [(0, 1, os.POSIX_FADV_WILLNEED)] * AHEAD


def test_no_advice_is_needed(paths: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened_ahead, "_HAS_ADVICE", False)
    monkeypatch.delattr(os, "posix_fadvise")
    with closing(OpenedAhead(paths, 100)) as ahead:
        assert content(ahead, paths[0]) == b"0"


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_before_its_turn_is_saved_as_it_is_then(
    paths: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Written, replaced, cut, gone: as if nobody had opened it (cases 47, 49)."""
    written, replaced, cut, gone = (Path(os.fsdecode(path)) for path in paths[10:14])
    real: Any = BatchPacker.open_small
    turns: list[bytes] = []

    def open_small(self: BatchPacker, entry: Any, path: bytes) -> Any:
        found = real(self, entry, path)
        turns.append(path)
        if len(turns) == 2:
            assert open_files(tmp_path / "src") > 5
            written.write_bytes(b"written")
            (tmp_path / "new").write_bytes(b"replaced")
            (tmp_path / "new").replace(replaced)
            cut.write_bytes(b"")
            gone.unlink()
        return found

    monkeypatch.setattr(packing.BatchPacker, "open_small", open_small)
    done = back_up(tmp_path / "src", to=tmp_path / "out", **FORMATS[kind])
    assert turns[:COUNT] == paths
    assert done.contents["src/f010"] == b"written"
    assert done.contents["src/f011"] == b"replaced"
    assert done.contents["src/f012"] == b""
    assert "src/f013" not in done.contents
    assert done.contents["src/f014"] == b"14"
    assert done.skipped == {str(gone): "vanished"}
    assert open_files(tmp_path / "src") == 0
