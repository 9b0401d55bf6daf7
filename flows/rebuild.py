"""Make the catalog anew from the archives.

    python flows/rebuild.py /mnt/backups

A Prefect flow and a command, like `flows/backup.py`.
"""

# Annotations stay objects here: `serve` pickles a flow's function by value, without the names that
# only its annotations use.
if __name__ == "__main__":
    import signal

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command listens, Ctrl-C ends it
    from flows.support.commands import rebuild_command
    from flows.support.session import leave

    leave(rebuild_command())

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.support.concluded import concluded
from flows.support.interrupt import stop_on_signal
from flows.support.screen import Screen
from pybak.home import catalog_url
from pybak.options.rebuild import RebuildOptions
from pybak.portable import from_portable
from pybak.rebuild.order import Step
from pybak.rebuild.run import RebuildRun
from pybak.report import Report
from pybak.volumes.model import Volume
from tasks.hash_volumes import hash_volumes
from tasks.read_manifests import read_manifests
from tasks.write_catalog import write_catalog

ARTIFACT_KEY = "rebuild-report"
READING = "reading file lists"
HASHING = "reading archives"
WRITING = "writing the catalog"


def _run_name() -> str:
    return ", ".join(flow_run.parameters.get("destinations") or ["nothing"])


@flow(
    name="rebuild",
    description="Make the catalog anew from the archives that it is about.",
    flow_run_name=_run_name,
    persist_result=False,
)
def rebuild(
    destinations: list[str],
    options: RebuildOptions = RebuildOptions(),  # noqa: B008 - Prefect shows it as the default
) -> State[Any]:
    """Make the catalog anew from the archives that it is about.

    Args:
        destinations: Folders that hold archives, or single archives: paths or addresses.
        options: How it is done.

    """
    return concluded(
        "rebuild", ARTIFACT_KEY, options, ", ".join(destinations),
        lambda: _run(destinations, options),
    )  # fmt: skip


def _run(destinations: list[str], options: RebuildOptions) -> Report:
    screen = Screen.current()
    with (
        RebuildRun(
            [from_portable(name) for name in destinations], options, catalog_url=catalog_url()
        ) as run,
        stop_on_signal(run.request_cancel),
    ):
        return _rebuild(run, screen)


def _rebuild(run: RebuildRun, screen: Screen) -> Report:
    warned: set[str] = set()

    def read() -> list[Step]:
        screen.phase(READING)
        steps = read_manifests(run)
        for job in run.dropped:
            if job.job not in warned:
                screen.warn(f"{job}")
            warned.add(job.job)
        return steps

    def describe(steps: list[Step]) -> dict[bytes, Volume]:
        screen.working(HASHING, run.staging, files=run.files(steps), size_bytes=run.size(steps))
        return hash_volumes(run, steps)

    if run.options.dry_run:
        return run.report(read(), {})
    with run.settled(read, describe, screen.waiting) as (steps, volumes):
        screen.phase(WRITING)
        write_catalog(run, steps, volumes, screen.waiting)
    return run.report(steps, volumes)
