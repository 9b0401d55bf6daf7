"""prefect.yaml as a file: nothing in it that Prefect would ignore, or that no flow takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import PROJECT
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import BaseModel

from deployments import definitions
from pybak.doctor.schedules import SHIPPED_OFF
from pybak.errors import PlanError

FILE = PROJECT / "deployments" / "prefect.yaml"
HOME = {"HOME": "/home/you", "TZ": "Europe/Berlin"}
TWO_MINUTES = {"documents-every-two-minutes", "inbox-every-two-minutes"}


def unknown_keys(data: Mapping[str, Any]) -> list[str]:
    """List the keys of a prefect.yaml that Prefect would silently ignore."""

    def strangers(model: type[BaseModel], part: Mapping[str, Any], where: str) -> list[str]:
        known = set(model.model_fields) | {f.alias for f in model.model_fields.values()}
        return [f"{where}{key}" for key in part if key not in known]

    # Where its own templates keep their anchors.
    found = strangers(PrefectYamlModel, {k: v for k, v in data.items() if k != "definitions"}, "")
    for deployment in data["deployments"]:
        where = f"{deployment['name']}."
        found += strangers(DeploymentConfig, deployment, where)
        found += strangers(WorkPoolConfig, deployment.get("work_pool", {}), f"{where}work_pool.")
        found += strangers(
            ConcurrencyLimitSpec, deployment["concurrency_limit"], f"{where}concurrency_limit."
        )
    return found


def test_what_doctor_takes_for_shipped_off_is_what_begins_paused(
    deployed: list[definitions.Definition],
) -> None:
    assert {one.full_name for one in deployed if one.paused} == {*SHIPPED_OFF}


@pytest.fixture
def raw() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return value


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> list[definitions.Definition]:
    monkeypatch.setenv("HOME", HOME["HOME"])
    return definitions.load(HOME)


def test_it_has_no_key_that_prefect_would_ignore(raw: dict[str, Any]) -> None:
    assert unknown_keys(raw) == []
    PrefectYamlModel.model_validate(raw)
    for deployment in raw["deployments"]:
        for schedule in deployment["schedules"]:
            RawScheduleConfig.model_validate(schedule)  # forbids what it does not know
        ConcurrencyLimitConfig.model_validate(deployment["concurrency_limit"])


@pytest.mark.parametrize(
    "place",
    [
        [], ["deployments", 0], ["deployments", 0, "work_pool"],
        ["deployments", 0, "concurrency_limit"], ["deployments", 0, "schedules", 0],
    ],
    ids=lambda place: ".".join(str(step) for step in place) or "top",
)  # fmt: skip
def test_a_mistyped_key_is_refused_where_prefect_ignores_it(
    raw: dict[str, Any], place: list[Any], tmp_path: Path
) -> None:
    spoilt = json.loads(json.dumps(raw))  # without what anchors share
    part = spoilt
    for step in place:
        part = part[step]
    part["typo"] = 1
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(spoilt))
    where = ".".join(str(step) for step in [*place, "typo"])
    with pytest.raises(PlanError, match=rf"{where}: unknown key"):
        definitions.load(HOME, file)
    if "schedules" not in place:
        assert [key.split(".")[-1] for key in unknown_keys(spoilt)] == ["typo"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schedules": [{"slug": "x", "interval": 120}]}, "anchor_date"),
        ({"schedules": [{"slug": "x"}]}, "an interval or a cron line"),
        ({"entrypoint": "flows/backup.py:backup"}, "entrypoint"),
        ({"concurrency_limit": {"limit": 1, "collision_strategy": "DROP"}}, "collision_strategy"),
    ],
)
def test_what_makes_no_deployment_is_named(
    raw: dict[str, Any], change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    raw["deployments"] = [raw["deployments"][0] | change]
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(PlanError, match=told) as caught:
        definitions.load(HOME, file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "name: x\ndeployments: [{name: y}]", "[]"])
def test_what_is_no_file_of_deployments_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(text)
    with pytest.raises(PlanError, match=r"prefect\.yaml: ") as caught:
        definitions.load(HOME, file)
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="No such file"):
        definitions.load(HOME, tmp_path / "none.yaml")


def test_two_deployments_of_one_name_are_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["deployments"] = raw["deployments"][:1] * 2
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(PlanError, match="two deployments are called documents-every-two-minutes"):
        definitions.load(HOME, file)


def test_every_flow_takes_its_parameters(deployed: list[definitions.Definition]) -> None:
    for one in deployed:
        assert one.flow.name == one.flow_name
        one.check_parameters()


@pytest.mark.parametrize(
    "parameters", [{"sorces": ["/x"]}, {"sources": ["/x"], "options": {"levl": 3}}, {"sources": 3}]
)
def test_parameters_that_the_flow_does_not_take_are_refused(
    deployed: list[definitions.Definition], parameters: dict[str, Any]
) -> None:
    [one] = definitions.choose(deployed, ["documents-every-two-minutes"])
    with pytest.raises(PlanError, match="documents-every-two-minutes: the flow takes no such"):
        one.model_copy(update={"parameters": parameters}).check_parameters()


def test_all_flows_are_deployed_but_restore(deployed: list[definitions.Definition]) -> None:
    """A restore is asked for by someone who says from what and whereto."""
    flows = {file.stem for file in (PROJECT / "flows").glob("*.py")} - {"__init__", "restore"}
    assert {one.flow_name for one in deployed} == flows


def test_backup_and_inbox_run_every_two_minutes_in_turn(
    deployed: list[definitions.Definition],
) -> None:
    often = {one.name: one for one in deployed if one.name in TWO_MINUTES}
    anchors = []
    for one in often.values():
        [timing] = one.schedules
        schedule = timing.schedule().schedule
        assert isinstance(schedule, IntervalSchedule)
        assert schedule.interval == timedelta(minutes=2)
        anchors.append(schedule.anchor_date.minute % 2)
        assert not one.paused
    assert set(often) == TWO_MINUTES
    assert sorted(anchors) == [0, 1]


def test_the_others_run_once_a_day_at_most_in_this_machines_nights(
    deployed: list[definitions.Definition],
) -> None:
    for one in deployed:
        if one.name in TWO_MINUTES:
            continue
        for timing in one.schedules:
            schedule = timing.schedule().schedule
            assert isinstance(schedule, CronSchedule), one.name
            assert schedule.timezone == "Europe/Berlin"
            minute, hour, *_ = schedule.cron.split()
            assert int(minute) < 60, one.name
            assert int(hour) < 6, one.name
    assert [one.name for one in deployed if not one.schedules] == ["rebuild-on-request"]


def test_no_two_of_them_are_due_in_one_minute(deployed: list[definitions.Definition]) -> None:
    crons = [timing.cron for one in deployed for timing in one.schedules if timing.cron]
    assert len(crons) == len({tuple(cron.split()[:2]) for cron in crons})


def test_never_two_runs_of_one_deployment(deployed: list[definitions.Definition]) -> None:
    for one in deployed:
        assert one.concurrency_limit.model_dump() == {
            "limit": 1, "collision_strategy": "CANCEL_NEW", "grace_period_seconds": 120,
        }  # fmt: skip


def test_what_deletes_or_fills_another_place_waits_to_be_switched_on(
    deployed: list[definitions.Definition],
) -> None:
    assert {one.flow_name for one in deployed if one.paused} == {"prune", "mirror", "transfer"}


def test_on_a_fresh_machine_defaults_hold_and_no_block_but_the_destination_is_named(
    deployed: list[definitions.Definition],
) -> None:
    [backup] = definitions.choose(deployed, ["backup"])
    assert backup.parameters["sources"] == ["/home/you/Documents"]
    assert backup.parameters["to"] == "block:backups"
    [inbox] = definitions.choose(deployed, ["inbox"])
    assert inbox.parameters["destination"] == "block:backups/inbox"
    for one in deployed:
        for name in ("mail", "webhook", "ping", "password_block"):
            assert name not in one.parameters.get("options", {}), one.name


def test_variables_fill_in_and_empty_ones_count_as_unset() -> None:
    given = {
        "PYBAK_DEPLOY_SOURCE": "/srv/data",
        "PYBAK_DEPLOY_TO": "s3://archive/host",
        "PYBAK_DEPLOY_MAIL": "office",
        "PYBAK_DEPLOY_PASSWORD_BLOCK": "archives",
        "PYBAK_DEPLOY_JOB": "",
    }
    [backup] = definitions.choose(definitions.load(given), ["backup"])
    [inbox] = definitions.choose(definitions.load(given), ["inbox"])
    assert inbox.parameters["destination"] == "s3://archive/host/inbox"
    assert backup.parameters["sources"] == ["/srv/data"]
    assert backup.parameters["to"] == "s3://archive/host"
    assert backup.parameters["job"] == "documents"
    assert backup.parameters["options"]["mail"] == "office"
    assert backup.parameters["options"]["password_block"] == "archives"


def test_parameters_hold_no_secret_but_names_of_blocks(raw: dict[str, Any]) -> None:
    text = json.dumps(raw).lower()
    for word in ('password":', "secret", "token", "access_key", "api_key"):
        assert word not in text


def test_every_variable_of_the_file_is_told_at_its_head() -> None:
    import re

    text = FILE.read_text()
    head = text.partition("\nname: pybak")[0]
    named = set(re.findall(r"\{\{ \$(\w+) \}\}", text)) - {"NAME"}
    assert named
    for name in named:
        assert name in head
    assert named <= set(definitions.variables({}))


def test_deployments_are_chosen_by_flow_or_by_name(
    deployed: list[definitions.Definition],
) -> None:
    def names(*words: str) -> list[str]:
        return [one.full_name for one in definitions.choose(deployed, words)]

    assert names("prune") == ["prune/documents-prune-nightly"]
    assert names("documents-prune-nightly") == names("prune/documents-prune-nightly")
    assert len(names()) == len(deployed)
    with pytest.raises(PlanError, match=r"backpu: no such deployment; there are backup/documents"):
        names("backpu", "prune")


def test_what_is_read_and_missing_is_known(tmp_path: Path) -> None:
    def missing(source: str) -> list[str]:
        loaded = definitions.load({"PYBAK_DEPLOY_SOURCE": source})
        return definitions.choose(loaded, ["backup"])[0].missing

    assert missing(str(tmp_path)) == []
    assert missing(f"{tmp_path}/none") == [f"{tmp_path}/none"]
    assert missing("s3://archive/photos") == []


@pytest.mark.parametrize(
    ("tz", "link", "name"),
    [
        ("Asia/Tokyo", None, "Asia/Tokyo"),
        (":Asia/Tokyo", None, "Asia/Tokyo"),
        ("", "/usr/share/zoneinfo/Europe/Vienna", "Europe/Vienna"),
        ("Mars/Olympus", "../usr/share/zoneinfo/Europe/Vienna", "Europe/Vienna"),
        ("", "/elsewhere", "UTC"),
        ("", None, "UTC"),
    ],
)
def test_the_time_zone_is_the_machines(
    tz: str, link: str | None, name: str, tmp_path: Path
) -> None:
    localtime = tmp_path / "localtime"
    if link:
        localtime.symlink_to(link)
    assert definitions.local_timezone({"TZ": tz}, localtime) == name
