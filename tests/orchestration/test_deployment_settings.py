"""Settings, secrets and units of a server that stays: each name is one that is understood."""

from __future__ import annotations

import inspect
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import PROJECT
from cryptography.fernet import Fernet
from prefect.server.utilities import encryption
from prefect.settings import Settings
from prefect.settings.legacy import _get_valid_setting_names

from deployments.new_secrets import lines, new_secrets
from deployments.start import settings
from pybak.hooks import environment

SYSTEMD = PROJECT / "deployments" / "systemd"
OTHERS = {"DO_NOT_TRACK", "DASK_LOGGING__DISTRIBUTED"}
# Read by the server where it encrypts, and no setting like the others.
KEY = "PREFECT_SERVER_ENCRYPTION_KEY"


def strangers(names: set[str]) -> set[str]:
    """Give the names that Prefect would ignore."""
    return names - _get_valid_setting_names(Settings) - OTHERS


def test_every_setting_is_one_that_prefect_knows() -> None:
    assert strangers(set(settings())) == set()
    assert strangers({"PREFECT_WORKER_PREFETCH_SECOND"}) == {"PREFECT_WORKER_PREFETCH_SECOND"}


def test_prefect_takes_the_values_and_they_say_what_the_comments_say() -> None:
    code = (
        "from prefect.settings import Settings; s = Settings(); v = s.server.services.db_vacuum; "
        "print(s.server.concurrency.lease_storage.rsplit('.')[-1], sorted(v.enabled), "
        "v.retention_period.days, s.server.events.retention_period.days, s.worker.query_seconds, "
        "s.worker.prefetch_seconds, s.flows.heartbeat_frequency, s.server.ephemeral.enabled, "
        "s.server.analytics_enabled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == (
        "filesystem ['events', 'flow_runs'] 14 3 5.0 1.0 60 False False"
    ), done.stderr


def test_there_is_no_secret_among_them_and_a_shell_reads_them_alike() -> None:
    text = (PROJECT / "deployments" / "settings.env").read_text()
    given = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not re.search("KEY|AUTH|PASSWORD", "\n".join(given))
    done = subprocess.run(
        ["sh", "-c", f"set -a; . {PROJECT}/deployments/settings.env; env"],
        env={}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert settings().items() <= said.items()
    assert len(given) == len(settings())


def test_new_secrets_are_good_ones_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "config" / "secrets.env"
    done = CliRunner().invoke(new_secrets, [str(file)])
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = settings(file)
    assert strangers(set(made)) == {KEY}
    assert f'"{KEY}"' in inspect.getsource(encryption)
    Fernet(made[KEY])
    assert made["PREFECT_API_AUTH_STRING"] == made["PREFECT_SERVER_API_AUTH_STRING"]
    assert re.fullmatch(r"pybak:[\w-]{32}", made["PREFECT_API_AUTH_STRING"])
    for secret in made.values():
        assert secret not in done.output


def test_new_secrets_reach_no_command_of_a_run_and_those_of_the_server_no_worker() -> None:
    made = [line.partition("=")[0] for line in lines("pybak").splitlines()]
    assert KEY in made
    given = dict.fromkeys([*made, "PREFECT_API_DATABASE_CONNECTION_URL"], "secret")
    assert environment(given | {"PREFECT_PROFILE": "x"}) == {"PREFECT_PROFILE": "x"}
    of_the_server = {name for name in made if name.startswith("PREFECT_SERVER_")}
    for name in ("worker", "on-request", "api"):
        unit = (SYSTEMD / f"pybak-{name}.service").read_text()
        [unset] = re.findall(r"^UnsetEnvironment=(.*)$", unit, re.M)
        assert set(unset.split()) == of_the_server


def test_secrets_are_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    file.write_text("kept")
    done = CliRunner().invoke(new_secrets, [str(file)])
    assert done.exit_code == 1
    assert "is there already" in done.output
    assert file.read_text() == "kept"


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the units as someone with a clone here would have them."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for unit in SYSTEMD.glob("*.service"):
        text = unit.read_text().replace("%h/pybak/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("%h/pybak", str(PROJECT)))
    return tmp_path


def verified(units: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", *sorted(units.glob("*.service"))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.needs_tool("systemd-analyze")
def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    assert len(list(units.glob("*.service"))) == 4
    assert verified(units) == ""
    unit = units / "pybak-worker.service"
    unit.write_text(unit.read_text().replace("Restart=", "Restrat="))
    assert "Unknown key" in verified(units)


def test_the_units_use_the_one_file_of_settings(units: Path) -> None:
    for unit in units.glob("*.service"):
        assert f"EnvironmentFile={PROJECT}/deployments/settings.env\n" in unit.read_text()
        [command] = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.M)
        done = subprocess.run(
            [*re.sub(" (worker|on-request)$", "", command).split(), "--help"], cwd=PROJECT,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_starting_a_worker_without_a_server_says_what_to_start() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT / "deployments" / "start.py", "--wait", "0", "worker"],
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "start it" in done.stderr
    assert "Traceback" not in done.stderr
