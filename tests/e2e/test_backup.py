"""`python flows/backup.py` as people and scripts use it: what it says, counts and writes."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from backing_up import MANIFEST, judge, snapshot, unpack
from commands import PROJECT, TIMEOUT_SECONDS, Commands, Finished
from waiting import shared

from pybak.backup.markers import CACHE_SIGNATURE

STAGES = {
    "discover", "filter", "plan", "compress", "assemble", "upload", "record-metadata",
    "email-report",
}  # fmt: skip
KEYS = {
    "status", "run_id", "job", "archive", "volumes", "files", "folders", "bytes_read",
    "bytes_stored", "duration_seconds", "level", "excluded_by", "errors", "skipped", "message",
    "format", "encrypted", "checksum_files", "lost", "mode", "full_because", "base_run", "gone",
    "duplicates", "duplicate_bytes", "copies", "stages",
}  # fmt: skip
ODD_NAMES = [
    b"with blank (1).txt",
    b"glob[*]?.txt",
    b"trailing. ",
    b"newline\n",
    b"escape\x1b[31mred",
    b"latin \xe9\xff",
    "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n \N{SNOWMAN}".encode(),
    b"-rf",
    b"n" * 255,
]
OPTIONS = ("--exclude", "*.tmp", "--max-file-size", "2MB", "--job", "odd ones")


def make_tree(src: Path) -> None:
    """Make a tree with one of everything."""
    (src / "sub/empty").mkdir(parents=True)
    (src / "plain.txt").write_bytes(b"plain\n")
    (src / "empty.txt").touch()
    for name in ODD_NAMES:
        with open(os.fsencode(src) + b"/sub/" + name, "wb") as file:
            file.write(name)
    (src / "link").symlink_to("plain.txt")
    (src / "dangling").symlink_to("/no/such/file")
    os.symlink(b"\xff target", os.fsencode(src) + b"/badlink")
    os.mkfifo(src / "fifo\x1b[1m")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(src / "socket"))
    (src / "drop.tmp").write_bytes(b"x")
    (src / "sub/drop.tmp").write_bytes(b"x")
    with (src / "huge.bin").open("wb") as file:
        file.truncate(3_000_000)
    for name, tag in (("cache", "CACHEDIR.TAG"), ("private", ".nobackup")):
        (src / name).mkdir()
        (src / name / tag).write_bytes(CACHE_SIGNATURE)
        (src / name / "content").write_bytes(b"x")
    os.utime(src / "plain.txt", ns=(1_600_000_000_000_000_000, 1_600_000_000_123_456_789))
    os.chmod(src / "plain.txt", 0o4750)
    os.utime(src / "sub/empty", ns=(10**18, 10**18))


FILES = len(ODD_NAMES) + 2 + 3 + 2  # plain and empty, links, markers
FOLDERS = 5
EXCLUDED = 2 + 1 + 2


class World:
    """A tree, a destination, and the commands that ran there."""

    def __init__(self, place: Path, server: str) -> None:
        self.src, self.out, self.home = place / "src", place / "out", place / "home"
        self.env = {"PYBAK_HOME": str(self.home)}
        self.command = Commands(place, lambda: server)
        make_tree(self.src)

    def run(self, *words: Any, **how: Any) -> Finished:
        return self.command("backup", *words, env=self.env, **how)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    return World(tmp_path_factory.mktemp("world"), prefect_server)


@pytest.fixture(scope="module")
def dry(world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Do a dry run before anything else, and see that it leaves no trace."""
    before = snapshot(world.home.parent)
    temporary = tmp_path_factory.mktemp("scratch")
    env = world.env | {"TMPDIR": str(temporary)}
    words = (world.src, "--to", world.out, *OPTIONS, "--dry-run", "--json")
    done = world.command("backup", *words, env=env)
    assert snapshot(world.home.parent) == before
    assert os.listdir(temporary) == []
    return done


@pytest.fixture(scope="module")
def full(world: World, dry: Finished) -> Finished:
    return world.run(world.src, "--to", world.out, *OPTIONS, "--json")


@pytest.fixture(scope="module")
def partial(world: World, full: Finished) -> Finished:
    """Run as someone who may not read all, with a source that is missing; as text."""
    denied = world.src / "sub/denied\x1b[31m.txt"
    denied.write_bytes(b"secret")
    closed = world.src / "closed"
    closed.mkdir()
    (closed / "inside").write_bytes(b"x")
    os.chmod(denied, 0)
    os.chmod(closed, 0)
    try:
        return world.run(
            world.src, world.src / "missing", "--to", world.out, *OPTIONS, powerless=True
        )
    finally:
        closed.chmod(0o755)
        (closed / "inside").unlink()
        closed.rmdir()
        denied.unlink()


def test_the_json_is_the_contract(world: World, full: Finished) -> None:
    """Exact keys and exact counters; nothing is counted twice (cases 39, 110)."""
    report = full.json
    assert full.rc == 0, full
    assert full.stderr == ""
    assert set(report) == KEYS
    assert report["files"] == {
        "total": FILES, "new": FILES, "changed": 0, "unchanged": 0,
        "excluded": EXCLUDED, "skipped": 2, "failed": 0,
    }  # fmt: skip
    assert (report["status"], report["job"], report["level"]) == ("success", "odd ones", 2)
    assert (report["folders"], report["errors"], report["message"]) == (FOLDERS, [], None)
    assert sum(report["excluded_by"].values()) == EXCLUDED
    archive = Path(report["archive"])
    assert archive.parent == world.out
    assert archive.name.startswith("odd-ones_")
    (volume,) = report["volumes"]
    assert volume["uri"] == archive.as_uri()
    assert volume["size"] == report["bytes_stored"] == archive.stat().st_size
    said = subprocess.run(["sha256sum", archive], capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == volume["sha256"]
    assert report["bytes_read"] == 6 + sum(map(len, ODD_NAMES)) + 2 * len(CACHE_SIGNATURE)


def test_what_zip_can_not_hold_is_named_and_no_error(world: World, full: Finished) -> None:
    """A FIFO and a socket; the run does not wait for anyone (cases 32, 33)."""
    skipped = {problem["path"]: problem["code"] for problem in full.json["skipped"]}
    assert skipped == {
        str(world.src / "fifo\x1b[1m"): "unsupported", str(world.src / "socket"): "unsupported",
    }  # fmt: skip
    assert full.seconds < shared(30)


@pytest.mark.needs_tool("bsdtar", "unzip", "7zz")
def test_other_programs_unpack_what_was_backed_up(
    world: World, full: Finished, tmp_path: Path
) -> None:
    """Every byte of names, contents and link targets; modes and times (cases 1-5, 8, 14-16, 26)."""
    archive = Path(full.json["archive"])
    judge(archive)
    unpacked = snapshot(unpack(archive, tmp_path / "u"))
    left_out = {b"fifo\x1b[1m", b"socket", b"drop.tmp", b"sub/drop.tmp", b"huge.bin",
                b"cache/content", b"private/content"}  # fmt: skip
    want = {
        b"src/" + path: what for path, what in snapshot(world.src).items() if path not in left_out
    }
    unpacked.pop(b"src")
    assert unpacked == want


def test_a_dry_run_tells_the_same_and_writes_nothing(dry: Finished, full: Finished) -> None:
    """No destination, no home, no catalog, no temporary file (case 86)."""
    assert dry.rc == 0, dry
    assert dry.json["files"] == full.json["files"]
    assert dry.json["folders"] == full.json["folders"]
    assert dry.json["skipped"] == full.json["skipped"]
    assert dry.json["excluded_by"] == full.json["excluded_by"]


def test_a_partial_run_names_what_failed(world: World, partial: Finished) -> None:
    """Exit 3; a file and a folder that may not be read, a source missing (cases 53, 54, 56)."""
    assert partial.rc == 3, partial
    text = partial.stdout
    assert "partial" in text.splitlines()[0]
    for name in ("missing", "closed", "denied"):
        assert name in text
    archives = sorted(world.out.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(archives) == 2
    judge(archives[-1], ["unzip"])
    with zipfile.ZipFile(archives[-1]) as archive:
        assert "src/plain.txt" in archive.namelist()
        assert "src/closed/" in archive.namelist()
        assert not any("denied" in name for name in archive.namelist())


def test_nothing_that_moves_a_cursor_reaches_the_terminal(partial: Finished) -> None:
    """(case 7)"""
    assert "\x1b" not in partial.stdout + partial.stderr
    assert "denied" in partial.stdout


def test_the_summary_says_what_people_want_to_know(partial: Finished) -> None:
    text = partial.stdout
    for word in ("Archive", "Files", "odd ones", f"{FILES + 3}", "fifo", "socket"):
        assert word in text, word
    assert max(map(len, text.splitlines())) <= 400


def flow_runs(api: Any, source: Path) -> list[dict[str, Any]]:
    runs = api.post("/flow_runs/filter", json={"limit": 200}).raise_for_status().json()
    return [run for run in runs if run["parameters"].get("sources", [""])[0] == str(source)]


def test_prefect_tells_what_the_exit_code_tells(
    world: World, full: Finished, partial: Finished, prefect_api: Any
) -> None:
    runs = flow_runs(prefect_api, world.src)
    assert sorted((run["state"]["type"], run["state"]["name"]) for run in runs) == [
        ("COMPLETED", "Completed"), ("COMPLETED", "Partial"),
    ]  # fmt: skip
    assert all(run["name"].startswith("odd ones ") for run in runs)
    artifacts = prefect_api.post("/artifacts/filter", json={"limit": 200}).json()
    ours = {run["id"] for run in runs}
    texts = [a["data"] for a in artifacts if a["flow_run_id"] in ours]
    assert len(texts) == 2
    assert any("partial" in text for text in texts)


def test_the_catalog_has_both_runs(world: World, full: Finished, partial: Finished) -> None:
    with sqlite3.connect(world.home / "catalog.db") as catalog:
        rows = catalog.execute(
            "select seq, job, status, archive, stages from run order by seq"
        ).fetchall()
    assert [(seq, job, status) for seq, job, status, *_ in rows] == [
        (1, "odd ones", "success"), (2, "odd ones", "partial"),
    ]  # fmt: skip
    assert rows[0][3] == full.json["archive"]
    told = [
        [one["name"], one["start_seconds"], one["wall_seconds"], one["busy_seconds"]]
        for one in full.json["stages"]
    ]
    assert json.loads(rows[0][4]) == told
    assert {name for name, *_ in told} == STAGES
    assert told[0][:2] == ["discover", 0.0]
    assert all(
        0 <= start + wall <= full.json["duration_seconds"] + 30 for _, start, wall, _ in told
    )
    # One worker can't have worked longer than the stage took.
    assert all(busy is not None and busy <= wall + 0.1 for _, _, wall, busy in told), told


def test_a_destination_inside_the_source_leaves_its_own_files_out(
    tmp_path: Path, run_command: Commands
) -> None:
    """Also the archive of the run before; sources given twice count once (cases 10, 11)."""
    src = tmp_path / "src"
    src.mkdir()
    (src / "f").write_bytes(b"f")
    twice = (src, f"{src}/./", ".", "--to", src / "backups", "--quiet")
    for number in (1, 2):
        done = run_command("backup", *twice, cwd=src)
        assert (done.rc, done.stdout, done.stderr) == (0, "", ""), done
        assert len(os.listdir(src / "backups")) == number
    for path in (src / "backups").iterdir():
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() in (
                ["src/", "src/f", MANIFEST], ["src/", "src/f", "src/backups/", MANIFEST],
            )  # fmt: skip


def test_settings_come_from_files_too(tmp_path: Path, run_command: Commands) -> None:
    """Lists of sources and patterns, a config file; names like options (cases 12, 13)."""
    for name in ("-dash", " blank ", "a*b"):
        (tmp_path / name).mkdir()
        for file in ("keep", "drop"):
            (tmp_path / name / file).write_bytes(name.encode())
    (tmp_path / "list").write_bytes(
        b"\0".join(os.fsencode(tmp_path / name) for name in ("-dash", " blank ", "a*b")) + b"\0"
    )
    (tmp_path / "drops").write_text("drop\n")
    (tmp_path / "config.yaml").write_text("level: 9\nexclude_from: [drops]\nworkers: 1\n")
    done = run_command(
        "backup", "--files-from", "list", "--config", "config.yaml", "-o", "a.zip", "--json"
    )
    assert done.rc == 0, done
    assert (done.json["level"], done.json["files"]["excluded"]) == (9, 3)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            [f"{n}/{k}" for n in ("-dash", " blank ", "a*b") for k in ("", "keep")] + [MANIFEST]
        )


@pytest.mark.parametrize("more", [[], ["other"]])
def test_a_list_of_sources_comes_by_a_pipe(
    tmp_path: Path, run_command: Commands, more: list[str]
) -> None:
    for name in ("listed", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    words = (*more, "--files-from", "-", "-o", "a.zip")
    done = run_command("backup", *words, "--exclude-from", "/dev/null", stdin="listed\n")
    assert done.rc == 0, done
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {name for name in archive.namelist() if name.endswith("/f")} == {
            f"{name}/f" for name in (*more, "listed")
        }


def test_an_include_that_matches_nothing_is_partial(tmp_path: Path, run_command: Commands) -> None:
    """(case 89)"""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").touch()
    done = run_command(
        "backup", "src", "--include", "*.py", "--include", "*.rs", "-o", "a.zip", "--json"
    )
    assert done.rc == 3, done
    assert [(e["path"], e["code"]) for e in done.json["errors"]] == [("*.rs", "no_match")]
    assert done.json["files"]["new"] == 1
    assert done.json["files"]["failed"] == 0


REFUSED = [
    pytest.param(["missing", "gone", "--to", "new"], 10, "gone", id="missing-sources"),
    pytest.param(["src", "-o", "there.zip"], 1, "exists already", id="output-exists"),
    pytest.param(["src", "--to", "there.zip"], 1, "there.zip", id="destination-is-a-file"),
    pytest.param(["src", "--to", "new", "--memory-limit", "50MB"], 2, "or more", id="no-memory"),
    pytest.param(["src", "--to", "new", "--exclude-from", "nope"], 2, "nope", id="no-pattern-file"),
]  # fmt: skip
NOT_STARTED = [
    (["src", "--levl", "3"], "--level"),
    (["src", "-l", "10"], "between 1 and 9"),
    (["src", "-l", "0"], "between 1 and 9"),
    (["src", "-w", "0"], "between 1 and 256"),
    (["src", "-f", "rar"], "zip"),
    (["src", "--max-file-size", "big"], "big"),
    (["src", "--cluster", "moon"], "auto"),
    (["src", "-o", "a.zip", "--to", "b"], "--to"),
    (["src", "--config", "nope.yaml"], "nope.yaml"),
    ([], "SOURCE"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED)
def test_what_can_not_be_done_is_one_line_and_changes_nothing(
    tmp_path: Path, run_command: Commands, words: list[str], code: int, says: str
) -> None:
    """(cases 42, 56)"""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"f")
    (tmp_path / "there.zip").write_bytes(b"precious")
    before = snapshot(tmp_path)
    done = run_command("backup", *words, "--json")
    assert done.rc == code, done
    assert done.json["status"] == "failed"
    assert done.json["archive"] is None
    assert says in done.stderr
    assert done.stderr.startswith("pybak: ")
    assert done.stderr.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("words", "says"), NOT_STARTED)
def test_a_wrong_command_line_starts_nothing(
    tmp_path: Path, run_command: Commands, words: list[str], says: str
) -> None:
    """Exit 2 in a moment, without Prefect."""
    (tmp_path / "src").mkdir()
    done = run_command("backup", *words, server=False)
    assert (done.rc, done.stdout) == (2, ""), done
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.seconds < shared(5)


def test_a_pattern_that_is_none_is_refused_with_its_text(
    tmp_path: Path, run_command: Commands
) -> None:
    """(case 42)"""
    (tmp_path / "src").mkdir()
    done = run_command("backup", "src", "--exclude", "!", "--dry-run")
    assert done.rc == 2, done
    assert "!" in done.stderr


@pytest.mark.needs_root
def test_a_destination_that_can_not_be_written_says_so(
    tmp_path: Path, run_command: Commands
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "closed").chmod(0o555)
    done = run_command("backup", "src", "--to", "closed", powerless=True)
    assert done.rc == 1, done
    assert (
        done.stderr
        == f"pybak: {tmp_path}/closed: permission denied; choose a folder you can write\n"
    )


def test_an_empty_folder_is_a_backup(tmp_path: Path, run_command: Commands) -> None:
    """(case 15)"""
    (tmp_path / "src").mkdir()
    done = run_command("backup", "src", "-o", "a.zip", "--json")
    assert (done.rc, done.json["files"]["total"], done.json["folders"]) == (0, 0, 1), done
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["src/", MANIFEST]


def test_a_single_file_and_root_relative_names(tmp_path: Path, run_command: Commands) -> None:
    """`..` and doubled slashes name the same things (case 11)."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/f").write_bytes(b"f")
    done = run_command("backup", "..//b", "./../f", "-o", "x.zip", "--quiet", cwd=tmp_path / "a/b")
    assert (done.rc, done.stdout + done.stderr) == (0, ""), done
    with zipfile.ZipFile(tmp_path / "a/b/x.zip") as archive:
        assert [n for n in archive.namelist() if n != "b/"] == ["f", MANIFEST]


def test_a_backup_needs_no_stderr(tmp_path: Path, run_command: Commands) -> None:
    """Its own Prefect server gets the number of no stream that is closed."""
    (tmp_path / "src").mkdir()
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "-",
         sys.executable, PROJECT / "flows/backup.py", "src", "-o", "a.zip"],
        cwd=tmp_path, env=run_command.environment(server=False), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert b"Backup complete" in done.stdout
    assert (tmp_path / "a.zip").exists()


def test_progress_stays_off_what_is_no_terminal_and_is_seen_on_one(
    tmp_path: Path, prefect_server: str
) -> None:
    """The line goes to stderr; stdout has the summary alone."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"x" * 100_000)
    main, child = os.openpty()
    done = subprocess.run(
        [sys.executable, PROJECT / "flows/backup.py", "src", "-o", "a.zip"],
        cwd=tmp_path, env=os.environ | {"PREFECT_API_URL": prefect_server},
        stdout=subprocess.PIPE, stderr=child, timeout=60, check=True,
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while block := os.read(main, 4096):
            shown += block
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert b"\r" in shown
    assert b"\r" not in done.stdout
    assert b"Backup complete" in done.stdout
    assert json.dumps(done.stdout.decode()).isascii()
