"""Mirrors that are killed, stopped, or find the disk full: what they leave, and the next run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mirroring import assert_mirrored, done, errors, mirror, put

from pybak.errors import Interrupted
from pybak.mirror import run
from pybak.mirror.helping import mirror_hand
from pybak.mirror.rows import is_temporary, temporary_name
from pybak.mirror.run import MirrorRun
from pybak.options.mirror import MirrorOptions
from pybak.report import PARTIAL, SUCCESS, UNCHANGED

LEFT = temporary_name("0123456789abcdef", "0123456789ab").decode()
_MIRROR = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from mirroring import mirror
print("ready", flush=True)
mirror(Path(sys.argv[1]), Path(sys.argv[2]), delete=True, max_delete="100%", workers=2)
"""


def make_tree(source: Path, seed: int) -> None:
    """Make or change a tree of some hundred files, some of them large."""
    choose = random.Random(seed)
    for number in range(400):
        folder = source.joinpath(*(choose.choice("abc") for _ in range(choose.randrange(4))))
        size = choose.choice((0, 10, 3000, 3000, 400_000))
        put(folder / f"file{number}", choose.randbytes(size), mtime_ns=seed * 10**9 + number)
    (source / "hard").unlink(missing_ok=True)
    os.link(next(path for path in source.rglob("file*") if path.is_file()), source / "hard")


def whole_or_old(path: Path, *versions: dict[str, bytes]) -> None:
    """See that all files that have their names are one of the versions, whole."""
    for found in path.rglob("*"):
        if found.is_file() and not is_temporary(os.fsencode(found.name)):
            name = str(found.relative_to(path))
            assert found.read_bytes() in [one.get(name) for one in versions], name


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()
    }


def test_after_a_kill_at_any_moment_the_next_run_makes_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is ever half there under its own name (case 93)."""
    source, target = tmp_path / "src", tmp_path / "dst"
    choose = random.Random(5)
    tests = str(Path(__file__).parents[1])
    before: dict[str, bytes] = {}
    for seed in range(1, 4):
        make_tree(source, seed)
        now = contents(source)
        for _ in range(2):
            command = [sys.executable, "-c", _MIRROR, source, target, tests]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(choose.random() * 0.25)
                process.send_signal(signal.SIGKILL)
            if target.exists():
                whole_or_old(target, before, now)
        monkeypatch.setattr(run, "_LIVE_SECONDS", 0)
        mirror(source, target, delete=True, max_delete="100%")
        assert_mirrored(source, target)
        before = now


def test_what_a_killed_run_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing else is to be done, and without --delete; but nothing of a live run."""
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "sub" / "file")
    mirror(source, target)
    for folder in (target, target / "sub"):
        (folder / LEFT).write_bytes(b"half")
    put(target / "sub" / ".pybak-mine")
    mirror(source, target, delete=True, exclude=[".pybak-mine"])
    assert (target / LEFT).exists()
    assert (target / "sub" / LEFT).exists()
    monkeypatch.setattr(run, "_LIVE_SECONDS", 0)
    report = mirror(source, target)
    assert (report.status, done(report)) == (SUCCESS, {"unchanged": 1})
    assert sorted(os.listdir(target)) == ["sub"]
    assert sorted(os.listdir(target / "sub")) == [".pybak-mine", "file"]
    assert mirror(source, target).status == UNCHANGED


def test_what_a_killed_run_left_in_a_source_is_not_copied(tmp_path: Path) -> None:
    """Where the source is another mirror's destination."""
    source, target = tmp_path / "src", tmp_path / "dst"
    put(source / "file")
    put(source / LEFT)
    mirror(source, target)
    assert os.listdir(target) == ["file"]
    assert mirror(source, target, delete=True).status == UNCHANGED


def _stopped_half_way(source: Path, target: Path) -> None:
    with MirrorRun(str(source), str(target), MirrorOptions(workers=2)) as it:
        plan = it.compare()
        it.prepare(plan)
        outcomes = [mirror_hand(it.staging, "0", plan.hands[0])]
        it.request_cancel()
        time.sleep(0.06)
        outcomes.append(mirror_hand(it.staging, "1", plan.hands[-1]))
        it.report(plan, outcomes)


def test_a_request_to_stop_ends_it_and_leaves_whole_files(tmp_path: Path) -> None:
    """Folders get their times all the same (case 95)."""
    source, target = tmp_path / "src", tmp_path / "dst"
    make_tree(source, 1)
    (source / "a").chmod(0o711)
    with pytest.raises(Interrupted):
        _stopped_half_way(source, target)
    assert not list(target.rglob(".pybak*"))
    whole_or_old(target, contents(source))
    assert not (target / "a").exists() or (target / "a").stat().st_mode & 0o777 == 0o711
    mirror(source, target)
    assert_mirrored(source, target)


def test_a_request_to_stop_ends_a_comparison(tmp_path: Path) -> None:
    make_tree(tmp_path / "src", 1)
    with (
        MirrorRun(str(tmp_path / "src"), str(tmp_path / "dst"), MirrorOptions()) as it,
        pytest.raises(Interrupted),
    ):
        it.compare(lambda _files, _size: it.request_cancel())
    assert not (tmp_path / "dst").exists()


@pytest.mark.needs_root
@pytest.mark.needs_tool("mount")
def test_a_full_disk_ends_the_copies_and_the_next_run_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "src", tmp_path / "dst"
    target.mkdir()
    for number in range(12):
        put(source / f"f{number:02d}", os.urandom(400_000))
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", target]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        report = mirror(source, target)
        assert report.status == PARTIAL
        assert set(errors(report).values()) == {"storage"}
        assert report.files.copied + report.files.failed == 12
        assert report.files.copied >= 3
        assert any("full" in problem.message for problem in report.errors)
        assert not list(target.glob(".pybak*"))
        whole_or_old(target, contents(source))
        subprocess.run(["mount", "-o", "remount,size=20m", target], check=True)
        report = mirror(source, target)
        assert (report.status, report.files.failed) == (SUCCESS, 0)
        assert_mirrored(source, target)
    finally:
        subprocess.run(["umount", target], check=True)
