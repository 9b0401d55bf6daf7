"""The live line and the small files that feed it."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
from pathlib import Path

import pytest

from pybak.display import columns
from pybak.progress import RECORD_BYTES, Progress, Sampler, WorkerProgress
from pybak.progress_line import COMPRESSING, FINISHING, WRITING, ProgressLine, Shown, render


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal and remembers each write."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def visible(text: str) -> str:
    """Give what is left on the line after all control sequences took effect."""
    line = text.split("\r")[-1]
    return re.sub(r"\x1b\[\??\d*[a-zA-Z]", "", line)


# ---- worker files


def test_what_workers_write_is_summed(tmp_path: Path) -> None:
    for number in range(3):
        with WorkerProgress(tmp_path / f"{number}") as progress:
            progress.advance(2, 100, b"a/b")
            progress.advance(1, 5)
    assert Sampler(tmp_path).read() == Progress(files=9, bytes=315, current=b"a/b")


def test_a_folder_that_is_missing_or_empty_is_no_progress(tmp_path: Path) -> None:
    assert Sampler(tmp_path / "none").read() == Progress()
    assert Sampler(tmp_path).read() == Progress()


def test_the_file_touched_last_is_the_current_one(tmp_path: Path) -> None:
    clock = Clock()
    first = WorkerProgress(tmp_path / "1", clock=clock)
    second = WorkerProgress(tmp_path / "2", clock=clock)
    clock.now += 1
    second.advance(1, 1, b"second")
    clock.now += 1
    first.advance(1, 1, b"first")
    assert Sampler(tmp_path).read().current == b"first"
    first.close()
    assert Sampler(tmp_path).read().current == b"second"


def test_a_worker_writes_at_most_five_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    real = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        writes.append(len(data))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    clock = Clock()
    with WorkerProgress(tmp_path / "1", clock=clock) as progress:
        for _ in range(1000):
            clock.now += 0.001
            progress.advance(1, 1, b"name")
        assert 3 <= len(writes) <= 5
    assert set(writes) == {RECORD_BYTES}


def test_a_torn_record_counts_as_it_did_before(tmp_path: Path) -> None:
    path = tmp_path / "1"
    clock = Clock()
    progress = WorkerProgress(path, clock=clock)
    clock.now += 1
    progress.advance(7, 70, b"x")
    sampler = Sampler(tmp_path)
    assert sampler.read().files == 7
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * 8 + whole[8:])
    assert sampler.read() == Progress(files=7, bytes=70, current=b"x")
    path.write_bytes(whole[:10])
    assert sampler.read().files == 7
    path.unlink()
    assert sampler.read().files == 7
    assert Sampler(tmp_path).read() == Progress()


def test_reading_while_a_worker_writes_never_goes_wrong(tmp_path: Path) -> None:
    path = tmp_path / "1"
    stop = threading.Event()

    def write() -> None:
        clock = Clock()
        with WorkerProgress(path, clock=clock) as progress:
            while not stop.is_set():
                clock.now += 1
                progress.advance(1, 1000, b"n" * 100)

    worker = threading.Thread(target=write)
    worker.start()
    try:
        sampler = Sampler(tmp_path)
        last = 0
        for _ in range(3000):
            now = sampler.read()
            assert now.bytes == 1000 * now.files
            assert now.files >= last
            last = now.files
    finally:
        stop.set()
        worker.join()
    assert last > 0


def test_a_batch_that_runs_again_starts_over_and_is_not_counted_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with WorkerProgress(tmp_path / "batch-1") as progress:
            progress.advance(5, 50)
    assert Sampler(tmp_path).read() == Progress(files=5, bytes=50)


def test_the_time_of_all_workers_is_added_up(tmp_path: Path) -> None:
    assert Sampler(tmp_path).worked() is None
    clock = Clock()
    for number, seconds in enumerate((3.0, 0.25)):
        with WorkerProgress(tmp_path / f"{number}", clock=clock) as progress:
            clock.now += seconds
            progress.advance(1, 1)
    assert Sampler(tmp_path).worked() == pytest.approx(3.25)


def test_a_name_longer_than_a_record_keeps_its_end(tmp_path: Path) -> None:
    with WorkerProgress(tmp_path / "1") as progress:
        progress.advance(1, 1, b"d/" * 2000 + b"end")
    current = Sampler(tmp_path).read().current
    assert current is not None
    assert current.endswith(b"d/end")
    assert (tmp_path / "1").stat().st_size == RECORD_BYTES


def test_progress_that_can_not_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkerProgress(tmp_path / "missing" / "1") as progress:
        progress.advance(1, 1, b"x")

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    clock = Clock()
    with WorkerProgress(tmp_path / "1", clock=clock) as progress:
        clock.now += 1
        progress.advance(1, 1, b"x")
        clock.now += 1
        progress.advance(1, 1, b"x")


# ---- the line

STATES = [
    Shown(phase="scanning", files=21304, current=b"usr/share/doc/a/b/c/copyright"),
    Shown(
        phase=COMPRESSING, files=9012, bytes=230_000_000, total_files=21304,
        total_bytes=547_000_000, bytes_a_second=288e6, seconds_left=3.6,
        current="docs/Übersicht/日本語/sub/a rather long name.txt".encode(),
    ),
    Shown(
        phase=COMPRESSING, files=10**9, bytes=10**18, total_files=10**10, total_bytes=10**19,
        bytes_a_second=9.99e9, seconds_left=10**7, current=b"\x1b[2J\n\xff" * 50,
    ),
    Shown(phase=FINISHING),
    Shown(phase=COMPRESSING, files=0, bytes=0, total_files=0, total_bytes=0),
]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_the_line_never_is_wider_than_the_terminal(state: Shown) -> None:
    for width in range(1, 200):
        line = render(state, width)
        assert columns(line) <= width
        assert line.replace("\xa0", " ").isprintable()


def test_a_wide_line_says_everything() -> None:
    line = render(STATES[1], 140)
    for part in ["42%", "[====      ]", "9\xa0012/21\xa0304 files", "230 MB/547 MB",
                 "288 MB/s", "4 s left", "long name.txt"]:  # fmt: skip
        assert part in line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (79, " 42% compressing  9\xa0012 files  230 MB  288 MB/s  4 s left  docs/Ü…long name.txt"),
        (39, " 42% compressing  288 MB/s  4 s left"),
        (30, " 42% compressing  4 s left"),
        (12, "42%"),
    ],
)
def test_a_narrow_line_keeps_what_matters_most(width: int, line: str) -> None:
    assert render(STATES[1], width) == line


def test_before_the_total_is_known_it_counts() -> None:
    assert render(Shown(phase="scanning", files=21304), 60) == "scanning  21\xa0304 files"


def test_without_a_total_the_count_beats_the_current_file() -> None:
    assert render(STATES[0], 39).startswith("scanning  21\xa0304 files  ")
    assert render(STATES[0], 25) == "scanning  21\xa0304 files"


def test_empty_files_count_for_the_percentage() -> None:
    state = Shown(phase=COMPRESSING, files=50, bytes=0, total_files=100, total_bytes=0)
    assert render(state, 60).startswith(" 50% ")


def test_a_terminal_sees_one_line_that_is_gone_at_the_end() -> None:
    clock, terminal = Clock(), Terminal()
    with ProgressLine(terminal, clock=clock, width=lambda: 80) as line:
        line.phase(COMPRESSING, total_files=10, total_bytes=1000)
        for number in range(1, 11):
            clock.now += 0.5
            line.update(number, number * 100, b"a\x1b[31m\n")
            assert "\n" not in terminal.getvalue()
            assert visible(terminal.getvalue()).startswith(f"{number * 10:3d}% compressing")
        assert visible(terminal.getvalue()).endswith('200 B/s  1 s left  "a\\x1b[31m\\n"')
    assert visible(terminal.getvalue()) == ""
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_wrapping_is_always_switched_on_again_in_the_same_write() -> None:
    terminal = Terminal()
    with ProgressLine(terminal, width=lambda: 80) as line:
        line.phase(COMPRESSING)
    drawn = [write for write in terminal.writes if "\x1b[?7l" in write]
    assert drawn
    assert all(write.endswith("\x1b[?7h") for write in drawn)


def test_the_line_is_drawn_at_most_ten_times_a_second() -> None:
    clock, terminal = Clock(), Terminal()
    line = ProgressLine(terminal, clock=clock, width=lambda: 80)
    for number in range(1000):
        clock.now += 0.001
        line.update(number)
    assert 9 <= len(terminal.writes) <= 11


def test_a_line_printed_meanwhile_stands_above() -> None:
    terminal = Terminal()
    line = ProgressLine(terminal, width=lambda: 80)
    line.phase(FINISHING)
    line.write("pybak: a warning")
    text = terminal.getvalue()
    assert "\r\x1b[Kpybak: a warning\n" in text
    assert visible(text).strip() == "finishing"


@pytest.mark.parametrize("enabled", [True, False])
def test_without_a_terminal_nothing_is_printed(enabled: bool) -> None:
    stream = io.StringIO() if enabled else Terminal()
    with ProgressLine(stream, enabled=enabled) as line:
        line.phase(COMPRESSING, total_files=1, total_bytes=1)
        line.update(1, 1, b"x")
    assert stream.getvalue() == ""


def test_a_dumb_terminal_gets_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with ProgressLine(terminal) as line:
        line.phase(FINISHING)
    assert terminal.getvalue() == ""


def test_a_terminal_that_goes_away_stops_nobody() -> None:
    leader, follower = pty.openpty()
    stream = os.fdopen(follower, "w", encoding="utf-8")
    line = ProgressLine(stream)
    line.phase(COMPRESSING)
    os.close(leader)
    for _ in range(3):
        line.phase(FINISHING)
    line.close()


def test_a_latin_terminal_gets_plain_signs() -> None:
    terminal = Terminal()
    terminal.encoding = "ascii"
    line = ProgressLine(terminal, width=lambda: 30)
    line.phase("scanning")
    line.write("…")
    assert terminal.getvalue().isascii()


def test_while_volumes_are_written_they_are_counted() -> None:
    shown = Shown(phase=WRITING, files=3, bytes=10**6, total_files=13, total_bytes=10**7)
    assert "3/13 volumes" in render(shown, 100)
    assert "file" not in render(shown, 100)
