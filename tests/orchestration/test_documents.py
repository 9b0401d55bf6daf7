"""What README and the documents say can be typed, can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from commands import PROJECT, Commands

from pybak import cli

MIGRATION = (PROJECT / "docs" / "migration.md").read_text()


def typed(text: str, language: str = "sh") -> list[str]:
    """Give the lines of the code blocks in a language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("line", typed(MIGRATION))
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
    assert Path(report["archive"]).is_file()
    assert report["files"]["excluded"] == words.count("*.tmp")


def test_the_configuration_on_the_migration_page_is_valid(
    run_command: Commands, tmp_path: Path
) -> None:
    (tmp_path / "backup.yaml").write_text("\n".join(typed(MIGRATION, "yaml")))
    done = run_command("backup", ".", "--config", "backup.yaml", "--dry-run", "--json")
    assert done.rc == 0, done


def test_every_option_that_the_documents_name_exists() -> None:
    commands = [
        cli.backup_command(lambda _: 0),
        cli.restore_command(lambda _: 0),
        cli.verify_command(lambda _: 0),
    ]
    known = {name for command in commands for p in command.params for name in p.opts}
    elsewhere = {
        "--every", "--full", "--pool", "--type", "--all", "--prefect-file", "--no-prompt",
        "--rm", "--user", "--build-arg",
    }  # fmt: skip
    text = (PROJECT / "README.md").read_text() + (PROJECT / "docs/operations.md").read_text()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named - elsewhere <= known


def test_every_file_that_the_documents_point_to_exists() -> None:
    for page in [PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_program_that_a_test_needs_is_installed_by_ci() -> None:
    script = (PROJECT / ".ci" / "install-components").read_text()
    installed = set(re.findall(r'^  "([^"=]+)=', script, re.MULTILINE))
    installed |= {name for names in installed for name in names.split("|")}
    for module in (PROJECT / "tests").glob("*/test_*.py"):
        for words in re.findall(r"needs_tool\(([^)]*)\)", module.read_text()):
            needed = set(re.findall(r'"([^"]+)"', words))
            assert needed <= installed, module.name
