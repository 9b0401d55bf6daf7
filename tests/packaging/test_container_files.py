"""Dockerfile, compose.yaml, .env.example and the Kubernetes manifests fit each other."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import PROJECT
from cryptography.fernet import Fernet

from deployments import definitions

COMPOSE = PROJECT / "compose.yaml"
INBOX = PROJECT / "deployments" / "compose" / "inbox.yaml"
EXAMPLE = PROJECT / ".env.example"
NEW_ENV = PROJECT / "deployments" / "compose" / "new-env"
MANIFESTS = PROJECT / "deployments" / "kubernetes"
USES = re.compile(r"\$\{(\w+)(:?[-?+])?")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.fixture(scope="module")
def manifests() -> dict[str, list[Any]]:
    return {
        file.name: list(yaml.safe_load_all(file.read_text())) for file in MANIFESTS.glob("*.yaml")
    }


def pods(manifests: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for document in (one for documents in manifests.values() for one in documents):
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[document["metadata"]["name"]] = spec["template"]["spec"]
    return found


def variables(text: str) -> dict[str, set[str]]:
    """Give the variables that a compose file uses, and how: `:?` stops without one."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for name, how in USES.findall(line):
                found.setdefault(name, set()).add(how)
    return found


def test_every_service_is_locked_up(services: dict[str, Any]) -> None:
    assert set(services) == {"database", "server", "deploy", "worker"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["user"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_source_can_only_be_read(services: dict[str, Any]) -> None:
    for name in ("deploy", "worker"):
        [source] = [one for one in services[name]["volumes"] if ":/sources" in one]
        assert source.endswith(":ro")


def test_a_service_waits_until_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    assert services["server"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {
        "server": {"condition": "service_healthy"},
        "deploy": {"condition": "service_completed_successfully"},
    }
    for name in ("database", "server", "worker"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_every_variable_is_explained_and_used() -> None:
    used = variables(COMPOSE.read_text()) | variables(INBOX.read_text())
    explained = set(re.findall(r"^#?([A-Z][A-Z_]+)=", EXAMPLE.read_text(), flags=re.M))
    assert set(used) == explained - {"COMPOSE_FILE"}


def test_what_has_no_default_stops_with_a_message_wherever_it_is_used() -> None:
    used = variables(COMPOSE.read_text())
    needed = {name for name, ways in used.items() if ways == {":?"}}
    assert needed == {
        "PYBAK_SOURCE", "PYBAK_DESTINATION", "POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD",
        "PYBAK_DB_PASSWORD", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_ENCRYPTION_KEY",
    }  # fmt: skip
    assert all(ways <= {":?", ":-", ":+"} for ways in used.values()), used
    required = re.findall(r"^([A-Z_]+)=", EXAMPLE.read_text(), flags=re.M)
    assert needed <= set(required)


def test_new_env_makes_all_that_is_needed(tmp_path: Path) -> None:
    source = tmp_path / "what's to be kept"
    (tmp_path / "backups").mkdir()
    source.mkdir()
    made = [
        subprocess.run([NEW_ENV, source, tmp_path / "backups"], capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [one.returncode for one in made] == [0, 0], made[0].stderr
    # A shell reads it as compose does, but for the quote within a quoted value.
    text = made[0].stdout.replace("\\'", "'\\''")
    values = dict(word.split("=", 1) for word in shlex.split(text))
    needed = {name for name, ways in variables(COMPOSE.read_text()).items() if ":?" in ways}
    assert set(values) == needed | {"PYBAK_UID", "PYBAK_GID"}
    assert values["PYBAK_SOURCE"] == str(source)
    assert values["PYBAK_UID"] == str((tmp_path / "backups").stat().st_uid)
    Fernet(values["PREFECT_SERVER_ENCRYPTION_KEY"])
    secrets = [name for name in values if "PASSWORD" in name or "KEY" in name or "AUTH" in name]
    assert len(secrets) == 5
    assert all(f"{name}={values[name]}" not in made[1].stdout for name in secrets)
    for name in ("POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD", "PYBAK_DB_PASSWORD"):
        assert re.fullmatch("[0-9a-f]{48}", values[name])  # part of an address


def test_new_env_wants_folders_that_are_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [NEW_ENV, tmp_path, tmp_path / "none"], capture_output=True, text=True
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such folder" in done.stderr


def test_the_deployments_variables_are_ones_that_they_know(
    services: dict[str, Any], manifests: dict[str, list[Any]]
) -> None:
    known = definitions.variables({})
    [config] = [one for one in manifests["configuration.yaml"] if one["kind"] == "ConfigMap"]
    for given in (services["deploy"]["environment"], config["data"]):
        named = {name for name in given if name.startswith("PYBAK_DEPLOY_")}
        assert named
        assert named <= set(known)


def test_the_image_holds_every_package_and_no_pip() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} {package}\n" in text
        assert f"\n!{package}\n" in (PROJECT / ".dockerignore").read_text()
    assert "\nUSER 10001:10001\n" in text
    assert "pip uninstall" in text


def test_every_pod_is_locked_up(manifests: dict[str, list[Any]]) -> None:
    found = pods(manifests)
    assert set(found) == {"pybak-worker", "pybak-backup", "dask-scheduler", "dask-worker"}
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        # A service called prefect-server would become a setting of Prefect otherwise.
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
            assert {"/data", "/tmp"} <= set(mounts), name
            assert mounts.get("/sources", {}).get("readOnly", True) is True, name
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert {one["name"] for one in mounts.values()} <= volumes, name


def test_the_cron_job_never_runs_twice_at_once(manifests: dict[str, list[Any]]) -> None:
    [job] = manifests["cronjob.yaml"]
    assert job["spec"]["schedule"] == "*/2 * * * *"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_network_is_closed_but_for_what_is_named(manifests: dict[str, list[Any]]) -> None:
    first, *others = manifests["network.yaml"]
    assert first["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in others:
        for rule in policy["spec"].get("egress", []) + policy["spec"].get("ingress", []):
            assert rule["ports"], policy["metadata"]["name"]
            assert rule.get("to") or rule.get("from"), policy["metadata"]["name"]


def test_kustomization_names_every_manifest_but_the_secret() -> None:
    text = (MANIFESTS / "kustomization.yaml").read_text()
    named = set(re.findall(r"- ([\w.-]+\.yaml)", text))
    there = {file.name for file in MANIFESTS.glob("*.yaml")}
    assert named == there - {"kustomization.yaml", "secret.example.yaml"}


def test_no_file_for_containers_holds_a_secret(manifests: dict[str, list[Any]]) -> None:
    [secret] = manifests["secret.example.yaml"]
    assert set(secret["stringData"].values()) == {"NAME:PASSWORD"}
    for name in re.findall(r"^([A-Z_]+)=(.+)$", EXAMPLE.read_text(), flags=re.M):
        assert name[0] in ("PYBAK_UID", "PYBAK_GID")
