"""The automations, on a whole server: they fire when they should, and are there once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from aiosmtpd.controller import Controller
from prefect.client.orchestration import SyncPrefectClient
from servers import free_port

from blocks import MailServer
from deployments.automating import FOLDER, Automated, apply_automations, parsed, read
from deployments.definitions import load
from pybak.errors import PlanError

WITHIN = (12, 60)
"""Seconds; Prefect takes no less than ten. The longer one is for a machine that stalls."""
GOOD = ("Completed", "Unchanged", "Partial")


class Postbox:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, policy=default)
        body = mail.get_body(("plain",))
        self.mails.append((mail["Subject"], str(body.get_content()) if body else ""))
        return "250 OK"

    def about(self, *words: str) -> list[tuple[str, str]]:
        return [mail for mail in self.mails if all(word in "\n".join(mail) for word in words)]


@pytest.fixture(scope="module")
def postbox() -> Iterator[tuple[Postbox, int]]:
    box = Postbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
def values(full_client: SyncPrefectClient, postbox: tuple[Postbox, int]) -> dict[str, str]:
    """Give the variables, with a block of the mail server."""
    block = MailServer(
        host="127.0.0.1", port=postbox[1], security="none", sender="pybak@example.org",
        recipients=["you@example.org"],
    )  # fmt: skip
    block.save("postbox", overwrite=True, _sync=True)  # type: ignore[call-arg]
    return {"PYBAK_DEPLOY_MAIL": "postbox"}


def hurried(folder: Path, name: str, seconds: int = WITHIN[0], **changes: str) -> None:
    """Put an automation into `folder` that takes seconds where it takes minutes."""
    text = (FOLDER / f"{name}.yaml").read_text()
    within = yaml.safe_load(text)["trigger"]["within"]
    text = text.replace(f"within: {within}\n", f"within: {seconds}\n")
    for old, new in changes.items():
        assert old.replace("_", "-") in text or old in text
        text = text.replace(old.replace("_", "-"), new)
    target = folder / f"{name}-{len(list(folder.glob('*')))}.yaml"
    target.write_text(text.replace('name: "PyBak: ', f'name: "Test {target.stem}: '))


class Runs:
    """A deployment of the flow `backup`, whose runs the test itself moves on."""

    def __init__(self, api: httpx.Client, name: str) -> None:
        self.api, self.name = api, name
        flow = self._post("/flows/", {"name": "backup"})["id"]
        given = {"name": name, "flow_id": flow, "tags": ["pybak", "backup"]}
        self.deployment = self._post("/deployments/", given)["id"]

    def _post(self, path: str, given: Any) -> Any:
        answer = self.api.post(path, json=given).raise_for_status()
        return answer.json() if answer.content else None

    def run(self) -> str:
        return str(self._post(f"/deployments/{self.deployment}/create_flow_run", {})["id"])

    def set(self, run: str, kind: str, name: str | None = None) -> None:
        state = {"type": kind, "name": name or kind.capitalize(), "message": f"as {name or kind}"}
        self._post(f"/flow_runs/{run}/set_state", {"state": state, "force": True})

    def ended(self, kind: str, name: str | None = None) -> None:
        self.set(self.run(), kind, name)

    def beat(self, run: str) -> None:
        """Say that a run lives, as the run itself does."""
        event = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {"prefect.resource.id": "prefect.tag.pybak", "prefect.resource.role": "tag"}
            ],
        }
        self._post("/events", [event])

    def state(self, run: str) -> str:
        return str(self.api.get(f"/flow_runs/{run}").json()["state"]["type"])


def test_alarms_ring_when_they_should_and_only_then(
    full_client: SyncPrefectClient, full_api: httpx.Client, values: dict[str, str],
    postbox: tuple[Postbox, int], tmp_path: Path,
) -> None:  # fmt: skip
    """A server that stalls lets alarms ring, and rightly; what is wrong shows at any length."""
    for seconds in WITHIN:
        folder = tmp_path / str(seconds)
        folder.mkdir()
        hurried(folder, "no-backup", seconds, documents_every_two_minutes=f"alarm-well-{seconds}")
        hurried(folder, "no-backup", seconds, documents_every_two_minutes=f"alarm-badly-{seconds}")
        hurried(folder, "failed-run", seconds)
        hurried(folder, "dead-run", seconds)
        well, badly = (Runs(full_api, f"alarm-{name}-{seconds}") for name in ("well", "badly"))
        done = list(apply_automations(full_client, values, folder))
        try:
            assert {one.outcome for one in done} == {"made"}, done
            alarms_ring(well, badly, postbox[0], seconds)
            break
        except AssertionError:
            if seconds == WITHIN[-1]:
                raise
        finally:
            remove(full_client, done)


def alarms_ring(well: Runs, badly: Runs, box: Postbox, seconds: int) -> None:
    """Ring them all at once, because each needs a while.

    One deployment runs well, under each of the names that a good end has. One ends in each way
    that saves nothing. One run dies, one lives.
    """
    living, dead, done_with = well.run(), badly.run(), well.run()
    for run in (living, dead, done_with):
        well.set(run, "RUNNING")
        well.beat(run)
    time.sleep(1)
    well.set(done_with, "COMPLETED", "Unchanged")
    badly.ended("FAILED")
    badly.ended("CRASHED")
    names = itertools.cycle(GOOD)
    began = time.monotonic()
    while time.monotonic() < began + 60 + 3 * seconds:
        well.ended("COMPLETED", next(names))
        badly.ended("CANCELLED", "Cancelled")
        well.beat(living)
        rung = box.about(f"No run of backup/{badly.name} has ended well")
        if rung and badly.state(dead) == "CRASHED" and time.monotonic() > began + 3 * seconds:
            break
        time.sleep(2)
    assert rung, box.mails
    assert badly.state(dead) == "CRASHED"
    assert not box.about(f"No run of backup/{well.name} has ended well")
    assert (well.state(living), well.state(done_with)) == ("RUNNING", "COMPLETED")
    assert rung[0][0] == "PyBak: no backup for half an hour"
    failed = box.about(f"{badly.name} ended as")
    assert "as FAILED" in failed[0][1]
    assert "pybak logs " in failed[0][1]
    assert "{{" not in str(box.mails)
    assert not box.about(f"{well.name} ended as")
    # One at once for two bad ends, and another for the dead run, a while later.
    assert len(failed) <= 2, failed


def remove(client: SyncPrefectClient, done: list[Automated]) -> None:
    for one in done:
        for there in client.read_automations_by_name(one.name):
            client.delete_automation(there.id)


def test_they_are_made_once_changed_and_left_as_people_switched_them(
    full_client: SyncPrefectClient, values: dict[str, str], tmp_path: Path
) -> None:
    hurried(tmp_path, "no-backup")
    file = next(tmp_path.glob("*.yaml"))

    def outcome() -> str:
        [one] = apply_automations(full_client, values, tmp_path)
        return one.outcome

    try:
        assert [outcome(), outcome()] == ["made", "unchanged"]
        file.write_text(file.read_text().replace(f"within: {WITHIN[0]}", "within: 7200"))
        name = str(yaml.safe_load(file.read_text())["name"])
        [there] = full_client.read_automations_by_name(name)
        full_client.pause_automation(there.id)
        assert [outcome(), outcome()] == ["changed", "unchanged"]
        [there] = full_client.read_automations_by_name(name)
        assert not there.enabled
        assert there.trigger.within.total_seconds() == 7200  # type: ignore[union-attr]
        # Two of a name, as `prefect automation create` makes them.
        full_client.create_automation(parsed(file, {**read(file, values), "actions": []}))
        assert outcome() == "changed"
        assert len(full_client.read_automations_by_name(name)) == 1
    finally:
        remove(full_client, [Automated(name, "made")])


def test_without_a_mail_server_those_that_send_mail_are_left_out(
    full_client: SyncPrefectClient,
) -> None:
    remove(full_client, list(apply_automations(full_client, {})))  # those of other tests
    done = {one.name: one for one in apply_automations(full_client, {})}
    try:
        assert {one.outcome for one in done.values()} == {"left out", "made"}
        left = done["PyBak: no backup for half an hour"]
        assert left.why == "names no block of the type pybak-mail-server"
        assert done["PyBak: a run is dead"].outcome == "made"
        again = {one.name: one for one in apply_automations(full_client, {MAIL: "none"})}
        assert again[left.name].why == "there is no block pybak-mail-server/none"
    finally:
        remove(full_client, list(done.values()))


MAIL = "PYBAK_DEPLOY_MAIL"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_file_has_a_key_that_prefect_would_ignore(file: Path) -> None:
    document = read(file, {MAIL: "mail"})
    for action in document["actions"]:
        if "block_document_id" in action:
            assert action["block_document_id"] == "pybak-mail-server/mail"
            action["block_document_id"] = str(uuid4())
    assert parsed(file, document).enabled
    for place in (document, document["trigger"], document["actions"][0]):
        place["typo"] = 1
        with pytest.raises(PlanError, match=r"unknown key: .*typo"):
            parsed(file, document)
        del place["typo"]
    document["trigger"]["posture"] = "Sitting"
    with pytest.raises(PlanError, match="is no automation"):
        parsed(file, document)


def test_they_watch_what_is_deployed() -> None:
    deployed = {one.name for one in load()}
    watched = read(FOLDER / "no-backup.yaml", {})["trigger"]["match_related"]
    assert watched["prefect.resource.name"] in deployed
    tags = {tag for one in load() for tag in one.tags}
    for name in ("failed-run", "dead-run"):
        related = read(FOLDER / f"{name}.yaml", {})["trigger"]["match_related"]
        assert related["prefect.resource.id"].removeprefix("prefect.tag.") in tags
    assert all("pybak" in one.tags for one in load())


def test_every_state_of_a_run_that_saved_what_it_could_is_expected() -> None:
    from flows.support import states

    expected = read(FOLDER / "no-backup.yaml", {})["trigger"]["expect"]
    good = {"Completed", *states._NAMES.values()}
    assert {f"prefect.flow-run.{name}" for name in good} == set(expected)
    assert good == set(GOOD)
