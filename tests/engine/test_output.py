"""Where an archive's bytes go: written at once, or noted down; both tell the same bytes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak import direct
from pybak.backup import output as output_module
from pybak.backup.output import ArchiveFile, ArchiveLayout, Extent

Maker = Any


def never() -> None:
    """Stop nobody."""


def content(out: ArchiveFile | ArchiveLayout) -> bytes:
    """Read what was laid down."""
    if isinstance(out, ArchiveFile):
        data = out.path.read_bytes()
        at = 0
        for part in out.parts:
            assert hashlib.sha256(data[at : at + part.size]).hexdigest() == part.sha256
            at += part.size
        assert at == len(data) == out.size
        return data
    found = []
    for extent in out.extents:
        if extent.path:
            with open(extent.path, "rb") as file:
                found.append(os.pread(file.fileno(), extent.size, extent.offset))
        else:
            found.append(extent.data)
        assert len(found[-1]) == extent.size
    assert sum(map(len, found)) == out.size
    return b"".join(found)


@pytest.fixture(params=["file", "layout"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Give what makes an output, told whom to ask whether to stop."""

    def build(stop: Any = never) -> ArchiveFile | ArchiveLayout:
        if request.param == "file":
            return ArchiveFile(tmp_path / "archive", stop)
        (tmp_path / "segments").mkdir(exist_ok=True)
        return ArchiveLayout(tmp_path / "segments", stop)

    return build


def segment(folder: Path, data: bytes) -> tuple[Path, int, str]:
    path = folder / f"segment.{os.urandom(8).hex()}"
    path.write_bytes(data)
    return path, len(data), hashlib.sha256(data).hexdigest()


def test_all_ways_to_lay_bytes_down_come_in_order(make: Maker, tmp_path: Path) -> None:
    out = make()
    out.append(b"start ")
    out.append(b"")
    out.append_file(*segment(tmp_path, b"segment "))
    out.append_file(*segment(tmp_path, b""))
    room = out.reserve(5)
    assert out.append_stream([b"a ", b"", b"stream "]) == 9
    assert out.append_stream([]) == 0
    out.append(b"x" * 100_000)
    out.fill(room, b"room ")
    out.finish()
    out.close()
    out.close()
    assert content(out) == b"start segment room a stream " + b"x" * 100_000
    if isinstance(out, ArchiveFile):
        assert os.listdir(tmp_path) == ["archive"], "segments are taken over"


def test_going_back_drops_what_came_since(make: Maker, tmp_path: Path) -> None:
    """Also files that were taken over, and rooms."""
    out = make()
    out.append(b"kept ")
    place = out.mark()
    for _ in range(3):
        out.reserve(7)
        out.append_file(*segment(tmp_path, b"gone"))
        out.append_stream([b"x" * 200_000])
        out.append(b"y" * 100_000)
        out.go_back(place)
    room = out.reserve(3)
    out.append(b" again")
    out.fill(room, b"and")
    out.finish()
    out.close()
    assert content(out) == b"kept and again"
    assert [path for path in tmp_path.iterdir() if path.name.startswith("segment.")] == []
    if isinstance(out, ArchiveLayout):
        assert os.listdir(tmp_path / "segments") == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=50)),
        st.tuples(st.just("append"), st.just(b"many" * 20_000)),
        st.tuples(st.just("file"), st.binary(max_size=50)),
        st.tuples(st.just("stream"), st.binary(max_size=50)),
        st.tuples(st.just("room"), st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("mark"), st.just(b"")),
        st.tuples(st.just("back"), st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_a_file_and_a_layout_tell_the_same_bytes(
    steps: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("out")
    (folder / "segments").mkdir()
    outs: tuple[Any, Any] = (
        ArchiveFile(folder / "archive", never), ArchiveLayout(folder / "segments", never),
    )  # fmt: skip
    for out in outs:
        wanted, marked, rooms, saved = b"", out.mark(), [], (b"", 0)
        for what, data in steps:
            if what == "append":
                out.append(data)
            elif what == "file":
                out.append_file(*segment(folder, data))
            elif what == "stream":
                assert out.append_stream([data[:7], data[7:]]) == len(data)
            elif what == "room":
                rooms.append((out.reserve(len(data)), data))
            elif what == "mark":
                marked, saved = out.mark(), (wanted, len(rooms))
                continue
            else:
                out.go_back(marked)
                wanted, count = saved
                del rooms[count:]
                continue
            wanted += data
        for room, data in rooms:
            out.fill(room, data)
        out.finish()
        out.close()
        assert content(out) == wanted


def test_a_segment_that_is_not_as_long_as_it_should_be_is_noticed(
    make: Maker, tmp_path: Path
) -> None:
    path, _, digest = segment(tmp_path, b"12345")
    out = make()
    for size in (4, 6):
        with pytest.raises(OSError, match=f"a segment of {size} bytes holds 5"):
            out.append_file(path, size, digest)
    out.close()


def test_a_request_to_stop_is_heard_between_blocks(make: Maker, tmp_path: Path) -> None:
    """And half a stream does not stay (case 95)."""

    class StopError(Exception):
        pass

    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise StopError

    made = 0

    def chunks() -> Iterator[bytes]:
        nonlocal made
        for _ in range(10):
            made += 1
            yield b"x" * 1000

    out = make(stop)
    with pytest.raises(StopError):
        out.append_stream(chunks())
    assert made == 3
    out.close()
    if isinstance(out, ArchiveLayout):
        assert os.listdir(tmp_path / "segments") == []


def test_a_full_disk_leaves_no_half_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(case 96)"""
    (tmp_path / "segments").mkdir()
    out = ArchiveLayout(tmp_path / "segments", never)

    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        out.append_stream(chunks())
    assert (os.listdir(tmp_path / "segments"), out.size, out.extents) == ([], 0, [])


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        ArchiveFile(tmp_path / "archive", never)
    assert (tmp_path / "archive").read_bytes() == b"theirs"


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    os.umask(0)
    ArchiveFile(tmp_path / "archive", never).close()
    assert (tmp_path / "archive").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("answer", [OSError(errno.EXDEV, "x"), OSError(errno.EINVAL, "x"), 0])
def test_where_the_kernel_does_not_copy_this_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: OSError | int
) -> None:
    """Some file systems answer with an error, some with nothing at all."""

    def refuse(*_: object, **__: object) -> int:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(direct, "_DIRECT", 0)
    monkeypatch.setattr(direct, "_disks", {})
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    out = ArchiveFile(tmp_path / "archive", never)
    out.append_file(*segment(tmp_path, b"z" * 3_000_000))
    out.close()
    assert content(out) == b"z" * 3_000_000


def test_what_the_page_cache_holds_of_a_large_archive_is_synced_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(direct, "_DIRECT", 0)
    monkeypatch.setattr(direct, "_disks", {})
    monkeypatch.setattr(output_module, "_SYNC_BYTES", 1000)
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    out = ArchiveFile(tmp_path / "archive", never)
    for _ in range(5):
        out.append(b"x" * 400)
    out.close()
    assert len(synced) == 1


def test_few_bytes_are_noted_and_many_go_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "segments").mkdir()
    out = ArchiveLayout(tmp_path / "segments", never)
    out.append(b"few")
    out.append(b"m" * 100_000)
    assert out.extents[0] == Extent(3, data=b"few")
    assert (out.extents[1].size, out.extents[1].data) == (100_000, b"")
    assert content(out) == b"few" + b"m" * 100_000
