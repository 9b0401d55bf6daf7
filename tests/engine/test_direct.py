"""Writing past the page cache: the same bytes come to the disk by whichever way they go."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybak import direct
from pybak.direct import BLOCK, DirectBuffer, DirectFile

_WAYS = ["direct", "refused", "unaligned", "slow", "never"]


def _can(folder: Path) -> bool:
    """Tell whether this file system can write directly at all."""
    probe = folder / "probe"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def go(way: str, patch: pytest.MonkeyPatch) -> None:
    """Make direct writes go this way, with a buffer of two blocks."""
    patch.setattr(direct, "BUFFER_BYTES", 2 * BLOCK)
    patch.setattr(direct, "_disks", {})
    patch.setattr(os, "major", lambda _: 8)  # whatever the tests' own files lie on
    real = os.pwrite

    def refused(fd: int, data: Any, at: int) -> int:
        if is_direct(fd):
            raise OSError(errno.EINVAL, "no")
        return real(fd, data, at)

    def unaligned(fd: int, data: Any, at: int) -> int:
        if is_direct(fd) and (at % BLOCK or len(data) % BLOCK):
            raise OSError(errno.EINVAL, "no")
        return real(fd, bytes(data)[:1000], at) if is_direct(fd) else real(fd, data, at)

    if way == "refused":
        patch.setattr(os, "pwrite", refused)
    elif way == "unaligned":
        # A write that does less than it was told (a disk that is all but full) can't go on.
        patch.setattr(direct, "_set_direct", _pretend)
        patch.setattr(os, "pwrite", unaligned)
    elif way == "slow":
        patch.setattr(direct, "_JUDGED_BYTES", 6 * BLOCK)
        patch.setattr(direct, "_LEAST_RATE", 1 << 60)
    elif way == "never":
        patch.setattr(direct, "_DIRECT", 0)


_PRETENDED: set[int] = set()


def _pretend(fd: int, *, is_direct: bool) -> None:
    (_PRETENDED.add if is_direct else _PRETENDED.discard)(fd)


def is_direct(fd: int) -> bool:
    """Tell whether a file is written directly right now."""
    return bool(fd in _PRETENDED or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "from"]), st.integers(0, 5 * BLOCK)),
        st.tuples(st.sampled_from(["over", "cut"]), st.floats(0, 1)),
        st.tuples(st.sampled_from(["flush", "flush", "other file is slow"]), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("way", _WAYS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, is_finished=st.booleans())
def test_a_file_is_what_was_written(
    way: str,
    steps: list[tuple[str, Any]],
    is_finished: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        go(way, patch)
        folder = tmp_path_factory.mktemp("direct")
        fd = opened(folder / "out")
        file, wanted = DirectFile(fd, DirectBuffer()), bytearray()
        for what, number in steps:
            data = os.urandom(number) if isinstance(number, int) else b""
            at = int(len(wanted) * number)
            if what == "append":
                file.append(data)
                wanted += data
            elif what == "from":
                (folder / "in").write_bytes(data)
                with (folder / "in").open("rb") as source:
                    done = 0
                    while done < number:
                        done += file.append_from(source.fileno(), number - done)
                    assert file.append_from(source.fileno(), 1) == 0
                wanted += data
            elif what == "over":
                data = os.urandom(len(wanted[at : at + BLOCK]))
                file.write_at(data, at)
                wanted[at : at + BLOCK] = data
            elif what == "cut":
                file.truncate(at)
                del wanted[at:]
            elif what == "other file is slow":
                for disk in direct._disks.values():
                    disk.is_quick = False
            else:
                file.flush()
                assert (folder / "out").read_bytes() == wanted
            assert file.size == len(wanted)
        file.finish() if is_finished else file.flush()
        assert (folder / "out").read_bytes() == wanted
        assert not is_direct(fd)
        os.close(fd)


def test_large_files_leave_the_page_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system can; else they are written all the same."""
    monkeypatch.setattr(direct, "_disks", {})
    monkeypatch.setattr(direct, "_LEAST_RATE", 0)
    fd = opened(tmp_path / "out")
    file = DirectFile(fd, DirectBuffer())
    content = os.urandom(direct.BUFFER_BYTES + 5)
    file.append(content)
    file.finish()
    has_device = os.major(tmp_path.stat().st_dev) != 0
    assert (file.cached == 0) == (has_device and _can(tmp_path))
    assert os.pread(fd, len(content) + 1, 0) == content
    os.close(fd)


def test_only_disks_of_their_own_are_written_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not network file systems and btrfs, which have no device."""
    monkeypatch.setattr(direct, "_disks", {})
    monkeypatch.setattr(os, "major", lambda _: 0)
    fd = opened(tmp_path / "out")
    file = DirectFile(fd, DirectBuffer())
    file.append(b"x" * (direct.BUFFER_BYTES + 5))
    assert file.cached == direct.BUFFER_BYTES + 5
    os.close(fd)


def test_without_memory_for_a_buffer_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    go("direct", monkeypatch)
    monkeypatch.setattr(direct.mmap, "mmap", fail)
    fd = opened(tmp_path / "out")
    file = DirectFile(fd, DirectBuffer())
    file.append(b"x" * 100_000)
    file.finish()
    assert (tmp_path / "out").read_bytes() == b"x" * 100_000
    os.close(fd)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_is_wrong_with_the_disk_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    go("unaligned", monkeypatch)
    fd = opened(tmp_path / "out")
    file = DirectFile(fd, DirectBuffer())
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        file.append(bytes(direct.BUFFER_BYTES))
    assert fd not in _PRETENDED
    os.close(fd)


def test_a_disk_is_judged_by_what_it_did_lately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go("unaligned", monkeypatch)
    clock = iter([0.0, 0.9, 0.9, 1.8, 1.8, 10.0])
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _at: len(data))
    monkeypatch.setattr(direct.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(direct, "_LEAST_RATE", BLOCK)
    fd = opened(tmp_path / "out")
    first, second, verdicts = DirectBuffer(), DirectBuffer(), []
    first.begin(fd)
    second.begin(fd)
    for _ in range(3):
        first.write(fd, BLOCK, 0)
        verdicts.append(second.is_worth_it)
    assert verdicts == [True, True, False], "for all who write to it"
    os.close(fd)
