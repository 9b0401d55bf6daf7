"""Runs of the REST API as runs of Prefect's deployments: a `pybak.api.services.RunService`.

Everything goes over Prefect's REST API, so the service has no Prefect in it. A flow is started by
the deployment that has the job's name among its parameters, else by the one that the settings name
(`backup-on-request`), else by the flow's only one. What a request leaves out is as the deployment
has it, option by option.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from deployments.prefect_patience import PatientApi
from flows.support.resolved import resolved_tags
from pybak.api.services import ENDED, StartedRun
from pybak.errors import PlanError
from pybak.overview.facts import Schedule
from pybak.overview.schedules import job_of, read_schedules
from pybak.prefect_api import ApiError, PrefectApi, moment

FLOWS: Final = (
    "backup", "restore", "verify", "prune", "inbox", "mirror", "drill", "transfer", "rebuild",
)  # fmt: skip
"""Names of our flows: a server may run others, which are nobody's business here."""
LABEL: Final = "pybak.request"
TAG: Final = "api"
_JOB_FLOWS: Final = ("backup", "inbox", "mirror")
_SAME: Final = ("job", "source")
"""Parameters that make a deployment the one for a request."""
_AT_WORK: Final = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")
_BAD: Final = ("FAILED", "CRASHED")
_MOST_FAILED: Final = 50
_MOST: Final = 100
_PAGE: Final = 200
_LOOKUPS: Final = 50
_NEXT_SECONDS: Final = 30.0
_FLOWS_SECONDS: Final = 60.0
_REPORT: Final = "-report"
_RULE: Final = "keep_"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_REFUSED: Final = (400, 409, 422)
_MISSING: Final = 404


class PrefectRuns:
    """Starts, follows and stops flow runs."""

    def __init__(
        self,
        api: PrefectApi,
        *,
        deployment: str = "{flow}-on-request",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the server; `deployment` names those that do what no other does, by {flow}."""
        self._api = PatientApi(api)
        self._deployment = deployment
        self._now = now
        self._clock = clock
        self._flow_names: dict[str, str] = {}
        self._flows_due = 0.0
        self._schedules: dict[str, Schedule] = {}
        self._next_due = 0.0

    def start(
        self,
        kind: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> StartedRun:
        """Start a flow."""
        if idempotency_key is not None and (known := self._of_key(idempotency_key)) is not None:
            return known
        chosen, is_its_own = self._choose(kind, parameters)
        deployed = chosen["parameters"]
        if kind == "prune" and not is_its_own and deployed.get("job"):
            deployed = _without_rules(deployed)
        whole = _merged(deployed, parameters)
        # What the one for all others, or that of another job, has as its sources is its own.
        _check_whole(kind, whole, whole if is_its_own else parameters)
        body: dict[str, Any] = {
            "parameters": whole, "tags": [TAG, *resolved_tags(parameters)],
            "idempotency_key": idempotency_key or f"pybak-{uuid.uuid4()}",
        }  # fmt: skip
        if fingerprint is not None:
            body["labels"] = {LABEL: fingerprint}
        try:
            row = self._api.post(f"/deployments/{chosen['id']}/create_flow_run", body)
        except ApiError as error:
            if error.status in _REFUSED:
                raise PlanError(
                    f"deployment {kind}/{chosen['name']}: it does not take this; see its "
                    "parameters in Prefect"
                ) from error
            raise
        return _run(row, kind, deployment=f"{kind}/{chosen['name']}")

    def _of_key(self, key: str) -> StartedRun | None:
        """Give the run that a key started, of whatever flow: the server itself looks at one."""
        rows = self._runs({"idempotency_key": {"any_": [key]}}, FLOWS, "START_TIME_DESC", 1)
        return _run(rows[0], self._kinds().get(rows[0]["flow_id"], "")) if rows else None

    def _choose(self, kind: str, asked: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        """Give the deployment for a request, and whether it is that of the request's own job."""
        found = self._deployments([kind])
        for name in _SAME:
            for one in found:
                if asked.get(name) is not None and one["parameters"].get(name) == asked[name]:
                    return one, True
        for one in found:
            if one["name"] == self._common(kind):
                return one, False
        if len(found) == 1:
            return found[0], False
        raise PlanError(
            f"no deployment of the flow {kind} is for this; make one called {self._common(kind)}, "
            "or one with the same job (or source, for an inbox) among its parameters"
        )

    def _common(self, kind: str) -> str:
        """Give the name of the deployment that does what no other of a flow does."""
        return self._deployment.replace("{flow}", kind)

    def _deployments(self, kinds: Sequence[str]) -> list[Mapping[str, Any]]:
        body = {"flows": {"name": {"any_": list(kinds)}}, "sort": "NAME_ASC"}
        return list(self._api.pages("/deployments/filter", body))

    def find(self, flow_run_id: str) -> StartedRun | None:
        """Give one run of ours, with its report."""
        if not _UUID.fullmatch(flow_run_id):
            return None
        try:
            row = self._api.get(f"/flow_runs/{flow_run_id}")
        except ApiError as error:
            if error.status == _MISSING:
                return None
            raise
        kind = self._kinds().get(row["flow_id"])
        if kind is None:
            return None
        artifacts = self._artifacts([flow_run_id])
        report = next(
            (one["data"] for one in artifacts if (one["key"] or "").endswith(_REPORT)), None
        )
        return _run(row, kind, artifacts=artifacts, report=report)

    def active(self) -> Sequence[StartedRun]:
        """List what is at work, and what is due and waits for a worker."""
        at_work = self._runs(
            {"state": {"type": {"any_": list(_AT_WORK)}}}, FLOWS, "EXPECTED_START_TIME_DESC"
        )
        due = self._runs(
            {
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"before_": self._now().isoformat()},
            },
            FLOWS, "EXPECTED_START_TIME_DESC",
        )  # fmt: skip
        rows = [*at_work, *due][:_MOST]
        artifacts = self._artifacts([row["id"] for row in at_work])
        kinds = self._kinds()
        return [_run(row, kinds.get(row["flow_id"], ""), artifacts=artifacts) for row in rows]

    def failed(self, since: datetime) -> Sequence[StartedRun]:
        """List the newest runs that ended badly since then, the last one first."""
        rows = self._runs(
            {
                "state": {"type": {"any_": list(_BAD)}},
                "end_time": {"after_": since.isoformat()},
            },
            FLOWS, "END_TIME_DESC", _MOST_FAILED,
        )  # fmt: skip
        kinds = self._kinds()
        return [_run(row, kinds.get(row["flow_id"], "")) for row in rows]

    def schedules(self) -> Mapping[str, Schedule]:
        """Give the schedule of each job, as `pybak status` knows it; half a minute old at most."""
        if self._clock() >= self._next_due:
            known = read_schedules(self._api, self._now)
            # Where short schedules leave no room for long ones there are more.
            for job, when in self._look_ahead().items():
                known.setdefault(job, Schedule(next_run=when))
            self._schedules = known
            self._next_due = self._clock() + _NEXT_SECONDS
        return self._schedules

    def _look_ahead(self) -> dict[str, datetime]:
        wanted: dict[str, Any] = {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"after_": self._now().isoformat()},
        }
        rows = self._runs(wanted, _JOB_FLOWS, "EXPECTED_START_TIME_ASC", _PAGE)
        if len(rows) == _PAGE:  # short schedules leave no room for long ones
            seen = {row["deployment_id"] for row in rows}
            others = [one for one in self._deployments(_JOB_FLOWS) if not one["paused"]]
            for one in [one for one in others if one["id"] not in seen][:_LOOKUPS]:
                only = {**wanted, "deployment_id": {"any_": [one["id"]]}}
                rows += self._runs(only, _JOB_FLOWS, "EXPECTED_START_TIME_ASC", 1)
        found: dict[str, datetime] = {}
        for row in rows:
            job, when = job_of(row["parameters"]), moment(row["expected_start_time"])
            if job is not None and when is not None:
                found[job] = min(when, found.get(job, when))
        return found

    def cancel(self, flow_run_id: str) -> StartedRun | None:
        """Ask a run to stop."""
        if self.find(flow_run_id) is None:
            return None
        state = {
            "type": "CANCELLING", "name": "Cancelling",
            "message": "Cancelled through PyBak's REST API.",
        }  # fmt: skip
        self._api.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state})
        return self.find(flow_run_id)

    def recent(self) -> list[str]:
        """Give the ids of the runs that began last, the newest first."""
        rows = self._runs({"start_time": {"is_null_": False}}, FLOWS, "START_TIME_DESC")
        return [row["id"] for row in rows]

    def _runs(
        self, wanted: Mapping[str, Any], flows: Iterable[str], sort: str, limit: int = _MOST
    ) -> list[Mapping[str, Any]]:
        body = {
            "flow_runs": wanted, "flows": {"name": {"any_": list(flows)}},
            "sort": sort, "limit": limit,
        }  # fmt: skip
        return list(self._api.post("/flow_runs/filter", body))

    def _kinds(self) -> Mapping[str, str]:
        """Give the names of our flows by their id."""
        if not self._flow_names or self._clock() >= self._flows_due:
            rows = self._api.post("/flows/filter", {"flows": {"name": {"any_": list(FLOWS)}}})
            self._flow_names = {row["id"]: row["name"] for row in rows}
            self._flows_due = self._clock() + _FLOWS_SECONDS
        return self._flow_names

    def _artifacts(self, flow_runs: Sequence[str]) -> list[Mapping[str, Any]]:
        """List reports and progress of runs, the newest first."""
        if not flow_runs:
            return []
        body = {
            "artifacts": {
                "flow_run_id": {"any_": list(flow_runs)},
                "type": {"any_": ["markdown", "progress"]},
            },
            "sort": "UPDATED_DESC", "limit": _PAGE,
        }  # fmt: skip
        return list(self._api.post("/artifacts/filter", body))


def _merged(deployed: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters of a deployment with what is asked for instead, option by option."""
    whole = {**deployed, **asked}
    if asked.get("to"):  # the other way to say where an archive goes
        whole.pop("output", None)
    options = {**(deployed.get("options") or {}), **(asked.get("options") or {})}
    return {**whole, "options": options}


def _without_rules(deployed: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters of a prune without what it keeps: those rules are for its job alone."""
    options = (deployed.get("options") or {}).items()
    kept = {name: value for name, value in options if not name.startswith(_RULE)}
    return {**deployed, "options": kept}


def _check_whole(kind: str, parameters: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise PlanError where a flow would have to guess: its own folder would be taken."""
    if kind == "backup" and not own.get("sources"):
        raise PlanError("no deployment says what to back up; name sources")
    if kind == "backup" and not (parameters.get("to") or parameters.get("output")):
        raise PlanError("no deployment says where the archive goes; name it with to")
    if kind == "inbox" and not parameters.get("destination"):
        raise PlanError("no deployment says where files go; name it with destination")
    if kind == "prune" and not any(
        name.startswith(_RULE) and value for name, value in parameters["options"].items()
    ):
        raise PlanError(
            "no deployment says what to keep of this; name it with options, such as keep_last"
        )


def _run(
    row: Mapping[str, Any],
    kind: str,
    *,
    deployment: str | None = None,
    artifacts: Sequence[Mapping[str, Any]] = (),
    report: Any = None,
) -> StartedRun:
    state = row.get("state") or {}
    progress = next(
        (one for one in artifacts if one["type"] == "progress" and one["flow_run_id"] == row["id"]),
        None,
    )
    kind_of_state = (row.get("state_type") or state.get("type") or "scheduled").lower()
    is_at_work = kind_of_state not in ENDED
    return StartedRun(
        flow_run_id=row["id"],
        kind=kind,
        job=job_of(row.get("parameters") or {}),
        state=kind_of_state,
        state_name=row.get("state_name") or state.get("name") or "Scheduled",
        message=state.get("message"),
        percent=None if progress is None or not is_at_work else float(progress["data"]),
        phase=None if progress is None or not is_at_work else progress["description"],
        deployment=deployment,
        created_at=moment(row.get("created")),
        started_at=moment(row.get("start_time")),
        finished_at=moment(row.get("end_time")),
        report=report if isinstance(report, str) else None,
        fingerprint=(row.get("labels") or {}).get(LABEL),
    )
