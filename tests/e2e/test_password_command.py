"""Passwords as people give them: typed at a terminal, in the environment, and never to be seen."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from backing_up import prose, snapshot
from commands import PROJECT, Commands, Finished, tool
from terminal import Terminal
from waiting import shared

SECRET = "zo0-Quagga.Fjord"
ASK, AGAIN = "Password: ", "Password again: "


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Give a small folder to back up."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"alpha\n")
    (folder / "sub" / "b.txt").write_bytes(prose(300_000))
    (folder / "link").symlink_to("a.txt")
    return folder


def terminal(run_command: Commands, name: str, *words: str | Path, cwd: Path) -> Terminal:
    command = [sys.executable, PROJECT / "flows" / f"{name}.py", *words]
    return Terminal(command, env={**run_command.environment(), "TERM": "xterm"}, cwd=cwd)


def test_a_typed_password_is_asked_for_twice_and_never_shown(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    with terminal(run_command, "backup", docs, "-o", "x.zip", "-p", cwd=tmp_path) as screen:
        screen.wait_for(ASK)
        screen.type(SECRET)
        screen.wait_for(AGAIN)
        screen.type(SECRET)
        assert screen.finish() == 0, screen.shown
    assert SECRET not in screen.shown
    with terminal(run_command, "restore", "x.zip", "--to", "back", "-p", cwd=tmp_path) as screen:
        screen.wait_for(ASK)
        screen.type(SECRET)
        assert screen.finish() == 0, screen.shown
    assert AGAIN not in screen.shown
    assert SECRET not in screen.shown
    assert snapshot(tmp_path / "back/docs") == snapshot(docs)


def test_two_that_differ_are_asked_for_again(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    with terminal(run_command, "backup", docs, "-o", "x.zip", "-p", cwd=tmp_path) as screen:
        for number in (1, 2, 3):
            screen.wait_for(ASK, count=number)
            screen.type(SECRET)
            screen.wait_for(AGAIN, count=number)
            screen.type(SECRET + "?")
        assert screen.finish() == 2, screen.shown
    assert SECRET not in screen.shown
    assert not (tmp_path / "x.zip").exists()


def test_ctrl_c_at_the_question_ends_it_quietly(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    """(case 95)"""
    with terminal(run_command, "backup", docs, "-o", "x.zip", "-p", cwd=tmp_path) as screen:
        screen.wait_for(ASK)
        screen.press(b"\x03")
        assert screen.finish() == 130, screen.shown
    assert "Traceback" not in screen.shown


def test_a_dry_run_asks_nothing(run_command: Commands, docs: Path, tmp_path: Path) -> None:
    with terminal(
        run_command, "backup", docs, "-o", "x.zip", "--dry-run", "-p", cwd=tmp_path
    ) as screen:
        assert screen.finish() == 0, screen.shown
    assert ASK not in screen.shown
    assert not (tmp_path / "x.zip").exists()


def test_without_a_terminal_nobody_is_asked(run_command: Commands, docs: Path) -> None:
    done = run_command("backup", docs, "-o", "x.zip", "-p")
    assert done.rc == 2, done
    assert "PYBAK_PASSWORD" in done.stderr
    assert done.seconds < shared(10)


@pytest.mark.needs_tool("7zz|7z")
def test_what_the_environment_gives_other_programs_open(
    run_command: Commands, docs: Path, tmp_path: Path
) -> None:
    done = run_command("backup", docs, "-o", "x.zip", "--json", env={"PYBAK_PASSWORD": SECRET})
    assert done.rc == 0, done
    seven = [tool("7zz|7z"), "t", str(tmp_path / "x.zip")]
    assert subprocess.run([*seven, f"-p{SECRET}"], stdout=subprocess.DEVNULL).returncode == 0
    wrong = subprocess.run([*seven, "-pwrong"], capture_output=True)
    assert wrong.returncode != 0


class World:
    """A folder with `docs` and archives of it that SECRET opens."""

    def __init__(self, place: Path, server: str) -> None:
        self._command = Commands(place, lambda: server)
        self._home = str(place / "home")
        (place / "docs").mkdir()
        (place / "docs/a.txt").write_bytes(b"alpha\n")
        for name in ("x.zip", "x.tar.zst"):
            done = self.run("backup", place / "docs", "-o", name, "--quiet", f"-p{SECRET}")
            assert done.rc == 0, done

    def run(self, name: str, *words: Any, password: str | None = None, **how: Any) -> Finished:
        environ = {"PYBAK_HOME": self._home, "PYBAK_PASSWORD": password}
        return self._command(name, *words, env=environ, **how)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    return World(tmp_path_factory.mktemp("locked"), prefect_server)


ARCHIVES = ["x.zip", "x.tar.zst.zip"]


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("words", [[], ["--password=a wrong one"]])
def test_a_wrong_password_or_none_is_12_before_a_byte_is_written(
    world: World, tmp_path: Path, archive: str, words: list[str]
) -> None:
    """(case 63)"""
    for name, more in (("restore", ["--to", tmp_path / "back"]), ("verify", [])):
        done = world.run(name, archive, *more, *words)
        assert done.rc == 12, done
        assert archive in done.stderr
        assert "a wrong one" not in done.stderr + done.stdout
        if not words:
            assert "-p" in done.stderr
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_right_one_opens_it(world: World, tmp_path: Path, archive: str) -> None:
    done = world.run("restore", archive, "--to", tmp_path, "--quiet", f"-p{SECRET}")
    assert done.rc == 0, done
    assert (tmp_path / "docs/a.txt").read_bytes() == b"alpha\n"
    done = world.run("verify", archive, "--quiet", password=SECRET)
    assert done.rc == 0, done


def test_one_file_of_an_encrypted_archive_goes_to_stdout(world: World) -> None:
    for archive in ARCHIVES:
        done = world.run(
            "restore", archive, "--stdout", "--include", "/docs/a.txt", f"-p{SECRET}", server=False
        )
        assert (done.rc, done.stdout, done.stderr) == (0, "alpha\n", ""), done


def test_a_weak_password_is_told_and_json_stays_clean(run_command: Commands, docs: Path) -> None:
    done = run_command("backup", docs, "-o", "x.zip", "-p", "hunter2", "--json")
    assert done.rc == 0, done
    assert done.json["status"] == "success"
    assert done.stderr.startswith("pybak: warning: the password ")
    assert "hunter2" not in done.stderr + done.stdout


def test_a_source_after_p_is_no_password(run_command: Commands, docs: Path) -> None:
    done = run_command("backup", "-p", docs, "-o", "x.zip", server=False)
    assert done.rc == 2, done
    assert "put -p at the end" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc")
def test_a_password_leaves_no_trace(run_command: Commands, docs: Path, tmp_path: Path) -> None:
    """Not in what Prefect and PyBak keep, not in the output, not in the server's environment."""
    homes = {"PREFECT_HOME": str(tmp_path / "prefect"), "PYBAK_HOME": str(tmp_path / "pybak")}
    environ = {**homes, "PYBAK_PASSWORD": SECRET}
    servers: dict[int, bytes] = {}
    words = (docs, "-o", "x.tar.gz", "--cluster", "processes", "--debug")
    with run_command.running("backup", *words, env=environ, server=False) as process:
        while process.poll() is None and not servers:
            servers = _servers_of(process.pid)
            time.sleep(0.02)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert servers
    assert all(b"HOME=" in environment for environment in servers.values())
    assert not any(SECRET.encode() in environment for environment in servers.values())
    assert SECRET not in stdout + stderr
    kept = [path for home in homes.values() for path in Path(home).rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []


def _servers_of(parent: int) -> dict[int, bytes]:
    """Give the environment of the Prefect servers that a process has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"flows.support.serve_api" not in (folder / "cmdline").read_bytes():
                continue
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found[int(folder.name)] = (folder / "environ").read_bytes()
        except OSError:
            continue
    return {pid: environment for pid, environment in found.items() if environment}


def test_a_failed_run_tells_no_password(
    run_command: Commands, docs: Path, tmp_path: Path, prefect_api: httpx.Client
) -> None:
    """Errors, parameters and states of the run are kept by the server."""
    (tmp_path / "x.zip").touch()
    done = run_command("backup", docs, "-o", "x.zip", f"-p{SECRET}", "--debug", traceback=True)
    assert done.rc == 1, done
    assert SECRET not in done.stderr + done.stdout
    for kind in ("flow_runs", "logs", "task_runs", "artifacts"):
        answer = prefect_api.post(f"/{kind}/filter", json={})
        assert answer.status_code == 200
        assert SECRET not in answer.text


def test_a_dry_run_warns_of_a_weak_password_too(run_command: Commands, docs: Path) -> None:
    done = run_command("backup", docs, "-o", "x.tar", "-p", "hunter2", "--dry-run", "--json")
    assert done.rc == 0, done
    assert done.stderr.startswith("pybak: warning: the password ")
    assert done.json["plan"]["destination"].endswith("/x.tar.zip")
    assert done.json["encrypted"] is True


_LOADER = "import sys; from flows.support.passwords import load_password as load; "


def load_block(run_command: Commands, **environ: str) -> subprocess.CompletedProcess[str]:
    """Do what `pybak list --password-block` does with the entry point."""
    return subprocess.run(
        [sys.executable, "-c", _LOADER + "print(load('secret/listed').decode())"],
        cwd=PROJECT, env=run_command.environment(environ), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_blocks_password_is_loaded_without_a_word_of_prefects(
    run_command: Commands, in_prefect: None
) -> None:
    from prefect.blocks.system import Secret

    Secret(value=SECRET).save("listed", overwrite=True)  # type: ignore[arg-type]
    done = load_block(run_command)
    assert (done.stdout, done.stderr) == (SECRET + "\n", "")


def test_a_server_that_is_away_is_told_before_prefect_is_imported(run_command: Commands) -> None:
    done = load_block(run_command, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "http://127.0.0.1:9/api: no Prefect server answers; start it" in done.stderr
