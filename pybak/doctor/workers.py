"""Who starts the runs: workers of work pools, and processes that serve without one."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pybak.doctor.deployed import Deployment
from pybak.doctor.finding import Finding, Findings, ago
from pybak.prefect_api import ApiError, PrefectApi, moment

SUBJECT: Final = "worker"
_MISSING: Final = 404
_ONLINE: Final = "ONLINE"
# A serving process asks every ten seconds.
_SERVED: Final = timedelta(seconds=90)
_SHOWN: Final = 3
_OURS: Final = "backup"
"""The work pool of PyBak's own deployments."""


def check_workers(
    api: PrefectApi, deployments: Sequence[Deployment], now: datetime
) -> list[Finding]:
    """Look whether somebody is there to start each deployment's runs. Raises ApiError."""
    found = Findings(SUBJECT)
    by_pool: defaultdict[str, list[Deployment]] = defaultdict(list)
    for one in deployments:
        if one.pool:
            by_pool[one.pool].append(one)
        else:
            _served(found, one, now)
    for pool, users in sorted(by_pool.items()):
        _pool(found, api, pool, users, now)
    return found.found


def _served(found: Findings, one: Deployment, now: datetime) -> None:
    since = None if one.last_polled is None else now - one.last_polled
    if since is not None and since < _SERVED:
        found.ok(f"{one.name}: a process serves it, and asked {ago(since)} ago")
        return
    last = "no process serves it" if since is None else f"nobody has served it for {ago(since)}"
    advice = "start what served it again, such as deployments/serve.py"
    if one.runs_by_itself:
        found.problem(f"{one.name}: {last}, so it does not run", advice)
    else:
        found.note(f"{one.name}: {last}", advice)


def _pool(
    found: Findings, api: PrefectApi, pool: str, users: Sequence[Deployment], now: datetime
) -> None:
    word = shlex.quote(pool)
    path = f"/work_pools/{pool}"
    try:
        about = api.get(path)
    except ApiError as error:
        if error.status != _MISSING:
            raise
        found.problem(
            f"work pool {pool} does not exist, but {_names(users)} {_verb(users, 'need')} it",
            "make it",
            f"prefect work-pool create {word} --type process",
        )
        return
    if about["is_paused"]:
        found.problem(
            f"work pool {pool} is paused, so {_names(users)} {_verb(users, 'do')} not run",
            "let it go on",
            f"prefect work-pool resume {word}",
        )
    _queues(found, api, pool, users)
    workers = list(api.pages(f"{path}/workers/filter"))
    workers.sort(key=lambda one: one["last_heartbeat_time"], reverse=True)
    alive = [one for one in workers if one["status"] == _ONLINE]
    if alive:
        names = ", ".join(one["name"] for one in alive[:_SHOWN])
        more = f" and {len(alive) - _SHOWN} more" if len(alive) > _SHOWN else ""
        found.ok(f"work pool {pool}: {names}{more} at work, heard {_heard(alive[0], now)} ago")
        return
    last = f", the last one ({workers[0]['name']}) {_heard(workers[0], now)} ago" if workers else ""
    text = f"work pool {pool} has no worker{last}"
    own = "python deployments/start.py worker"
    advice = ("start one", own if pool == _OURS else f"prefect worker start --pool {word}")
    waiting = [one for one in users if one.runs_by_itself]
    if waiting:
        found.problem(f"{text}, so {_names(waiting)} {_verb(waiting, 'do')} not run", *advice)
    else:
        found.note(text, *advice)


def _queues(found: Findings, api: PrefectApi, pool: str, users: Sequence[Deployment]) -> None:
    used = {one.queue for one in users}
    for queue in api.pages(f"/work_pools/{pool}/queues/filter"):
        if queue["is_paused"] and queue["name"] in used:
            name = shlex.quote(queue["name"])
            found.problem(
                f"queue {queue['name']} of work pool {pool} is paused, so nothing in it runs",
                "let it go on",
                f"prefect work-queue resume {name} --pool {shlex.quote(pool)}",
            )


def _heard(worker: Mapping[str, Any], now: datetime) -> str:
    heard = moment(worker["last_heartbeat_time"])
    return "?" if heard is None else ago(now - heard)


def _names(users: Sequence[Deployment]) -> str:
    names = ", ".join(one.name for one in users[:_SHOWN])
    return names + (f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else "")


def _verb(users: Sequence[Deployment], verb: str) -> str:
    if len(users) > 1:
        return verb
    return "does" if verb == "do" else f"{verb}s"
