"""Compress and send a stretch of batches on a host that does not see the run's folder."""

from __future__ import annotations

from prefect import task

from pybak.backup.parcels import compress_parcel
from tasks._password import password_for
from tasks._settings import PLAIN


@task(task_run_name="compress-{name}", **PLAIN)
def compress_far(parcel: bytes, name: str, password_block: str | None = None) -> bytes:  # noqa: ARG001 - names the task run
    """Compress what the parcel asks for and send it to the storage; give the record of it."""
    return compress_parcel(parcel, password=password_for(password_block), is_wanted=_is_wanted)


def _is_wanted() -> bool:
    """Whether this Dask worker is one still: one that lost its scheduler works on for nobody."""
    from distributed import Status, get_worker

    try:
        status = get_worker().status
    except ValueError:  # in the run's own process
        return True
    return status not in (Status.closing, Status.closed, Status.failed)
