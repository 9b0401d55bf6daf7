"""All checks in the order in which they are told. Nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from pybak.doctor import (
    blocks,
    catalog,
    disk,
    environment,
    jobs,
    outbox,
    schedules,
    server,
    slots,
    workers,
)
from pybak.doctor.deployed import Deployment, read_deployments, timed
from pybak.doctor.finding import Finding, Findings
from pybak.errors import PyBakError
from pybak.home import catalog_url
from pybak.prefect_api import ApiError, PrefectApi
from pybak.prefect_server import START

_NO_SERVER: Final = (
    "no Prefect server is named or running here: runs by hand bring their own, schedules need one"
)


def examine(
    environ: Mapping[str, str],
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], object] = time.sleep,
    api: PrefectApi | None = None,
) -> Iterator[Finding]:
    """Yield what each check finds as soon as it is known.

    `api` is the server to ask, by default the one that the environment means.
    """
    yield from environment.check_environment(environ)
    deployments: list[Deployment] = []
    folders: dict[str, str] = {}
    try:
        api = api or PrefectApi.from_environment(environ)
        if api is None:
            found = Findings(server.SUBJECT)
            found.note(_NO_SERVER, "to have one", START)
            yield from found.found
        else:
            with api:
                yield from _of_server(api, environ, deployments, folders, now, sleep)
    except ApiError as error:
        found = Findings(server.SUBJECT)
        found.problem(str(error))
        yield from found.found
    yield from _of_this_machine(environ, deployments, folders, now())


def _of_server(
    api: PrefectApi,
    environ: Mapping[str, str],
    deployments: list[Deployment],
    folders: dict[str, str],
    now: Callable[[], datetime],
    sleep: Callable[[float], object],
) -> Iterator[Finding]:
    """Check what the server knows, and fill in `deployments` and `folders`. Raises ApiError."""
    yield from server.check_answer(api, version("prefect"))
    yield from environment.check_clock(api.server_time, now())
    deployments += [timed(api, one, now()) for one in read_deployments(api)]
    named = blocks.named_blocks(deployments, environ)
    yield from _checked(
        server.SUBJECT,
        lambda: server.check_settings(
            api,
            environ,
            has_limits=any(one.limit is not None for one in deployments),
            uses_blocks=bool(named),
        ),
    )
    if not deployments:
        found = Findings(schedules.SUBJECT)
        found.note(
            "no flow of PyBak is deployed, so nothing runs by itself",
            "deploy what should",
            "python deployments/deploy.py",
        )
        yield from found.found
        return

    def of_blocks() -> list[Finding]:
        folders.update(blocks.folder_blocks(api))
        return blocks.check_blocks(api, named)

    checks: dict[str, Callable[[], list[Finding]]] = {
        workers.SUBJECT: lambda: workers.check_workers(api, deployments, now()),
        slots.SUBJECT: lambda: slots.check_slots(api, deployments, sleep),
        schedules.SUBJECT: lambda: schedules.check_schedules(api, deployments, now()),
        blocks.SUBJECT: of_blocks,
    }
    for subject, check in checks.items():
        yield from _checked(subject, check)


def _checked(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Give what a check finds; one that fails is a finding too, and keeps no other from its turn.

    Raises ApiError if the server does not answer at all.
    """
    found = Findings(subject)
    try:
        return check()
    except PyBakError as error:
        if isinstance(error, ApiError) and error.status is None:
            raise
        found.problem(str(error))
    except Exception as error:  # a server or a disk as nobody has seen one
        found.problem(f"can't be checked ({type(error).__name__}: {error})", "report it")
    return found.found


def _of_this_machine(
    environ: Mapping[str, str],
    deployments: Sequence[Deployment],
    folders: Mapping[str, str],
    now: datetime,
) -> Iterator[Finding]:
    archives: list[disk.Newest] = []
    looked: list[Finding] = []
    with catalog.looked_at(looked, environ) as database:
        yield from looked
        if database is not None:
            url = catalog_url(environ)
            yield from _checked(catalog.SUBJECT, lambda: catalog.check_died(database, url, now))

            def of_jobs() -> list[Finding]:
                scheduled = jobs.scheduled_intervals(deployments)
                archives.extend(disk.newest_archives(database, folders))
                return jobs.check_jobs(jobs.read_jobs(database, now), scheduled, now)

            yield from _checked(jobs.SUBJECT, of_jobs)
    yield from _checked(
        disk.SUBJECT, lambda: disk.check_disk(environ, deployments, archives, folders)
    )
    yield from _checked(outbox.SUBJECT, lambda: outbox.check_outbox(environ, now))
