"""`python flows/restore.py` and `python flows/verify.py` as people and scripts use them."""

from __future__ import annotations

import os
import signal
import tempfile
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backing_up import MANIFEST, noise, prose, snapshot
from commands import Commands, Finished
from waiting import wait_for

RESTORE_KEYS = {
    "status", "archive", "archives", "target", "files", "folders", "deleted", "deleted_paths",
    "bytes_written", "duration_seconds", "errors", "skipped", "dry_run", "message", "notes",
    "stages",
}  # fmt: skip
LARGE = 70 << 20  # bytes; more than two parts


def make_tree(src: Path) -> None:
    """Make a tree with one of everything that zip can hold."""
    (src / "sub/empty").mkdir(parents=True)
    (src / "closed").mkdir()
    (src / "closed/inside.txt").write_bytes(b"inside\n")
    (src / "plain.txt").write_bytes(b"plain\n")
    (src / "none.txt").touch()
    (src / "random.bin").write_bytes(noise(300_000))
    (src / "prose.txt").write_bytes(prose(9_000_000))
    with (src / "large.bin").open("wb") as file:
        for seed in range(LARGE >> 20):
            file.write(prose(1 << 20, seed) if seed % 3 else noise(1 << 20, seed))
    os.symlink(b"plain.txt", src / "link")
    os.symlink(b"\xff/nowhere", src / "dangling")
    with open(os.fsencode(src) + b"/sub/odd \xff\x1b[1m\n", "wb") as file:
        file.write(b"odd")
    (src / "tool").write_bytes(b"#!/bin/sh\n")
    (src / "tool").chmod(0o4755)
    os.utime(src / "plain.txt", ns=(10**18, 1_234_567_890_123_456_789))
    os.utime(src / "none.txt", ns=(-(10**18), -(10**18) + 5))
    os.utime(src / "link", ns=(10**18, 10**18 + 7), follow_symlinks=False)
    (src / "closed").chmod(0o555)
    for folder in (src / "sub/empty", src / "sub", src / "closed", src):
        os.utime(folder, ns=(10**18, 1_500_000_000_000_000_001))


class World:
    """A tree and its archive, and the commands that ran on them."""

    def __init__(self, place: Path, server: str) -> None:
        self.place, self.src, self.archive = place, place / "src", place / "a.zip"
        self.env = {"PYBAK_HOME": str(place / "home")}
        self.command = Commands(place, lambda: server)
        make_tree(self.src)
        done = self.run("backup", self.src, "-o", self.archive, "--job", "all")
        assert done.rc == 0, done

    def run(self, name: str, *words: Any, **how: Any) -> Finished:
        return self.command(name, *words, env=self.env, **how)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    return World(tmp_path_factory.mktemp("world"), prefect_server)


@pytest.fixture(scope="module")
def restored(world: World) -> Finished:
    return world.run("restore", world.archive, "--to", world.place / "restored", "--json")


def test_the_whole_tree_comes_back(world: World, restored: Finished) -> None:
    """Contents, modes, times to the nanosecond, links, empty folders (cases 14 to 20, 26 to 28)."""
    assert restored.rc == 0, restored
    assert snapshot(world.place / "restored/src") == snapshot(world.src)


def test_the_json_is_the_contract(world: World, restored: Finished) -> None:
    report = restored.json
    assert set(report) == RESTORE_KEYS
    assert report["files"] == {"total": 10, "restored": 10, "skipped": 0, "failed": 0}
    assert (report["status"], report["errors"]) == ("success", [])
    assert report["archive"] == str(world.archive)


def test_restoring_again_leaves_good_files_alone(world: World, restored: Finished) -> None:
    again = world.run("restore", world.archive, "--to", world.place / "restored", "--json")
    assert again.rc == 0, again
    assert again.json["files"] == {"total": 10, "restored": 0, "skipped": 10, "failed": 0}


@pytest.mark.parametrize("mode", ["never", "if-newer", "if-changed", "always"])
def test_what_is_there_is_replaced_as_asked(world: World, tmp_path: Path, mode: str) -> None:
    """Overwrite modes through the command (case 83)."""
    older, newer = tmp_path / "src/plain.txt", tmp_path / "src/tool"
    older.parent.mkdir()
    older.write_bytes(b"old")
    newer.write_bytes(b"new")
    os.utime(older, (0, 0))
    os.utime(newer, (4_000_000_000, 4_000_000_000))
    words = ("--include", "plain.txt", "--include", "tool", "--overwrite", mode, "--json")
    done = world.run("restore", world.archive, "--to", tmp_path, *words)
    assert done.rc == 0, done
    assert (older.read_bytes() == b"old") == (mode == "never")
    assert (newer.read_bytes() == b"new") == (mode in ("never", "if-newer"))


def test_only_what_is_included_and_not_excluded_is_restored(world: World, tmp_path: Path) -> None:
    """Patterns are of member names; what matches nothing gives 3 (case 89)."""
    words = ("--include", "*.txt", "--include", "no-such", "--exclude", "/src/closed/")
    done = world.run("restore", world.archive, "--to", tmp_path, *words, "--json")
    assert done.rc == 3, done
    assert [(error["path"], error["code"]) for error in done.json["errors"]] == [
        ("no-such", "no_match")
    ]
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "none.txt", "plain.txt", "prose.txt", "src",
    ]  # fmt: skip


def test_a_dry_run_writes_nothing_and_counts_the_same(world: World, tmp_path: Path) -> None:
    """(case 86)"""
    target = tmp_path / "target"
    done = world.run("restore", world.archive, "--to", target, "--dry-run", "--json", server=False)
    assert done.rc == 0, done
    assert done.json["files"] == {"total": 10, "restored": 10, "skipped": 0, "failed": 0}
    assert not target.exists()


def test_the_summary_says_what_was_done(world: World, tmp_path: Path) -> None:
    done = world.run("restore", world.archive, "--to", tmp_path)
    assert done.rc == 0, done
    assert done.stdout.startswith("Restore complete\n")
    assert "10 files in 4 folders" in done.stdout.replace("\N{NO-BREAK SPACE}", " ")
    quiet = world.run("restore", world.archive, "--to", tmp_path, "--quiet")
    assert (quiet.rc, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_latest_and_a_run_are_found_in_the_catalog(world: World, tmp_path: Path) -> None:
    latest = world.run("verify", "latest", "--json")
    assert latest.rc == 0, latest
    assert latest.json["archives"][0]["archive"] == str(world.archive)
    unknown = world.run("restore", "no-such-run", "--to", tmp_path / "x")
    assert unknown.rc == 10
    assert unknown.stderr == "pybak: no-such-run: neither a file nor a known run; check the name\n"


def test_latest_of_several_jobs_is_refused_and_names_them(world: World, tmp_path: Path) -> None:
    env = {"PYBAK_HOME": str(tmp_path / "home")}
    for job in ("one", "two"):
        out = tmp_path / f"{job}.zip"
        words = (world.src / "closed", "-o", out, "--job", job)
        assert world.command("backup", *words, env=env).rc == 0
    done = world.command("verify", "latest", env=env)
    assert done.rc == 2
    assert "one, two" in done.stderr
    assert world.command("verify", "latest", "--job", "two", env=env).rc == 0


@pytest.mark.parametrize("cluster", ["threads", "helpers", "processes"])
def test_every_kind_of_cluster_restores(world: World, tmp_path: Path, cluster: str) -> None:
    done = world.run("restore", world.archive, "--to", tmp_path, "--cluster", cluster)
    assert done.rc == 0, done
    assert snapshot(tmp_path / "src") == snapshot(world.src)


def damaged_copy(world: World, to: Path, member: str) -> None:
    """Copy the archive with one byte of a member's data turned."""
    data = bytearray(world.archive.read_bytes())
    with zipfile.ZipFile(world.archive) as archive:
        info = archive.getinfo(member)
    name_length = int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
    extra_length = int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    start = info.header_offset + 30 + name_length + extra_length
    data[start + info.compress_size // 2] ^= 0x10
    to.write_bytes(data)


@pytest.mark.parametrize("member", ["src/random.bin", "src/large.bin"])
def test_one_turned_byte_concerns_that_member_only(
    world: World, tmp_path: Path, member: str
) -> None:
    """Restore names it, gives 3 and no such file; verify names it and gives 1 (case 59)."""
    archive, target = tmp_path / "bad.zip", tmp_path / "target"
    damaged_copy(world, archive, member)
    done = world.run("restore", archive, "--to", target, "--json")
    assert done.rc == 3, done
    assert [(error["path"], error["code"]) for error in done.json["errors"]] == [
        (member, "damaged")
    ]
    assert done.json["files"] == {"total": 10, "restored": 9, "skipped": 0, "failed": 1}
    assert not (target / member).exists()
    assert list(target.rglob(".pybak*")) == []
    checked = world.run("verify", archive, "--json")
    assert checked.rc == 1, checked
    (verdict,) = checked.json["archives"]
    assert (verdict["status"], verdict["damaged"]) == ("damaged", [member])


def test_verify_says_what_it_read(world: World, tmp_path: Path) -> None:
    done = world.run("verify", world.archive, "--json")
    assert done.rc == 0, done
    assert done.json["status"] == "success"
    (verdict,) = done.json["archives"]
    assert (verdict["members"], verdict["damaged"], verdict["status"]) == (14, [], "success")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(world.archive.read_bytes()[:-100])
    both = world.run("verify", world.archive, cut)
    assert both.rc == 1
    assert str(cut) in both.stdout


def test_a_manifest_that_lies_is_found_out(world: World, tmp_path: Path) -> None:
    """Content with a right CRC but another hash than the manifest's is damage (case 64)."""
    forged = tmp_path / "forged.zip"
    with zipfile.ZipFile(world.archive) as old, zipfile.ZipFile(forged, "w") as new:
        for info in old.infolist():
            if info.filename.startswith("src/large"):
                continue
            if "odd" in info.filename:
                continue  # zipfile would write another name
            data = old.read(info)
            if info.filename == "src/plain.txt":
                data = b"PLAIN\n"
            new.writestr(info, data)
        assert new.getinfo(MANIFEST)
    done = world.run("verify", forged, "--json")
    assert done.rc == 1, done
    assert set(done.json["archives"][0]["damaged"]) == {
        "src/plain.txt", "src/large.bin", "src/sub/odd \udcff\x1b[1m\n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "rc", "message"),
    [
        (("{archive}",), 2, "--to"),
        (("{missing}", "--to", "{new}"), 10, "missing.zip: no such archive; check the path"),
        (("{folder}", "--to", "{new}"), 10, "is a folder without volumes; name the archive itself"),
        (("{archive}", "--to", "{archive}"), 2, "folder"),
        (("{archive}", "--to", "{new}", "--overwrite", "sometimes"), 2, "--overwrite"),
        (("{text}", "--to", "{new}"), 1, "text.zip"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    world: World, tmp_path: Path, words: tuple[str, ...], rc: int, message: str
) -> None:
    """(case 88)"""
    (tmp_path / "text.zip").write_bytes(b"this is no archive" * 10)
    names = {
        "archive": world.archive, "missing": tmp_path / "missing.zip", "folder": world.src,
        "new": tmp_path / "new", "text": tmp_path / "text.zip",
    }  # fmt: skip
    done = world.run("restore", *(word.format(**names) for word in words))
    assert done.rc == rc, done
    assert done.stderr.startswith("pybak: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_through_a_link_in_the_target(world: World, tmp_path: Path) -> None:
    """(cases 79, 82)"""
    target, victim = tmp_path / "target", tmp_path / "victim"
    target.mkdir()
    victim.mkdir()
    (target / "src").symlink_to(victim)
    done = world.run("restore", world.archive, "--to", target, "--json")
    assert done.rc == 3, done
    assert list(victim.iterdir()) == []
    assert done.json["files"]["restored"] == 0
    assert done.json["files"]["failed"] == 10


def no_screen() -> Any:
    return SimpleNamespace(working=lambda *_, **__: None)


def test_a_signal_while_a_restore_is_planned_leaves_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(case 95)"""
    from flows import restore as flow
    from pybak.errors import Interrupted
    from pybak.options import RestoreOptions

    monkeypatch.setenv("PYBAK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def plan_and_be_stopped(run: flow.RestoreRun) -> Any:
        plan = run.plan()
        run.request_cancel()
        return plan

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("f", b"x")
    monkeypatch.setattr(flow, "plan_restore", plan_and_be_stopped)
    monkeypatch.setattr(flow, "failure_recorded", lambda *_: nullcontext())
    target = tmp_path / "target"
    with (
        flow.RestoreRun(tmp_path / "a.zip", str(target), RestoreOptions()) as run,
        pytest.raises(Interrupted),
    ):
        flow._restore(run, None, no_screen())
    assert not target.exists()


def test_ctrl_c_stops_a_restore_cleanly(world: World, tmp_path: Path) -> None:
    """130, whole files only, no process left (case 95)."""
    with world.command.running(
        "restore", world.archive, "--to", tmp_path, "-w", "1", env=world.env
    ) as process:
        wait_for(
            lambda: any(tmp_path.rglob(".pybak*")) or process.poll() is not None, 30, every=0.01
        )
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) in (130, 0)
    assert list(tmp_path.rglob(".pybak*")) == []
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert (
                path.read_bytes() == (world.src / path.relative_to(tmp_path / "src")).read_bytes()
            )
