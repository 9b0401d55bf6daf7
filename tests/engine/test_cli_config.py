"""Configuration files: what they may say, and one line for what they may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pybak.cli import BackupRequest, backup_command, main, restore_command, verify_command
from pybak.options import BackupOptions, RestoreOptions

FULL = {
    "sources": ["-l", "with blank", "--to"],
    "job": "docs",
    "to": "/back ups",
    "level": 6,
    "exclude": ["*.tmp", "!keep.tmp"],
    "max_file_size": 500_000,
    "one_file_system": True,
    "workers": None,
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str, build: Any = backup_command) -> tuple[int, Any]:
    requests: list[Any] = []

    def keep(request: Any) -> int:
        requests.append(request)
        return 0

    return main(build(keep), words), requests[0] if requests else None


def complaint(
    capsys: pytest.CaptureFixture[str], content: str | bytes, name: str = "c.yaml"
) -> str:
    """Give the one line that a file with this content gets, without prefix and file name."""
    data = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(data)
    assert run("--config", name) == (2, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"pybak: {name}: ")
    return captured.err.removeprefix(f"pybak: {name}: ").rstrip("\n")


def as_yaml(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config)


@pytest.mark.parametrize("name", ["c.json", "c.yaml", "c.YML"])
def test_a_file_can_say_all_that_the_line_can(name: str) -> None:
    """Sources that begin with `-` or have blanks are paths (case 13)."""
    Path(name).write_text(json.dumps(FULL) if name == "c.json" else as_yaml(FULL))
    code, request = run("--config", name)
    assert code == 0
    assert isinstance(request, BackupRequest)
    assert request.sources == ("-l", "with blank", "--to")
    assert (request.job, request.to) == ("docs", "/back ups")
    assert request.options == BackupOptions(
        level=6, exclude=["*.tmp", "!keep.tmp"], max_file_size="500000", one_file_system=True
    )


def test_one_text_stands_for_a_list_of_one() -> None:
    Path("c.yaml").write_text("sources: /a b\nexclude: '*.tmp'\n")
    _, request = run("--config", "c.yaml")
    assert request.sources == ("/a b",)
    assert request.options.exclude == ["*.tmp"]


def test_a_tilde_in_a_file_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    Path("c.yaml").write_text('sources: [~/docs, "~x"]\nto: "~/b"\nexclude: ["~/*"]\njob: "~"\n')
    _, request = run("--config", "c.yaml")
    assert request.sources == ("/home/me/docs", "~x")
    assert request.to == "/home/me/b"
    assert request.options.exclude == ["~/*"]
    assert request.job == "~"


def test_an_empty_file_says_nothing() -> None:
    Path("c.yaml").write_text("# nothing yet\n")
    code, request = run("a", "--config", "c.yaml")
    assert code == 0
    assert request.options == BackupOptions()


def test_restore_and_verify_have_their_own_keys() -> None:
    Path("c.yaml").write_text("archive: latest\njob: docs\nto: /t\noverwrite: never\n")
    _, restore = run("--config", "c.yaml", build=restore_command)
    assert (restore.archive, restore.job, restore.to) == ("latest", "docs", "/t")
    assert restore.options == RestoreOptions(overwrite="never")
    Path("v.yaml").write_text("archives: [a.zip, b.zip]\n")
    _, verify = run("--config", "v.yaml", build=verify_command)
    assert verify.archives == ("a.zip", "b.zip")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("exclud: x", "unknown key exclud; did you mean exclude?"),
        ("exclude-from: x", "unknown key exclude-from; did you mean exclude_from?"),
        ("password: x", None),
        ("level: 12", "level: 12 is not between 1 and 9"),
        ("level: fast", "level: fast is no whole number"),
        ("job: 2026-01-01\nsources: a", "job: 2026-01-01 is not text; put it in quotes"),
        ("staging: 3", "staging: 3 is not text; put it in quotes"),
        ("dry_run: maybe", "dry_run: maybe is neither true nor false"),
        ("exclude: {a: b}", None),
        ("level: 3\nlevel: 4", "level is there twice; join the two"),
        ("- a\n- b", "must hold keys and values, like `level: 6`"),
        ("just text", "must hold keys and values, like `level: 6`"),
        ("exclude:\n  - *.tmp", None),
        ("exclude:\n  - !keep.log", None),
        ("level: [1", None),
        ("a: b: c", None),
        ("{" * 5000, None),
        (b"\xff\xfe", "is no UTF-8 text; save it as UTF-8"),
        ("job: !!python/object/apply:os.system ['true']", None),
        ("a\x00b", None),
    ],
)
def test_a_wrong_yaml_file_gets_one_clear_answer(
    capsys: pytest.CaptureFixture[str], content: str | bytes, line: str | None
) -> None:
    answer = complaint(capsys, content)
    if line is not None:
        assert answer == line


def test_an_unquoted_pattern_gets_the_hint_to_quote_it(capsys: pytest.CaptureFixture[str]) -> None:
    for pattern in ("*.tmp", "!keep.log"):
        answer = complaint(capsys, f"level: 3\nexclude:\n  - {pattern}\n")
        assert answer.startswith("line 3: ")
        assert answer.endswith("put patterns that begin with *, ! or & in quotes")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"level": 3,}', None),
        ('{"level": 3, "level": 4}', "level is there twice; join the two"),
        ("[]", 'must hold one object, like {"level": 6}'),
        ("", None),
        ("[" * 100_000, None),
        ('{"lvel": 3}', "unknown key lvel; did you mean level?"),
        ('{"sources": [1]}', "sources: 1 is not text; put it in quotes"),
        ('{"sources": ["a\\u0000b"]}', None),
    ],
)
def test_a_wrong_json_file_gets_one_clear_answer(
    capsys: pytest.CaptureFixture[str], content: str, line: str | None
) -> None:
    answer = complaint(capsys, content, "c.json")
    if line is not None:
        assert answer == line


def test_an_unknown_key_without_a_neighbour_gets_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = complaint(capsys, "zzz: 1")
    assert answer.startswith("unknown key zzz; known are ")
    assert "sources" in answer


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("none.yaml", "none.yaml: no such file or directory; check --config"),
        ("none.txt", "none.txt: a configuration file ends in .yaml, .yml or .json"),
        ("d.yaml", "d.yaml: is a directory; check --config"),
    ],
)
def test_a_file_that_can_not_be_read_is_told(
    capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    Path("d.yaml").mkdir()
    assert run("a", "--config", name) == (2, None)
    assert capsys.readouterr().err == f"pybak: {line}\n"
