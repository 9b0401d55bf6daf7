"""What is no Python, judged by programs that know its format."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from commands import PROJECT
from components import find_component

pytestmark = pytest.mark.needs_component("linters")

MANIFESTS = PROJECT / "deployments" / "kubernetes"
COMPOSE = [PROJECT / "compose.yaml", PROJECT / "deployments" / "compose" / "inbox.yaml"]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def lint(program: str, *words: str | Path) -> tuple[int, str]:
    """Run a linter in the project's folder; give its exit code and all that it says."""
    programs = find_component("linters")
    assert programs is not None
    done = subprocess.run(
        [programs / program, *words], cwd=PROJECT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def manifest_faults(file: Path) -> list[str]:
    """Check a manifest against Kubernetes' schemas; of a kind it does not know it only warns."""
    code, said = lint("kubernetes-validate", "--strict", file)
    bad = [line for line in said.splitlines() if not line.startswith("INFO")]
    return bad or [said] * (code != 0)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    assert lint("hadolint", "Dockerfile") == (0, "")


def test_every_manifest_is_what_kubernetes_takes() -> None:
    files = [file for file in sorted(MANIFESTS.glob("*.yaml")) if file.name != "kustomization.yaml"]
    assert len(files) >= 8
    assert {file.name: manifest_faults(file) for file in files} == {file.name: [] for file in files}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("concurrencyPolicy: Forbid", "concurencyPolicy: Forbid"),
        ("apiVersion: batch/v1", "apiVersion: batch/v1beta1"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("backoffLimit: 0", 'backoffLimit: "0"'),
    ],
)
def test_a_mistake_in_a_manifest_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = (MANIFESTS / "cronjob.yaml").read_text()
    assert right in text
    spoilt = tmp_path / "cronjob.yaml"
    spoilt.write_text(text.replace(right, wrong))
    assert manifest_faults(spoilt) != []


def test_checkov_finds_nothing_that_has_no_reason() -> None:
    code, said = lint(
        "checkov", "-d", ".", "--config-file", ".ci/checkov.yaml", "--skip-download", "--compact",
        "--quiet", "--skip-path", "venv", "--skip-path", ".venv",
    )  # fmt: skip
    assert code == 0, said


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.compose-spec", COMPOSE),
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.dependabot", [PROJECT / ".github" / "dependabot.yml"]),
    ],
)
def test_compose_files_and_workflows_fit_their_schemas(schema: str, files: list[Path]) -> None:
    code, said = lint("check-jsonschema", "--builtin-schema", schema, *files)
    assert code == 0, said


def test_zizmor_finds_no_weakness_in_the_workflows() -> None:
    code, said = lint("zizmor", "--offline", "--no-progress", ".github")
    assert code == 0, said


def test_actions_are_pinned_by_commit_with_their_version() -> None:
    for file in WORKFLOWS:
        for line in file.read_text().splitlines():
            _, uses, action = line.partition("uses: ")
            if uses and not action.startswith("./"):
                name, _, rest = action.partition("@")
                commit, _, version = rest.partition(" # v")
                assert len(commit) == 40, f"{file.name}: {name}"
                assert version, f"{file.name}: {name}"


def test_yaml_is_written_tidily() -> None:
    tracked = [
        *PROJECT.glob("*.yaml"), *MANIFESTS.glob("*.yaml"), *WORKFLOWS, *COMPOSE,
        *(PROJECT / ".ci").glob("*.yaml"), PROJECT / ".github" / "dependabot.yml",
    ]  # fmt: skip
    code, said = lint("yamllint", "--strict", "-c", ".ci/yamllint.yaml", *tracked)
    assert code == 0, said


def test_shellcheck_has_nothing_to_say_about_the_scripts() -> None:
    candidates = [*(PROJECT / ".ci").iterdir(), *(PROJECT / "deployments").rglob("*")]
    scripts = [
        file
        for file in candidates
        if file.is_file()
        and file.read_bytes()[:40].startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
    ]
    assert {"run", "image", "try-image", "new-env"} <= {file.name for file in scripts}
    code, said = lint("shellcheck", *scripts)
    assert code == 0, said


def test_the_scripts_of_workflows_are_checked_too(tmp_path: Path) -> None:
    """Expressions of GitHub's would be pasted into them: there must be none, and no mistake."""
    for file in WORKFLOWS:
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            for step in job.get("steps", []):
                if "run" not in step:
                    continue
                assert "${{" not in step["run"], f"{file.name}: {step['run']}"
                script = tmp_path / "step"
                script.write_text("#!/usr/bin/env bash\n" + step["run"])
                code, said = lint("shellcheck", script)
                assert code == 0, f"{file.name}: {said}"
