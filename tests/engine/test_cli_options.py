"""Options from the models: every layer, its strength, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pybak.cli import (
    BackupRequest,
    RestoreRequest,
    VerifyRequest,
    View,
    backup_command,
    main,
    restore_command,
    verify_command,
)
from pybak.options import BackupOptions, RestoreOptions, VerifyOptions

COMMANDS: dict[str, tuple[Callable[[Any], Any], type[BaseModel]]] = {
    "backup": (backup_command, BackupOptions),
    "restore": (restore_command, RestoreOptions),
    "verify": (verify_command, VerifyOptions),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PYBAK_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(command: str, *words: str) -> tuple[int, Any]:
    """Give the exit code and the request, None if it never came to one."""
    requests: list[Any] = []

    def keep(request: Any) -> int:
        requests.append(request)
        return 0

    code = main(COMMANDS[command][0](keep), words)
    return code, requests[0] if requests else None


def accepted(command: str, *words: str) -> Any:
    code, request = run(command, *words)
    assert code == 0
    assert request is not None
    return request


def refused(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    """Give the one line on stderr, without its prefix."""
    code, request = run(command, *words)
    captured = capsys.readouterr()
    assert code == 2
    assert request is None
    assert captured.out == ""
    assert captured.err.startswith("pybak: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err[len("pybak: ") : -1]


# ---- the command line


def test_a_bare_backup_has_the_defaults_of_the_model() -> None:
    request: BackupRequest = accepted("backup", "docs")
    assert request.sources == ("docs",)
    assert request.options == BackupOptions()
    assert (request.to, request.output, request.job) == (None, None, None)
    assert request.view == View()


def test_every_option_of_a_backup_is_taken() -> None:
    request: BackupRequest = accepted(
        "backup", "a", "--to", "/b", "--job", "docs", "-f", "zip", "-l", "6", "-w", "3", "-c", "9",
        "--exclude", "*.tmp", "--exclude", "!keep.tmp", "--include", "*.py", "--exclude-from", "x",
        "--files-from", "y", "--max-file-size", "1GB", "--one-file-system", "--ignore-markers",
        "--memory-limit", "700MB", "--staging", "/s", "--cluster", "tcp://h:1", "--dry-run",
        "--password-block", "key", "--hide-names", "--split", "4.7GB", "--checksum", "sha256",
        "--checksum", "md5", "--json", "--quiet", "--debug", "b",
    )  # fmt: skip
    assert request.sources == ("a", "b")
    assert request.to == "/b"
    assert request.job == "docs"
    assert request.options == BackupOptions(
        level=6, workers=3, chunk_size=9, exclude=["*.tmp", "!keep.tmp"], include=["*.py"],
        exclude_from=["x"], files_from=["y"], max_file_size="1GB", one_file_system=True,
        ignore_markers=True, memory_limit="700MB", staging="/s", cluster="tcp://h:1", dry_run=True,
        password_block="key", hide_names=True, split="4.7GB", checksum=["sha256", "md5"],
    )  # fmt: skip
    assert request.view == View(json=True, quiet=True, debug=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_has_a_long_option_with_a_help_text(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build, model = COMMANDS[command]
    assert main(build(lambda request: 0), ["--help"]) == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for name, field in model.model_fields.items():
        assert f"--{name.replace('_', '-')}" in words
        assert field.description
        assert field.description in words
    for name in ("--config", "--json", "--quiet", "--debug", "--version", "--help"):
        assert name in words
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from pybak import __version__

    assert run("backup", "--version") == (0, None)
    assert capsys.readouterr().out == f"pybak {__version__}\n"


def test_a_restore_and_a_verify_are_taken() -> None:
    restore: RestoreRequest = accepted(
        "restore", "latest", "--to", "d", "--job", "docs", "--overwrite", "never", "--include", "*"
    )
    assert (restore.archive, restore.to, restore.job) == ("latest", "d", "docs")
    assert restore.options == RestoreOptions(overwrite="never", include=["*"])
    verify: VerifyRequest = accepted("verify", "a.zip", "b.zip", "-w", "2", "--sample", "5")
    assert verify.archives == ("a.zip", "b.zip")
    assert verify.options == VerifyOptions(workers=2, sample="5%")


def test_a_job_without_a_name_is_looked_up_by_its_sources() -> None:
    """That is what a backup without --job is called in the history."""
    job = "/home/me/docs, /srv/www"
    assert accepted("restore", "latest", "--job", job, "--to", "t").job == job
    assert accepted("verify", "latest", "--job", job).job == job


def test_the_suffix_of_the_output_gives_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_FORMAT", "tar")
    request: BackupRequest = accepted("backup", "a", "-o", "x.tbz2")
    assert (request.output, request.options.format) == ("x.tbz2", "tar.bz2")
    assert accepted("backup", "a", "-o", "x").options.format == "tar"
    assert accepted("backup", "a").options.format == "tar"


def test_one_file_can_go_to_stdout() -> None:
    request: RestoreRequest = accepted("restore", "a.zip", "--stdout", "--include", "/docs/a.txt")
    assert (request.to, request.options.include) == (None, ["/docs/a.txt"])


def test_a_source_after_two_dashes_may_begin_with_a_dash() -> None:
    """(case 13)"""
    assert accepted("backup", "--", "-l").sources == ("-l",)


def test_a_source_that_is_no_utf8_is_kept_byte_for_byte() -> None:
    """(case 3)"""
    assert accepted("backup", "caf\udce9").sources == ("caf\udce9",)


def test_a_flag_can_be_taken_back_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_DRY_RUN", "yes")
    assert accepted("backup", "a").options.dry_run is True
    assert accepted("backup", "a", "--no-dry-run").options.dry_run is False


# ---- what is refused, in one line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "--level", "12"], "--level: 12 is not between 1 and 9"),
        (["a", "-l", "0"], "--level: 0 is not between 1 and 9"),
        (["a", "-l", "fast"], "--level: fast is no whole number"),
        (["a", "-l", "1.5"], "--level: 1.5 is no whole number"),
        (["a", "-c", "0"], "--chunk-size: 0 is not at least 1"),
        (["a", "-f", "rar"], "--format: rar is not one of zip, tar, tar.gz, tar.bz2, tar.zst"),
        (["a", "--checksum", "md5", "--checksum", "sha1"],
         "--checksum: sha1 is not one of sha256, md5"),
        (["a", "--split", "60kB"],
         "--split: 60kB is too small for a volume; write at least 64KiB"),
        (["a", "--split", "10"], "--split: 10 is too small for a volume; write at least 64KiB"),
        (["a", "--split", "a lot"],
         "--split: 'a lot' is no size; write it like 500kB, 100MB, 4.7GB or 64MiB"),
        (["a", "--hide-names"],
         "--hide-names: names are hidden by encryption; give a password with -p"),
        (["a", "--cluster", "thread"],
         ("--cluster: thread is not one of auto, threads, helpers, processes, ADDRESS; "
          "did you mean threads?")),
        (["a", "--max-file-size", "12q"],
         "--max-file-size: '12q' is no size; write it like 500kB, 100MB, 4.7GB or 64MiB"),
        (["a", "--levle", "3"], "no option --levle; did you mean --level?"),
        (["a", "-z"], "no option -z; see python flows/backup.py --help"),
        (["a", "--level"], "--level: needs a value; write --level 1..9"),
        (["a", "--json=yes"], "--json: takes no value; leave out what stands after the ="),
        ([], "no SOURCE; name a folder or a file to back up"),
        ([""], "SOURCE: '' is no name; leave it out or name something"),
        (["a", "-o", "x.zip", "--to", "b"],
         "--output and --to exclude each other; --output names the file, --to the folder"),
        (["a", "-o", "x.tar.gz", "-f", "zip"],
         "--output: x.tar.gz is a name for tar.gz, and --format is zip; name it x.zip"),
        (["a", "-f", "zip", "-o", "d/X.TGZ"],
         "--output: d/X.TGZ is a name for tar.gz, and --format is zip; name it d/X.zip"),
        (["a", "-o", "d/"],
         "--output: d/ is a folder; name a file, or give the folder as --to"),
        (["a", "--job", "a/b"],
         ("--job: a/b is no job name; archives are named after it, so leave out slashes and "
          "control characters")),
        (["a", "-l", "\x1b[31m\n"], "--level: '\\x1b[31m\\n' is no whole number"),
    ],
)  # fmt: skip
def test_a_wrong_backup_line_gets_one_clear_answer(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert refused(capsys, "backup", *words) == line


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("restore", [], "no ARCHIVE; name an archive, a run id or latest"),
        ("restore", ["a"], "--to is missing; name the folder to restore into"),
        ("restore", ["a", "b", "--to", "c"],
         "2 archives named, b is one too many; restore one at a time"),
        ("restore", ["a", "--to", "c", "--overwrite", "newer"],
         ("--overwrite: newer is not one of never, if-newer, if-changed, always; "
          "did you mean if-newer?")),
        ("restore", ["a", "--stdout", "--to", "b", "--include", "c"],
         ("--stdout and --to exclude each other; with --stdout one file's content is written "
          "there, and nothing else")),
        ("restore", ["a", "--stdout", "--dry-run", "--include", "c"],
         ("--stdout and --dry-run exclude each other; with --stdout one file's content is "
          "written there, and nothing else")),
        ("restore", ["a", "--stdout"], "--stdout: which file? name it with --include"),
        ("verify", [], "no ARCHIVE; name an archive, a run id or latest"),
        ("verify", ["a", "--sample", "0"], None),
        ("verify", ["a", "--sample", "101%"], None),
        ("verify", ["a", "--sample", "half"],
         "--sample: 'half' is no percentage; write it like 5%"),
        ("verify", ["a", "--exclude", "x"],
         "no option --exclude; see python flows/verify.py --help"),
    ],
)  # fmt: skip
def test_a_wrong_restore_or_verify_line_gets_one_clear_answer(
    capsys: pytest.CaptureFixture[str], command: str, words: list[str], line: str | None
) -> None:
    told = refused(capsys, command, *words)
    assert line is None or told == line


@pytest.mark.parametrize("output", ["x.zip", "X.ZIP", "x", "x.backup", "x.2026.11"])
def test_an_output_name_that_fits_or_says_nothing_is_taken(output: str) -> None:
    assert accepted("backup", "a", "-o", output).output == output


def test_an_output_that_is_a_folder_is_refused_with_the_other_option(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "give the folder as --to" in refused(capsys, "backup", "a", "-o", str(tmp_path))


# ---- the environment


def test_the_environment_gives_what_the_line_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_LEVEL", "7")
    monkeypatch.setenv("PYBAK_EXCLUDE", "*.tmp:*.bak")
    monkeypatch.setenv("PYBAK_JOB", "docs")
    monkeypatch.setenv("PYBAK_TO", "/backups")
    monkeypatch.setenv("PYBAK_SOURCES", "/a:/b")
    request: BackupRequest = accepted("backup")
    assert request.options == BackupOptions(level=7, exclude=["*.tmp", "*.bak"])
    assert (request.job, request.to, request.sources) == ("docs", "/backups", ("/a", "/b"))
    assert accepted("backup", "c", "-l", "1", "--exclude", "x").options == BackupOptions(
        level=1, exclude=["x"]
    )


def test_a_list_with_line_ends_may_hold_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_EXCLUDE", "a:b\nc\n")
    assert accepted("backup", "a").options.exclude == ["a:b", "c"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("s3://archive/laptop", ["s3://archive/laptop"]),
        ("block:offsite", ["block:offsite"]),
        ("s3:/archive", ["s3:/archive"]),  # told as wrong by who opens it
        ("SFTP://host/x", ["SFTP://host/x"]),
        ("file:///mnt/nas", ["file:///mnt/nas"]),
        ("s3://archive/my:laptop\n", ["s3://archive/my:laptop"]),
        (
            "/mnt/nas\ns3://archive/x\nblock:offsite",
            ["/mnt/nas", "s3://archive/x", "block:offsite"],
        ),
        ("/mnt/nas:/mnt/s3:stick", ["/mnt/nas", "/mnt/s3", "stick"]),
    ],
)
def test_places_in_the_environment_may_be_addresses(
    monkeypatch: pytest.MonkeyPatch, text: str, places: list[str]
) -> None:
    monkeypatch.setenv("PYBAK_ALSO_TO", text)
    assert accepted("backup", "a").options.also_to == places
    monkeypatch.delenv("PYBAK_ALSO_TO")
    monkeypatch.setenv("PYBAK_SOURCES", text)
    assert accepted("backup").sources == tuple(places)


@pytest.mark.parametrize(
    "text",
    [
        "s3://archive/laptop:/mnt/nas", "/mnt/nas:s3://archive/laptop", "block:offsite:stick",
        "stick:block:offsite", "s3://archive/my:laptop", "gs://a:gs://b", "s3://a:9000@host/x",
    ],
)  # fmt: skip
def test_an_address_among_others_is_never_cut_at_a_guess(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PYBAK_ALSO_TO", text)
    told = refused(capsys, "backup", "a")
    assert told.startswith("PYBAK_ALSO_TO: ")
    assert "line of its own" in told
    assert text not in told


def test_patterns_that_look_like_addresses_are_cut_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_EXCLUDE", "block:s3:*.tmp")
    assert accepted("backup", "a").options.exclude == ["block", "s3", "*.tmp"]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_help_says_which_options_are_for_the_line_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert run(command, "--help")[0] == 0
    told = capsys.readouterr().out
    line_alone = told.partition("This command:\n")[2].partition("\n\n")[0]
    names = re.findall(r"^ .*?--([a-z]+)", line_alone, re.MULTILINE)
    assert names == ["config", "json", "quiet", "debug", "version", "help"]
    assert 'Most options, but none under "This command", can also' in " ".join(told.split())
    for name in names:
        monkeypatch.setenv(f"PYBAK_{name.upper()}", "true")
    words = ["a.zip", "--to", "b"] if command == "restore" else ["a.zip"]
    assert accepted(command, *words).view == View()


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_LEVEL", "")
    assert accepted("backup", "a").options.level == BackupOptions().level


def test_a_wrong_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_LEVEL", "11")
    assert refused(capsys, "backup", "a") == "PYBAK_LEVEL: 11 is not between 1 and 9"


def test_variables_that_are_no_options_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBAK_HOME", "/h")
    monkeypatch.setenv("PYBAK_CATALOG_URL", "sqlite://")
    monkeypatch.setenv("PYBAK_MAX_WORKERS", "many")
    monkeypatch.setenv("PYBAK_PASSWORD", "secret")
    request = accepted("backup", "a")
    assert request.options == BackupOptions()
    assert "secret" not in repr(request)


def test_where_a_restore_writes_never_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYBAK_TO", "/backups")
    assert "--to is missing" in refused(capsys, "restore", "a.zip")


# ---- the strength of layers


def test_the_line_beats_the_environment_beats_the_file_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"level": 3, "workers": 3, "chunk_size": 3}))
    monkeypatch.setenv("PYBAK_LEVEL", "4")
    monkeypatch.setenv("PYBAK_WORKERS", "4")
    options = accepted("backup", "a", "--config", "c.json", "-l", "5").options
    assert (options.level, options.workers, options.chunk_size) == (5, 4, 3)
    assert options.format == "zip"


@pytest.mark.parametrize("config", [{"to": "/b"}, {"output": "x.zip"}])
def test_the_stronger_of_output_and_destination_wins(
    tmp_path: Path, config: dict[str, str]
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(config))
    request = accepted("backup", "a", "--config", "c.json", "-o", "y.zip")
    assert (request.output, request.to) == ("y.zip", None)
    request = accepted("backup", "a", "--config", "c.json", "--to", "/c")
    assert (request.output, request.to) == (None, "/c")


# ---- cost


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, pybak.cli, pybak.progress_line, pybak.display\n"
        "print([m for m in ('rich', 'yaml', 'prefect', 'distributed', 'pydantic') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
