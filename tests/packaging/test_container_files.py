"""Dockerfile, compose.yaml, .env.example and the Kubernetes manifests fit each other."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from commands import PROJECT
from cryptography.fernet import Fernet

from deployments import definitions, health
from pybak.api import settings as api_settings
from pybak.dashboard import settings as dashboard_settings

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
    assert set(services) == {"database", "server", "deploy", "worker", "on-request", "api"}
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


def mounts(service: dict[str, Any]) -> dict[str, bool]:
    """Give the folders of a service by their places, and whether it can write there."""
    found = {}
    for one in service["volumes"]:
        path = one.replace(":?", "").replace(":-", "").split(":")[1:]
        found[path[0]] = path[1:] != ["ro"]
    return found


def test_the_source_can_only_be_read_and_archives_only_by_what_serves_them(
    services: dict[str, Any],
) -> None:
    runs = {"/data": True, "/sources": False, "/backups": True}
    assert mounts(services["worker"]) == runs
    assert mounts(services["on-request"]) == runs
    assert mounts(services["api"]) == {"/data": True, "/sources": False, "/backups": False}
    assert mounts(services["deploy"]) == {"/sources": False}
    # Keys of tokens and sessions are in the volume of the API alone.
    volumes = [
        one.split(":")[0]
        for service in services.values()
        for one in service.get("volumes", [])
        if one.endswith(":/data")
    ]
    assert len(volumes) == len(set(volumes)) == 4


@pytest.fixture(scope="module")
def api_environments(
    services: dict[str, Any], manifests: dict[str, list[Any]]
) -> list[dict[str, str]]:
    """Give what the service is told, by compose without anything set, and by Kubernetes."""

    def resolved(text: str) -> str:
        return re.sub(r"\$\{\w+:([-?+])([^{}]*)\}", lambda m: m[2] if m[1] == "-" else "", text)

    given = {name: resolved(value) for name, value in services["api"]["environment"].items()}
    configs = {one["metadata"]["name"]: one for one in manifests["configuration.yaml"]}
    return [given, configs["pybak-api"]["data"]]


def test_the_api_starts_with_what_it_is_told_and_reaches_only_what_is_mounted(
    api_environments: list[dict[str, str]],
) -> None:
    for given in api_environments:
        told = api_settings.from_environment(given)
        told.check_startable()
        assert told.token_endpoint
        assert told.host == "0.0.0.0"
        assert told.source_roots == ("/sources",)
        assert told.destination_roots == ("/backups",)
        assert told.restore_roots == ("/backups/restored",)
        assert dashboard_settings.from_environment(given).has_login(told)


def test_the_api_takes_a_provider_instead_of_its_own_clients(
    api_environments: list[dict[str, str]],
) -> None:
    provider = {
        "PYBAK_API_TOKEN_ENDPOINT": "false",
        "PYBAK_API_ISSUER": "https://login.example/realms/home",
        "PYBAK_DASHBOARD_CLIENT_ID": "pybak-dashboard",
    }
    for given in api_environments:
        told = api_settings.from_environment(given | provider)
        told.check_startable()
        assert not told.token_endpoint
        assert dashboard_settings.from_environment(given | provider).has_login(told)
    assert set(provider) <= set(variables(COMPOSE.read_text()))


def test_the_inbox_is_where_everyone_expects_it_and_only_runs_may_change_it() -> None:
    added = yaml.safe_load(INBOX.read_text())["services"]
    assert {name: mounts(one)["/inbox"] for name, one in added.items()} == {
        "deploy": False, "worker": True, "on-request": True, "api": False,
    }  # fmt: skip
    told = api_settings.from_environment(added["api"]["environment"])
    assert told.inbox_roots == ("/inbox",)


def test_what_requests_may_name_is_the_block_that_is_made_of_the_password(
    services: dict[str, Any],
) -> None:
    block = services["deploy"]["environment"]["PYBAK_DEPLOY_PASSWORD_BLOCK"]
    api = services["api"]["environment"]
    assert api["PYBAK_API_PASSWORD_BLOCK"] == api["PYBAK_API_PASSWORD_BLOCKS"] == block


def test_a_service_waits_until_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    assert services["server"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {
        "server": {"condition": "service_healthy"},
        "deploy": {"condition": "service_completed_successfully"},
    }
    assert services["on-request"]["depends_on"] == services["worker"]["depends_on"]
    assert services["api"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    for name in set(services) - {"deploy"}:
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    for name in set(services) - {"deploy", "database"}:
        role = services[name]["healthcheck"]["test"][-1]
        command = ["/sbin/docker-init", "--", *services[name]["command"]]
        assert health.role_of(command) == role == name


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
    config = manifests["configuration.yaml"][0]
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
    assert set(found) == {
        "prefect-server", "pybak-worker", "pybak-backup", "dask-scheduler", "dask-worker",
        "pybak-api", "pybak-on-request",
    }  # fmt: skip
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
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim", {})
            # Else Kubernetes gives all that is in it the pod's group, and more rights.
            assert claim.get("claimName") != "pybak-sources" or claim["readOnly"] is True, name


def test_the_server_in_kubernetes_is_the_one_that_the_others_ask(
    manifests: dict[str, list[Any]],
) -> None:
    config = manifests["configuration.yaml"][0]["data"]
    [service] = [one for one in manifests["server.yaml"] if one["kind"] == "Service"]
    place = urlsplit(config["PREFECT_API_URL"])
    assert place.hostname == (
        f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    )
    assert [port["port"] for port in service["spec"]["ports"]] == [place.port]
    [deployment] = [one for one in manifests["server.yaml"] if one["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    [container] = template["spec"]["containers"]
    [port] = container["ports"]
    assert (port["containerPort"], port["name"]) == (place.port, "http")
    assert container["command"][:3] == ["python3", "deployments/start.py", "server"]
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests["network.yaml"]}
    [rule] = policies["server"]["ingress"]
    assert policies["server"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert rule["ports"] == [{"protocol": "TCP", "port": place.port}]
    asking = {"worker", "on-request", "api"}
    assert asking <= set(rule["from"][0]["podSelector"]["matchExpressions"][0]["values"])
    # What the others send as a password, and the keys that only it has.
    secrets = {
        one["metadata"]["name"]: one["stringData"] for one in manifests["secret.example.yaml"]
    }
    [auth] = container["env"]
    assert auth["name"] == "PREFECT_SERVER_API_AUTH_STRING"
    assert auth["valueFrom"]["secretKeyRef"] == {"name": "pybak", "key": "PREFECT_API_AUTH_STRING"}
    assert "PREFECT_API_AUTH_STRING" in secrets["pybak"]
    assert container["envFrom"] == [{"secretRef": {"name": "pybak-server"}}]
    assert set(secrets["pybak-server"]) == {"PREFECT_SERVER_ENCRYPTION_KEY"}


def test_the_api_in_kubernetes_needs_a_catalog_that_others_write_and_changes_no_archive(
    manifests: dict[str, list[Any]],
) -> None:
    found = pods(manifests)
    for name in ("pybak-api", "pybak-on-request"):
        [container] = found[name]["containers"]
        [catalog] = [one for one in container["env"] if one["name"] == "PYBAK_CATALOG_URL"]
        assert not catalog["valueFrom"]["secretKeyRef"].get("optional")
        [term] = found[name]["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
    [api] = found["pybak-api"]["containers"]
    mounted = {one["mountPath"]: one.get("readOnly", False) for one in api["volumeMounts"]}
    assert mounted == {"/data": False, "/tmp": False, "/sources": True, "/backups": True}
    [service] = [one for one in manifests["api.yaml"] if one["kind"] == "Service"]
    [port] = service["spec"]["ports"]
    assert port["targetPort"] == api["ports"][0]["name"]
    [policy] = [one for one in manifests["network.yaml"] if one["metadata"]["name"] == "api"]
    [rule] = policy["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": api["ports"][0]["containerPort"]}]


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
    values = [
        one for secret in manifests["secret.example.yaml"] for one in secret["stringData"].values()
    ]
    assert values == ["NAME:PASSWORD", "KEY", "SECRET"]
    for name in re.findall(r"^([A-Z_]+)=(.+)$", EXAMPLE.read_text(), flags=re.M):
        assert name[0] in ("PYBAK_UID", "PYBAK_GID")
