"""Tell of a run by the blocks that its options name; for the task, and for runs without news."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prefect.context import SettingsContext

from pybak.errors import PyBakError, StorageError
from pybak.home import catalog_url, home
from pybak.notify.bounded import Job, side_by_side
from pybak.notify.ending import Ending
from pybak.notify.wanted import Notices

if TYPE_CHECKING:
    from pybak.notify.http import HttpSettings
    from pybak.notify.ping import PingSettings
    from pybak.notify.smtp import MailSettings

_T = TypeVar("_T")

LOOKING_SECONDS: Final = 10.0
"""How long Prefect's server may take to say whether the blocks exist."""


def tell(
    notices: Notices, ending: Ending, stopped: Callable[[], bool] = lambda: False
) -> tuple[str, ...]:
    """Send what is due; give what went wrong, in lines for people. Never raises."""
    from pybak.notify.notices import Teller

    teller = Teller(
        notices, ending, home=home(), catalog_url=catalog_url(), load_mail=_aside(load_mail),
        load_webhook=_aside(load_webhook), load_ping=_aside(load_ping), stopped=stopped,
    )  # fmt: skip
    teller.tell()
    return tuple(teller.warnings)


def load_mail(name: str) -> MailSettings:
    """Load a mail server's block; the types are imported when one is wanted."""
    from blocks.mail_server import load_mail_server

    return load_mail_server(name)


def load_webhook(name: str) -> HttpSettings:
    """Load a webhook's block."""
    from blocks.webhook import load_webhook as load

    return load(name)


def load_ping(name: str) -> PingSettings:
    """Load a ping's block."""
    from blocks.ping import load_ping as load

    return load(name)


def _aside(load: Callable[[str], _T]) -> Callable[[str], _T]:
    """Have `load` called by other threads with this one's settings of Prefect.

    Its client stays here: it is not made for threads, and must not be closed by one left behind.
    """
    given: Any = SettingsContext.get()

    def loaded(name: str) -> _T:
        with SettingsContext(profile=given.profile, settings=given.settings):
            return load(name)

    return loaded


def check_blocks(notices: Notices, stopped: Callable[[], bool] = lambda: False) -> None:
    """Look for the blocks. Raises PlanError for one that does not exist, or is of another type.

    Raises StorageError where Prefect's server can't be asked.
    """
    wanted: list[tuple[str | None, Callable[[str], object]]] = [
        (notices.mail, _aside(load_mail)), (notices.webhook, _aside(load_webhook)),
        (notices.ping, _aside(load_ping)),
    ]  # fmt: skip
    jobs = [Job(partial(load, name), LOOKING_SECONDS) for name, load in wanted if name is not None]
    side_by_side(jobs, stopped=stopped)
    for job in jobs:
        if job.error is not None:
            raise job.error
        if job.is_late and not stopped():
            raise StorageError("Prefect's server did not say in time whether the blocks exist")


class Started:
    """The ping at a run's start, on its way beside the work."""

    def __init__(self, name: str | None, job: Job | None) -> None:
        self._name, self._job = name, job

    def finish(self, stopped: Callable[[], bool]) -> str | None:
        """See to it that it arrives before the one at the end; give what went wrong."""
        if self._job is None:
            return None
        until = time.monotonic() + self._job.seconds
        while not self._job.is_done and not stopped() and (left := until - time.monotonic()) > 0:
            self._job.wait(left)
        if not self._job.is_done:
            return f"ping {self._name}: the start could not be told in time"
        if self._job.error is not None:
            return f"ping {self._name}: {self._job.error}; the start was not told"
        return None


def start(name: str | None, what: str) -> Started:
    """Have the ping `name`, if any, told that `what` begins, without waiting for it."""
    if name is None:
        return Started(None, None)
    from pybak.notify.ping import START_SECONDS, ping_start

    load = _aside(load_ping)

    def do() -> None:
        try:
            settings = load(name)
        except PyBakError:
            return  # told at the end, once
        ping_start(settings, what)

    job = Job(do, START_SECONDS)
    job.start()
    return Started(name, job)
