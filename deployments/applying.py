"""Make a Prefect server have the work pool and the deployments of prefect.yaml, and nothing twice.

Each deployment is made or changed by one request (schedules that are gone by further ones), so a
run that is cut off leaves whole ones, and the next run does the rest. What is on the server
already, and as it should be, is left alone: a changed deployment loses the runs that are scheduled,
for some seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pybak.errors import PlanError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

    from deployments.definitions import Definition

Outcome = Literal["made", "changed", "unchanged"]


class Applied(NamedTuple):
    """What became of one deployment."""

    outcome: Outcome
    paused: bool
    changed: list[str]
    """The fields that were not as they should be."""


def ensure_pool(client: SyncPrefectClient, name: str, kind: str) -> tuple[Outcome, str]:
    """Make a work pool unless one of that name is there, of whatever type; give its type too."""
    import asyncio

    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    try:
        return "unchanged", client.read_work_pool(name).type
    except ObjectNotFound:
        pass
    template = asyncio.run(get_default_base_job_template_for_infrastructure_type(kind)) or {}
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
    except ObjectAlreadyExists:  # someone else was quicker
        return "unchanged", client.read_work_pool(name).type
    return "made", kind


def apply(client: SyncPrefectClient, wanted: Definition, *, started: bool = False) -> Applied:
    """Make or change one deployment.

    A new one begins paused if the file says so or if what it reads is missing, unless it is to be
    `started`. One that is there keeps its switch, which people use, unless it is to be started.
    Raises PlanError if the server refuses it, or the flow its parameters.
    """
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    wanted.check_parameters()
    fields = _fields(wanted)
    try:
        there = client.read_deployment_by_name(wanted.full_name)
    except ObjectNotFound:
        there = None
    try:
        if there is None:
            paused = not started and (wanted.paused or bool(wanted.missing))
            flow_id = client.create_flow_from_name(wanted.flow_name)
            client.create_deployment(flow_id=flow_id, name=wanted.name, paused=paused, **fields)
            return Applied("made", paused, [])
        changed = [key for key, value in _comparable(fields).items() if _seen(there)[key] != value]
        if changed:
            # By their slugs, schedules are changed or added, never taken away.
            plain = [one.model_dump(mode="json") for one in fields["schedules"]]
            client.update_deployment(
                there.id, DeploymentUpdate.model_validate({**fields, "schedules": plain})
            )
            slugs = {timing.slug for timing in wanted.schedules}
            for old in there.schedules:
                if old.slug not in slugs:
                    client.delete_deployment_schedule(there.id, old.id)
        if started and there.paused:
            client.resume_deployment(there.id)
            changed.append("paused")
    except PrefectHTTPStatusError as error:
        raise PlanError(f"{wanted.full_name}: the server refuses it: {_detail(error)}") from error
    paused = there.paused and not started
    return Applied("changed" if changed else "unchanged", paused, changed)


def _fields(wanted: Definition) -> dict[str, Any]:
    from prefect.client.schemas.objects import ConcurrencyOptions
    from prefect.utilities.callables import parameter_schema

    limit = wanted.concurrency_limit
    return {
        "entrypoint": wanted.entrypoint,
        "path": None,
        "pull_steps": [],
        "description": wanted.description,
        "tags": wanted.tags,
        "parameters": wanted.parameters,
        "enforce_parameter_schema": True,
        "parameter_openapi_schema": parameter_schema(wanted.flow).model_dump(
            mode="json", exclude_unset=True
        ),
        "schedules": [timing.schedule() for timing in wanted.schedules],
        "concurrency_limit": limit.limit,
        "concurrency_options": ConcurrencyOptions.model_validate(
            limit.model_dump(exclude={"limit"})
        ),
        "work_pool_name": wanted.work_pool.name,
        "job_variables": wanted.work_pool.job_variables,
    }


def _comparable(fields: dict[str, Any]) -> dict[str, Any]:
    """Give the fields as `_seen` gives what the server has."""
    return {
        **fields,
        "schedules": _plain(fields["schedules"]),
        "concurrency_options": fields["concurrency_options"].model_dump(mode="json"),
    }


def _seen(there: DeploymentResponse) -> dict[str, Any]:
    limit = there.global_concurrency_limit
    options = there.concurrency_options
    return {
        "entrypoint": there.entrypoint,
        "path": there.path,
        "pull_steps": there.pull_steps or [],
        "description": there.description,
        "tags": there.tags,
        "parameters": there.parameters,
        "enforce_parameter_schema": there.enforce_parameter_schema,
        "parameter_openapi_schema": there.parameter_openapi_schema,
        "schedules": _plain(there.schedules),
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json") if options else None,
        "work_pool_name": there.work_pool_name,
        "job_variables": there.job_variables,
    }


def _plain(schedules: list[Any]) -> list[Any]:
    """Give schedules as plain values, by their slugs; a time zone that is unset is UTC."""
    plain = [
        one.model_dump(mode="json", include={"schedule", "slug", "active"}) for one in schedules
    ]
    for one in plain:
        one["schedule"]["timezone"] = one["schedule"].get("timezone") or "UTC"
    return sorted(plain, key=lambda one: str(one["slug"]))


def _detail(error: Any) -> str:
    try:
        said = error.response.json().get("detail") or error
    except (ValueError, AttributeError):
        said = error
    return " ".join(str(said).split())
