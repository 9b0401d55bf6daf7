"""Requests that start and stop runs: what may be asked for, and that twice is once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_doubles import FLOW_RUN, Service, run
from catalogs import run_sql

from pybak.api import schemas
from pybak.api.services import StartedRun
from pybak.catalog.engine import Database
from pybak.catalog.models import escaped
from pybak.errors import PlanError
from pybak.options import BackupOptions, RestoreOptions, VerifyOptions
from pybak.options.inbox import InboxOptions
from pybak.options.prune import PruneOptions

KEY = {"Idempotency-Key": "8f3a0c52-6f0f-4f0d-9d3e-1c7a5e2b9a10"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("sources/docs", "stores", "inbox", "back"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def service(place: Path) -> Service:
    return Service(
        place, source_roots=(f"{place}/sources",), restore_roots=(f"{place}/back",),
        destination_roots=(f"{place}/stores", "block:offsite"), inbox_roots=(f"{place}/inbox",),
        password_blocks=("archives",),
    )  # fmt: skip


def test_a_backup_starts_with_what_was_asked_for_and_nothing_else(
    service: Service, place: Path
) -> None:
    body = {
        "sources": [f"{place}/sources/docs/../docs"], "to": f"{place}/stores", "job": "docs",
        "options": {"format": "tar.zst", "split": "4GB", "also_to": ["block:offsite"],
                    "password_block": "archives"},
    }  # fmt: skip
    answer = service.post("/compress", json=body)
    assert answer.status_code == 202, answer.text
    started = answer.json()
    assert answer.headers["location"] == f"/runs/{started['flow_run_id']}"
    [(kind, parameters, _)] = service.runs.made
    assert kind == "backup"
    assert parameters == {
        "sources": [f"{place}/sources/docs"], "to": f"{place}/stores", "job": "docs",
        "options": body["options"],
    }  # fmt: skip


def test_a_job_that_has_a_deployment_needs_only_its_name(service: Service) -> None:
    assert service.post("/compress", json={"job": "docs"}).status_code == 202
    assert service.runs.made[0][1] == {"job": "docs", "options": {}}


def test_an_inbox_starts_below_a_root_of_inboxes_alone(service: Service, place: Path) -> None:
    body = {"kind": "inbox", "source": f"{place}/inbox", "destination": f"{place}/stores/x"}
    assert service.post("/compress", json=body).status_code == 202
    kind, parameters, _ = service.runs.made[0]
    assert kind == "inbox"
    assert parameters["source"] == f"{place}/inbox"
    answer = service.post("/compress", json=body | {"source": f"{place}/sources"})
    assert (answer.status_code, answer.json()["code"]) == (403, "outside-roots")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/compress", {"sources": ["{0}/sources/../secret"]}),
        ("/compress", {"sources": ["{0}/sources/docs", "/etc"]}),
        ("/compress", {"sources": ["{0}/sources/docs"], "to": "/etc/cron.d"}),
        ("/compress", {"sources": ["{0}/sources/docs"], "to": "s3://mine/x"}),
        ("/compress", {"sources": ["{0}/sources/docs"], "to": "block:other"}),
        ("/compress", {"job": "x", "options": {"also_to": ["block:offsite", "gs://mine/x"]}}),
        ("/compress", {"kind": "inbox", "source": "{0}/inbox", "destination": "{0}"}),
        ("/restore", {"job": "x", "to": "/root/.ssh"}),
        ("/restore", {"job": "x", "to": "{0}/back/../stores"}),
        ("/restore", {"job": "x", "to": "{0}/link/x"}),
        ("/restore", {"job": "x", "to": "file://{0}/back/%2e%2e/stores"}),
    ],
)
def test_no_request_leaves_the_roots(
    service: Service, place: Path, path: str, body: dict[str, Any]
) -> None:
    """(case 47)"""
    (place / "link").symlink_to("/root")

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{0}", str(place))
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        return value

    answer = service.post(path, json=filled(body))
    assert (answer.status_code, answer.json()["code"]) == (403, "outside-roots"), answer.text
    assert service.runs.made == []


@pytest.mark.parametrize("field", sorted(schemas.REFUSED))
@pytest.mark.parametrize("path", ["/compress", "/restore", "/verify", "/prune"])
def test_options_that_reach_further_are_no_options_here(
    service: Service, place: Path, path: str, field: str
) -> None:
    body: dict[str, Any] = {"job": "docs", "options": {field: "x"}}
    if path == "/restore":
        body["to"] = f"{place}/back"
    answer = service.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["location"].endswith(f"options/{field}")
    assert service.runs.made == []


@pytest.mark.parametrize(
    ("model", "subset", "own"),
    [
        (BackupOptions, schemas.CompressOptions, set()),
        (InboxOptions, schemas.InboxChoices, set()),
        (RestoreOptions, schemas.RestoreChoices, set()),
        (VerifyOptions, schemas.VerifyChoices, set()),
        (PruneOptions, schemas.PruneRules, {"dry_run"}),
    ],
)
def test_every_option_of_a_command_is_either_taken_or_refused_with_a_reason(
    model: Any, subset: Any, own: set[str]
) -> None:
    """A new option must be thought about here before tokens can use it."""
    taken = set(subset.model_fields)
    refused = set(model.model_fields) & set(schemas.REFUSED)
    assert taken | refused | own == set(model.model_fields)
    assert not taken & refused


def test_the_commands_own_checks_hold(service: Service) -> None:
    for options in ({"level": 10}, {"split": "much"}, {"format": "rar"}, {"level": "x"}):
        answer = service.post("/compress", json={"job": "docs", "options": options})
        assert answer.status_code == 422
        [name] = options
        assert answer.json()["errors"][0]["location"].endswith(name)


def test_blocks_of_passwords_are_those_of_the_settings(service: Service) -> None:
    for block in ("other", "secret/archives", "archives "):
        answer = service.post(
            "/compress", json={"job": "docs", "options": {"password_block": block}}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "block-not-allowed")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/compress", {}),
        ("/compress", {"job": "docs", "password": "x"}),
        ("/compress", {"kind": "inbox"}),
        ("/compress", {"kind": "mirror", "job": "x"}),
        ("/compress", {"job": "a\nb"}),
        ("/compress", []),
        ("/compress", None),
        ("/restore", {"to": "/x"}),
        ("/restore", {"to": "/x", "job": "a", "run": "b"}),
        ("/restore", {"to": "/x", "run": "../../etc/passwd"}),
        ("/restore", {"to": "/x", "run": "a", "at": "2026-11-20"}),
        ("/restore", {"to": "/x", "job": "a", "at": "whenever"}),
        ("/restore", {"to": "/x", "archive": "/etc/x.zip"}),
        ("/verify", {}),
        ("/verify", {"archives": ["/etc/x.zip"]}),
        ("/prune", {}),
        ("/prune", {"job": "x", "all_jobs": True}),
    ],
)
def test_requests_that_are_none_say_where(service: Service, path: str, body: Any) -> None:
    answer = service.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid"
    assert answer.json()["errors"]
    assert service.runs.made == []


def test_a_prune_only_shows_unless_it_is_told_otherwise(service: Service) -> None:
    service.post("/prune", json={"job": "docs", "options": {"keep_daily": 7}})
    service.post("/prune", json={"all_jobs": True, "dry_run": False})
    assert service.runs.made[0][1] == {
        "job": "docs", "options": {"keep_daily": 7, "dry_run": True},
    }  # fmt: skip
    assert service.runs.made[1][1] == {"job": None, "options": {"dry_run": False}}


def test_restores_and_checks_take_runs_and_archives_of_the_catalog_only(
    place: Path, service: Service
) -> None:
    url = f"sqlite:///{place}/catalog.db"
    Database(url).open()
    run_sql(
        url,
        "INSERT INTO run (run_id, seq, kind, job, status, started_at, archive, options, counts) "
        "VALUES ('run-1', 1, 'backup', 'docs', 'success', '2026-11-20 10:00:00.000000', "
        f"'{place}/stores/docs.zip', '{{}}', '{{}}');"
        "INSERT INTO archive (id, run_id, job, name, format, encrypted, size, members, "
        "created_at, state) VALUES (7, 'run-1', 'docs', "
        f"'{place}/stores/docs.zip', 'zip', 0, 1, 1, '2026-11-20 10:00:00.000000', 'present');",
    )
    to = f"{place}/back/new"
    answers = [
        service.post("/restore", json={"run": "run-1", "to": to}),
        service.post("/restore", json={"archive": 7, "to": to, "options": {"include": ["/a"]}}),
        service.post("/restore", json={"job": "docs", "at": "2026-11-20", "to": to}),
        service.post("/verify", json={"runs": ["run-1"], "archives": [7], "job": "docs"}),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4, [a.text for a in answers]
    asked = [parameters for _, parameters, _ in service.runs.made]
    assert asked[0] == {"archive": "run-1", "to": to, "options": {}}
    assert asked[1]["archive"] == f"{place}/stores/docs.zip"
    assert asked[2]["archive"] == "latest"
    assert asked[3]["archives"] == ["run-1", f"{place}/stores/docs.zip", "latest"]
    for body in ({"run": "run-2", "to": to}, {"archive": 8, "to": to}):
        assert service.post("/restore", json=body).status_code == 404
    assert service.post("/verify", json={"archives": [8]}).status_code == 404


class TestIdempotencyKeys:
    def test_the_same_request_again_is_the_same_run(self, service: Service) -> None:
        first = service.post("/compress", json={"job": "docs"}, headers=KEY)
        again = service.post("/compress", json={"job": "docs", "kind": "backup"}, headers=KEY)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json()["flow_run_id"] == first.json()["flow_run_id"]
        assert len(service.runs.made) == 1

    def test_another_request_with_the_key_is_refused(self, service: Service) -> None:
        service.post("/compress", json={"job": "docs"}, headers=KEY)
        for path, body in (("/compress", {"job": "other"}), ("/verify", {"job": "docs"})):
            answer = service.post(path, json=body, headers=KEY)
            assert answer.status_code == 422
            assert answer.json()["code"] == "idempotency-key-reused"
        assert len(service.runs.made) == 1

    def test_keys_outlive_the_service(self, service: Service, place: Path) -> None:
        first = service.post("/compress", json={"job": "docs"}, headers=KEY)
        later = Service(place)
        later.app.state.context.runs = service.runs
        again = later.post("/compress", json={"job": "docs"}, headers=KEY)
        assert again.json()["flow_run_id"] == first.json()["flow_run_id"]
        reborn = Service(place)
        reborn.app.state.context.runs = service.runs
        other = reborn.post("/compress", json={"job": "other"}, headers=KEY)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")

    def test_each_caller_has_keys_of_its_own(self, service: Service) -> None:
        for who in ({"client_id": "one"}, {"client_id": "two"}, {"sub": "bob"}):
            token = service.token(**who)
            service.post("/compress", json={"job": "docs"}, headers=KEY, token=token)
        assert len(service.runs.made) == 3

    def test_two_requests_at_once_with_one_key_are_one_run(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The orchestrator keeps keys by flow: it would let both through."""
        start = service.runs.start

        def slow(*asked: Any, **more: Any) -> StartedRun:
            time.sleep(0.1)
            return start(*asked, **more)

        monkeypatch.setattr(service.runs, "start", slow)
        headers = KEY | {"Authorization": f"Bearer {service.token()}"}

        async def ask() -> list[httpx.Response]:
            transport = httpx.ASGITransport(service.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as one:
                asked = [
                    one.post(path, json={"job": "docs"}, headers=headers)
                    for path in ("/verify", "/prune", "/compress")
                ]
                return list(await asyncio.gather(*asked))

        answers = run(ask())
        assert sorted(answer.status_code for answer in answers) == [202, 422, 422]
        assert len(service.runs.made) == 1

    def test_a_request_that_failed_leaves_its_key_as_it_was(self, service: Service) -> None:
        service.runs.trouble = PlanError("no deployment")
        assert service.post("/compress", json={"job": "docs"}, headers=KEY).status_code == 422
        service.runs.trouble = None
        assert service.post("/compress", json={"job": "other"}, headers=KEY).status_code == 202

    def test_without_a_key_each_request_is_a_run(self, service: Service) -> None:
        for _ in range(2):
            service.post("/compress", json={"job": "docs"})
        assert len(service.runs.made) == 2

    @pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "\u00e9"])
    def test_what_is_no_key_is_refused(self, service: Service, key: str) -> None:
        answer = service.post(
            "/compress", json={"job": "docs"},
            headers={b"Idempotency-Key": key.encode()},
        )  # fmt: skip
        assert answer.status_code in (400, 422), answer.text
        assert service.runs.made == []


class TestCancelling:
    def test_a_run_at_work_is_told_to_stop(self, service: Service) -> None:
        service.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="running")]
        answer = service.post(f"/runs/{FLOW_RUN}/cancel")
        assert answer.status_code == 202, answer.text
        assert service.runs.cancelled == [FLOW_RUN]

    def test_one_that_has_ended_is_not(self, service: Service) -> None:
        service.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="failed")]
        answer = service.post(f"/runs/{FLOW_RUN}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "ended")
        assert service.post("/runs/unknown/cancel").status_code == 404
        assert service.runs.cancelled == []


def test_starting_too_many_runs_is_slowed_down(place: Path) -> None:
    service = Service(place, starts_a_minute=3)
    answers = [service.post("/compress", json={"job": "docs"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    other = service.post("/compress", json={"job": "docs"}, token=service.token(client_id="x"))
    assert other.status_code == 202


def test_a_request_that_no_deployment_fits_is_told_why(service: Service) -> None:
    service.runs.trouble = PlanError("no deployment of the flow backup is for this")
    answer = service.post("/compress", json={"job": "docs"})
    assert answer.status_code == 422
    assert "no deployment" in answer.json()["detail"]


class TestJobsOfDeployments:
    """What a deployment saves need not be below the roots, so its rules hold."""

    @pytest.mark.parametrize("field", sorted(schemas.SELECTION))
    def test_a_request_does_not_choose_among_sources_that_are_not_its_own(
        self, service: Service, place: Path, field: str
    ) -> None:
        values: dict[str, Any] = {"include": ["*"], "exclude": [], "max_file_size": "1GB"}
        options = {field: values.get(field, False)}
        answer = service.post("/compress", json={"job": "docs", "options": options})
        assert (answer.status_code, answer.json()["code"]) == (403, "not-your-sources")
        own = {"job": "docs", "sources": [f"{place}/sources/docs"], "options": options}
        assert service.post("/compress", json=own).status_code == 202

    def test_a_request_takes_no_encryption_away(self, service: Service) -> None:
        body = {"job": "docs", "options": {"password_block": None, "level": 3}}
        assert service.post("/compress", json=body).status_code == 202
        assert service.runs.made[0][1]["options"] == {"level": 3}


def test_an_archive_whose_name_is_no_utf8_travels_as_an_address(
    place: Path, service: Service
) -> None:
    stored = escaped(os.fsdecode(b"/stores/caf\xe9.zip"))
    url = f"sqlite:///{place}/catalog.db"
    Database(url).open()
    run_sql(
        url,
        "INSERT INTO run (run_id, seq, kind, job, status, started_at, options, counts) "
        "VALUES ('run-1', 1, 'backup', 'docs', 'success', '2026-11-20 10:00:00.000000', "
        "'{}', '{}');"
        "INSERT INTO archive (id, run_id, job, name, format, encrypted, size, members, "
        "created_at, state) VALUES (7, 'run-1', 'docs', "
        f"'{stored}', 'zip', 0, 1, 1, "
        "'2026-11-20 10:00:00.000000', 'present');",
    )
    assert service.post("/verify", json={"archives": [7]}).status_code == 202
    assert service.runs.made[0][1]["archives"] == ["file:///stores/caf%E9.zip"]
