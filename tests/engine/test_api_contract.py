"""The OpenAPI document: whole, true, and nothing that fits or breaks it ends in a 5xx."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from api_doubles import FLOW_RUN, Service
from jobs import Job
from schemathesis.checks import CHECKS

from pybak.api.files import ArchiveFiles
from pybak.api.routes import logs
from pybak.api.services import StartedRun
from pybak.catalog.engine import Database
from pybak.overview import Overview

OPEN = {"/health", "/oauth/token", "/openapi.json"}
EXAMPLES = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("contract")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYBAK_HOME", str(place / "home"))
        patch.setattr(logs, "_PAUSE_SECONDS", 0.001)
        patch.setattr(logs, "_MOST_SECONDS", 0.01)
        job = Job(place)
        (job.source / "a.txt").write_text("a")
        job.run("full")
        database = Database(job.url)
        made = Service(
            place / "home", overview=lambda: Overview(database), token_endpoint=True,
            token_requests_a_minute=0, source_roots=(str(job.source),),
            restore_roots=(str(place),), destination_roots=("block:offsite",),
        )  # fmt: skip
        made.app.state.context.files = ArchiveFiles(database, job.url)
        made.runs.at_work = [StartedRun(flow_run_id=FLOW_RUN, kind="backup", state="running")]
        yield made


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.get("/openapi.json", token=None).json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_operation_is_named_described_and_shown(document: dict[str, Any]) -> None:
    seen: set[str] = set()
    for path, _, operation in operations(document):
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path
        for status, answer in operation["responses"].items():
            assert answer["description"], (path, status)
        good = next(answer for code, answer in operation["responses"].items() if code < "300")
        kinds = good["content"]
        assert kinds, path
        for kind, content in kinds.items():
            assert "schema" in content, path
            if kind != "application/octet-stream":
                assert "example" in content, path
        for parameter in operation.get("parameters", ()):
            assert parameter["schema"], (path, parameter)
    assert {"startBackup", "getStatus", "listLogs", "downloadMember", "cancelRun"} <= seen


def test_everything_but_health_and_tokens_asks_for_one_scope(document: dict[str, Any]) -> None:
    [scheme] = document["components"]["securitySchemes"]
    for path, _, operation in operations(document):
        security = operation["security"]
        if path in OPEN:
            assert security == []
        else:
            [[scope]] = [list(one[scheme]) for one in security]
            assert scope.startswith("backup:")


def test_every_protected_operation_refuses_a_request_without_a_token(
    service: Service, document: dict[str, Any]
) -> None:
    for path, method, _ in operations(document):
        if path in OPEN:
            continue
        filled = path.replace("{run_id}", "x").replace("{archive_id}", "1").replace("{path}", "x")
        answer = service.ask(method.upper(), filled, token=None, json={})
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_every_example_of_an_answer_fits_its_schema(document: dict[str, Any]) -> None:
    import jsonschema_rs

    for path, _, operation in operations(document):
        for answer in operation["responses"].values():
            content = answer.get("content", {}).get("application/json")
            if content is None or "example" not in content:
                continue
            whole = {**content["schema"], "components": document["components"]}
            jsonschema_rs.validator_for(whole).validate(content["example"])
            assert content["example"], path


def test_every_refusal_is_shown_too(document: dict[str, Any]) -> None:
    import jsonschema_rs

    problem = {**document["components"]["schemas"]["Problem"]}
    for path, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status < "400":
                continue
            [(kind, content)] = answer["content"].items()
            assert content["example"], (path, status)
            if kind == "application/problem+json":
                jsonschema_rs.validator_for(problem).validate(content["example"])
                assert str(content["example"]["status"]) == status


def test_what_is_answered_fits_its_schema(service: Service, document: dict[str, Any]) -> None:
    import jsonschema_rs

    for path in ("/status", "/jobs", "/runs", "/archives", "/archives/{archive_id}",
                 "/archives/{archive_id}/members", "/logs", "/health"):  # fmt: skip
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        answer = service.get(path.replace("{archive_id}", "1"))
        assert answer.status_code == 200
        whole = {**schema["schema"], "components": document["components"]}
        jsonschema_rs.validator_for(whole).validate(answer.json())


def test_every_example_of_a_request_is_taken(service: Service, document: dict[str, Any]) -> None:
    shown = 0
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        for schema in _schemas(content["schema"], document):
            for example in schema.get("examples", ()):
                shown += 1
                answer = service.ask(method.upper(), path, json=example)
                # Its places are outside the roots of this service, its job may be unknown.
                assert answer.status_code in (202, 403, 404), answer.text
    assert shown >= 5


def _schemas(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in schema.get("oneOf", schema.get("anyOf", [schema])):
        name = part["$ref"].rpartition("/")[2]
        yield document["components"]["schemas"][name]


@pytest.mark.timeout(180)
def test_no_request_that_the_document_allows_or_forbids_ends_in_a_5xx(
    service: Service, document: dict[str, Any]
) -> None:
    """Each operation gets requests that fit, and requests that don't."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    headers = {"Authorization": f"Bearer {service.token()}"}
    wanted = [CHECKS.get_one(name) for name in ("not_a_server_error", "status_code_conformance",
                                                "content_type_conformance")]  # fmt: skip
    tried: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        codes = tried.setdefault(operation.label, set())
        modes = (
            schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE,
        )  # fmt: skip
        for mode in modes:
            _try(operation, mode, headers, wanted, codes)
    assert len(tried) == len(list(operations(document)))
    assert any(200 in codes or 202 in codes for codes in tried.values())


def _try(operation: Any, mode: Any, headers: dict[str, str], wanted: Any, codes: set[int]) -> None:
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    def attempt(case: Any) -> None:
        answer = case.call(headers=headers)
        codes.add(answer.status_code)
        case.validate_response(answer, checks=wanted)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing could be wrong
        attempt()
