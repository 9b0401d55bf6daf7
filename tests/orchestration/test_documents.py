"""What README and the documents say can be typed, can be typed."""

from __future__ import annotations

import bz2
import filecmp
import gzip
import hashlib
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
import zstandard
from backing_up import MANIFEST, back_up
from commands import PROJECT, Commands

from deployments.clients import clients
from deployments.definitions import Definition
from pybak import cli
from pybak.cli import program
from pybak.cli.inbox import inbox_command
from pybak.formats import suffixes
from pybak.formats.streams import TAR_FORMATS, codec, engine_name
from pybak.options import BackupOptions

README = (PROJECT / "README.md").read_text()
MIGRATION = (PROJECT / "docs" / "migration.md").read_text()


def test_the_lines_about_history_work_as_they_stand(run_command: Commands, tmp_path: Path) -> None:
    letters(tmp_path)
    lines = [command_of(line) for line in typed(section(README, "History"))]
    # The id of the first run is what people read off the list.
    read = "import json, sys; print(json.load(sys.stdin)['snapshots'][0]['run_id'])"
    first = f'$(pybak snapshots --json | command python -c "{read}")'
    done = in_shell("\n".join(lines).replace(" RUN ", f" {first} "), run_command, tmp_path)
    assert done.returncode == 0, done
    assert_same(tmp_path / "letters", tmp_path / "as-it-is" / "letters")
    assert (tmp_path / "as-it-was" / "letters" / "a.txt").read_text().endswith("one more\n")
    assert not (tmp_path / "as-it-was" / "letters" / "old").exists()
    assert len(list((tmp_path / "backups").iterdir())) == 2
    assert "letters/old/b.txt" in done.stdout  # by the line about differences


OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
FORMATS = (PROJECT / "docs" / "formats.md").read_text()
PASSWORD = "PASSWORD"  # as the documents write it
MIB = 1 << 20


def section(text: str, title: str) -> str:
    """Give what stands below a heading of the second rank."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def typed(text: str, language: str = "sh") -> list[str]:
    """Give the lines of the code blocks in a language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def command_of(line: str) -> str:
    """Give a line without the remark behind it."""
    return re.sub(r"  +# .*$", "", line)


def letters(folder: Path) -> Path:
    """Make the folder that the documents speak of."""
    tree = folder / "letters"
    (tree / "old").mkdir(parents=True)
    (tree / "a.txt").write_text("Dear Ada\n" * 100)
    (tree / "old" / "b.txt").write_text("Dear Bob\n")
    (tree / "old" / "c.bin").write_bytes(os.urandom(200_000))
    (tree / "old" / "empty").touch()
    return tree


def assert_same(left: Path, right: Path) -> None:
    found = [sorted(path.relative_to(top) for path in top.rglob("*")) for top in (left, right)]
    assert found[0] == found[1]
    files = [str(path) for path in found[0] if (left / path).is_file()]
    assert filecmp.cmpfiles(left, right, files, shallow=False)[1:] == ([], [])


def in_shell(
    lines: str, run_command: Commands, cwd: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run lines as a person would in the project, whose folder is `cwd` to them."""
    words = {
        **run_command.environment(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "HOME": str(cwd),
    }
    known = (
        f"flows={shlex.quote(str(PROJECT / 'flows'))}\n"
        'python() { command python "$flows/${1#flows/}" "${@:2}"; }\n'
        'pybak() { command python -m pybak "$@"; }\n'
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", known + lines], cwd=cwd, env=words | more,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.needs_tool("unzip")
def test_the_first_screen_is_a_session_that_works(run_command: Commands, tmp_path: Path) -> None:
    screen = README.split("\nPyBak turns", 1)[0]
    letters(tmp_path).rename(tmp_path / "Documents")
    shown = re.sub(r"^    ?", "", screen, flags=re.MULTILINE)
    lines = [line[2:] for line in shown.splitlines() if line.startswith("$ ")]
    script = "\n".join(map(command_of, lines)).replace("backup_20261121_150145.zip", "*.zip")
    done = in_shell(script, run_command, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("same\n")
    # What is printed has the same lines, with other numbers.
    printed = [line for line in shown.splitlines()[1:] if line and not line.startswith("$ ")]
    heads = [re.split(r"  |: ", line)[0] for line in printed]
    assert heads == [re.split(r"  |: ", line)[0] for line in done.stdout.splitlines() if line]


WITHOUT = typed(section(README, "Without PyBak"))


@pytest.mark.needs_tool("unzip", "7zz", "bsdtar", "tar", "zstd")
@pytest.mark.parametrize("line", WITHOUT)
def test_every_archive_opens_without_pybak(line: str, tmp_path: Path) -> None:
    """(case 68)"""
    (found,) = set(re.findall(r"letters\.(zip|tar(?:\.(?:gz|bz2|zst))?)\b", line))
    is_split = bool(re.search(r"\[0-9\]|\*\.zip|sha256", line))
    forms = ["tar", "tar.gz", "tar.bz2"] if found == "tar" else [found]
    for form in forms:
        folder = tmp_path / form
        tree = letters(folder / "from")
        archives = folder / "archives"
        archives.mkdir()
        made = back_up(
            tree, to=archives, job="letters", format=form, level=1,
            password=PASSWORD.encode() if PASSWORD in line else None,
            hide_names=".zip.zip" in line,
            split="70000" if is_split else None, checksum=["sha256"] if "sha256" in line else [],
        )  # fmt: skip
        command = command_of(line)
        if found == "tar":
            command = command.replace("letters.tar", f"letters.{form}")
        command = command.replace("letters.", f"{made.path.name.removesuffix(form)}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=archives, capture_output=True,
            stdin=subprocess.DEVNULL, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done
        if "sha256sum" in line:
            assert done.stdout.count(": OK\n") == len(list(archives.glob("*.0*"))) > 1
        else:
            assert_same(tree, archives / "letters")


def test_the_lines_about_passwords_volumes_and_restoring_work_as_they_stand(
    run_command: Commands, tmp_path: Path
) -> None:
    letters(tmp_path)
    lines = [
        line
        for title in ("Passwords", "Volumes", "Looking, checking, getting back")
        for line in typed(section(README, title))
    ]
    # Nobody is there to be asked; the environment says the same.
    script = "\n".join(re.sub(r" -p$", "", command_of(line)) for line in lines)
    done = in_shell(script, run_command, tmp_path, PYBAK_PASSWORD="correct horse battery")
    assert done.returncode == 0, done
    assert "Encrypted    AES-256" in done.stdout
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "letters" / "a.txt").read_text()
    assert_same(tmp_path / "letters", tmp_path / "restored" / "letters")
    assert (tmp_path / "letters.tar.zst.001.zip").is_file()
    assert "part 1 of 20" in done.stdout


@pytest.mark.parametrize("line", [one for one in typed(MIGRATION) if "flows/backup.py" in one])
def test_each_command_of_the_migration_page_makes_a_backup(
    line: str, run_command: Commands, tmp_path: Path
) -> None:
    for name in ("letters", "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
        (tmp_path / name / "a.tmp").write_text("draft")
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", "flows/backup.py")
    report = run_command("backup", *words, "--json").json
    assert report["status"] == "success"
    assert all(Path(unquote(urlsplit(one["uri"]).path)).is_file() for one in report["volumes"])
    assert report["volumes"]
    assert report["files"]["excluded"] == words.count("*.tmp")
    assert report["encrypted"] == ("-p" in words)
    for option, wanted in (("-f", "format"), ("--format", "format"), ("-l", "level")):
        if option in words:
            assert str(report[wanted]) == words[words.index(option) + 1]
    assert report["archive"].endswith(".zip") or "-f" in words
    assert bool(report["checksum_files"]) == ("--checksum" in words)


def test_the_configuration_on_the_migration_page_is_valid(
    run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "backup.yaml").write_text("\n".join(typed(MIGRATION, "yaml")))
    done = run_command("backup", ".", "--config", "backup.yaml", "--dry-run", "--json")
    assert done.rc == 0, done


def test_each_mirror_of_the_migration_page_copies_the_folder(
    run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("\n".join(typed(MIGRATION, "json")))
    lines = [line for line in typed(MIGRATION) if "flows/mirror.py" in line]
    assert len(lines) >= 2
    letters(tmp_path)
    for number, line in enumerate(lines):
        (tmp_path / "letters" / f"new{number}.txt").write_text(line)
        done = run_command("mirror", *shlex.split(line)[2:], "--json")
        assert (done.rc, done.json["status"]) == (0, "success"), done
        assert_same(tmp_path / "letters", tmp_path / "copy")
    assert (tmp_path / "copy.log").stat().st_size > 0


def test_every_option_that_the_documents_name_exists() -> None:
    commands = [
        cli.backup_command(lambda _: 0),
        cli.restore_command(lambda _: 0),
        cli.verify_command(lambda _: 0),
        cli.prune_command(lambda _: 0),
        cli.rebuild_command(lambda _: 0),
        cli.drill_command(lambda _: 0),
        cli.transfer_command(lambda _: 0),
        inbox_command(lambda _: 0),
        cli.mirror_command(lambda _: 0),
        *(make() for make in program.COMMANDS.values()),
        *clients.commands.values(),
    ]
    known = {name for command in commands for p in command.params for name in p.opts}
    elsewhere = {
        "--every", "--full", "--pool", "--type", "--all", "--prefect-file", "--no-prompt",
        "--rm", "--user", "--build-arg", "--passphrase", "--is-split", "--split-chunk-mb",
        "--sources", "--output-dir", "--algo", "--dest-type", "--original-base-filename",
        "--start", "--deployment", "--now",
        "--streams", "--env-file", "--acls", "--xattrs", "--xattrs-include", "--file",
        "--nthreads", "--nworkers", "--no-dashboard", "--host", "--port",
    }  # fmt: skip
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README + OPERATIONS + MIGRATION + FORMATS))
    assert named - elsewhere <= known


def test_every_option_of_a_backup_is_told_somewhere() -> None:
    command = cli.backup_command(lambda _: 0)
    named = README + OPERATIONS
    for param in command.params:
        if param.name in ("help", "version", "sources"):
            continue
        assert any(f"`{name}" in named or f" {name}" in named for name in param.opts), param.name


def test_every_file_that_the_documents_point_to_exists() -> None:
    for page in [PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_that_the_documents_name_exists() -> None:
    for page in PROJECT.glob("docs/**/*.md"):
        for name in re.findall(r"`((?:pybak|tasks|blocks|tests)/[\w/.]+)`", page.read_text()):
            assert (PROJECT / name).exists(), f"{page.name}: {name}"


def test_every_module_of_the_page_about_architecture_exists() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    names = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", text)}
    there = {path.name for top in ("pybak", "flows", "tasks", "blocks", "tests", "deployments")
             for path in (PROJECT / top).rglob("*.py")}  # fmt: skip
    assert names <= there


def test_the_snippets_of_the_page_about_operations_are_valid() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)
    anchors = "a: &one-at-a-time {limit: 1}\nb: &worked-by {name: backup}\nc:\n"
    parameters = yaml.safe_load(blocks[0])
    [check] = yaml.safe_load(anchors + blocks[1])["c"]
    BackupOptions.model_validate(parameters["parameters"]["options"])
    check["concurrency_limit"] |= {
        "collision_strategy": "CANCEL_NEW", "grace_period_seconds": 120,
    }  # fmt: skip
    Definition.model_validate(check).check_parameters()


def test_every_program_that_a_test_needs_is_installed_by_ci() -> None:
    script = (PROJECT / ".ci" / "install-components").read_text()
    installed = set(re.findall(r'^  "([^"=]+)=', script, re.MULTILINE))
    installed |= {name for names in installed for name in names.split("|")}
    for module in (PROJECT / "tests").glob("*/test_*.py"):
        for words in re.findall(r"needs_tool\(([^)]*)\)", module.read_text()):
            needed = set(re.findall(r'"([^"]+)"', words))
            assert needed <= installed, module.name


def test_the_table_of_levels_names_what_compresses() -> None:
    rows = {
        (form, int(level)): engine
        for form, level, engine in re.findall(
            r"^\| (tar\.\w+) \| (\d)[^|]*\| ([^|]+?) \| \d+ MB/s", FORMATS, re.MULTILINE
        )
    }
    assert {form for form, _ in rows} == set(TAR_FORMATS) - {"tar"}
    for (form, level), engine in rows.items():
        assert engine_name(form, level) == engine


@pytest.mark.parametrize("form", TAR_FORMATS)
@pytest.mark.parametrize("level", range(1, 10))
def test_the_pieces_are_as_long_as_the_page_about_formats_says(form: str, level: int) -> None:
    lengths = {
        "tar": MIB,
        "tar.gz": MIB if level < 4 else 4 * MIB,
        "tar.bz2": {1: 299_981, 2: 599_981}.get(level, 899_981),
        "tar.zst": 4 * MIB if level < 7 else 32 * MIB,
    }
    assert codec(form, level).piece_bytes == lengths[form]
    for told in ("299 981", "599 981", "899 981", "4 MiB", "32 MiB"):
        assert told in FORMATS


def test_readme_names_every_suffix() -> None:
    told = section(README, "Formats")
    for ending, form in suffixes.FORMATS.items():
        if ending not in {".tbz"}:  # an older name of .tbz2
            assert f"`{ending}`" in told or f"`{form}`" in told


@pytest.mark.parametrize("form", TAR_FORMATS)
def test_the_end_of_a_tar_is_found_as_the_page_about_formats_says(
    form: str, tmp_path: Path
) -> None:
    made = back_up(letters(tmp_path), to=tmp_path / "to", format=form)
    data, stream = made.path.read_bytes(), made.tar
    match form:
        case "tar":
            last_at = len(data) - 1536
            last = data[last_at:]
        case "tar.gz":
            assert data[:10] == bytes.fromhex("1f8b08000000000000ff")
            last_at = len(data) - 1551
            assert data[last_at : last_at + 5] == bytes.fromhex("000006fff9")
            last = data[last_at + 5 : -10]
        case "tar.bz2":
            last_at = data.rindex(bytes.fromhex("314159265359")) - 4
            assert len(data) - last_at < 4096
            last = bz2.decompress(data[last_at:])
        case _:
            frames, _, magic = struct.unpack("<IBI", data[-9:])
            assert magic == 0x8F92EAB1
            last_at = data.rindex(bytes.fromhex("28b52ffd"), 0, len(data) - 17 - 8 * frames)
            last = zstandard.decompress(data[last_at:])
    footer, zeros = last[:512], last[512:]
    assert zeros == bytes(1024)
    assert gzip.decompress(footer) == b""
    fields = footer[footer.index(b"PBFT") :][:44]
    magic, version, reserved, stored_at, stored_size, head, size, crc = struct.unpack(
        "<4sHHQQQQI", fields
    )
    assert (magic, version, reserved, crc) == (b"PBFT", 1, 0, zlib.crc32(fields[:40]))
    assert stored_at + stored_size == last_at
    assert stream[head:].startswith(b".pybak/manifest.jsonl.gz\0")
    assert size % 512 == 0
    assert gzip.decompress(stream[head + 512 :][:size]).startswith(b'{"pybak_manifest": 2')


def test_a_member_is_read_by_adding_up_pieces_as_the_page_about_formats_says(
    tmp_path: Path,
) -> None:
    made = back_up(letters(tmp_path), to=tmp_path / "to", format="tar.bz2")
    data = made.path.read_bytes()
    lines = [json.loads(line) for line in gzip.decompress(made.read(MANIFEST)).splitlines()]
    stored, plain, parts = 0, 0, b""
    for line in lines:
        if "pieces" in line:
            base, parts = plain, b""
            for stored_size, plain_size, crc in line["pieces"]:
                part = bz2.decompress(data[stored : stored + stored_size])
                assert (len(part), zlib.crc32(part)) == (plain_size, crc)
                parts += part
                stored, plain = stored + stored_size, plain + plain_size
            assert made.tar[base:plain] == parts
        elif line.get("path") == "letters/a.txt":
            content = parts[line["at"][1] :][: line["size"]]
            assert content == (tmp_path / "letters" / "a.txt").read_bytes()
            assert hashlib.sha256(content).hexdigest() == line["sha256"]
            return
    pytest.fail("the manifest does not list it")
