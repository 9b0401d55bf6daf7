"""All notices of a run, sent side by side within a bound.

Whoever runs this loads the blocks; here come their settings, or the reason why there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from pybak.display import escape
from pybak.errors import PyBakError
from pybak.notify import http
from pybak.notify.bounded import Job, side_by_side
from pybak.notify.compare import Before, run_before
from pybak.notify.deliver import MAIL_SECONDS, Delivery
from pybak.notify.ending import Ending
from pybak.notify.failures import NoticeError
from pybak.notify.http import HttpSettings
from pybak.notify.letter import Letter
from pybak.notify.message import NAMED, write_mail
from pybak.notify.outbox import Outbox
from pybak.notify.past import PastFile
from pybak.notify.patience import FIRST_WAIT_SECONDS, patiently
from pybak.notify.payload import payload
from pybak.notify.ping import PING_SECONDS, PingSettings, ping_end
from pybak.notify.rest import leave_report
from pybak.notify.rules import Decision, decide
from pybak.notify.smtp import MailSettings
from pybak.notify.wanted import Notices
from pybak.report import CANCELLED, FAILED
from pybak.units import format_count

COMPARE_SECONDS: Final = 5.0
"""How long a catalog may take for the run before; a mail without a comparison will do."""
WEBHOOK_SECONDS: Final = 20.0
_WEBHOOK_ATTEMPTS: Final = 3
_WEBHOOK_TRYING_SECONDS: Final = 12.0
QUIET_PAUSE: Final = timedelta(minutes=10)
"""How long a run that has no mail of its own leaves those alone that could not be sent before."""


@dataclass
class Teller:
    """Tells of one run. `home` is PYBAK_HOME; blocks are loaded in threads of their own.

    `stopped` soon ends the waiting: what is not sent by then, is kept or left.
    """

    notices: Notices
    ending: Ending
    home: Path
    catalog_url: str
    load_mail: Callable[[str], MailSettings]
    load_webhook: Callable[[str], HttpSettings]
    load_ping: Callable[[str], PingSettings]
    stopped: Callable[[], bool] = lambda: False
    first_wait: float = FIRST_WAIT_SECONDS
    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def tell(self) -> None:
        """Send all that is due. `warnings` says what failed, `told` what was sent; never raises."""
        jobs: list[tuple[str, Job, Callable[[], str]]] = []
        for begin in (self._ping, self._webhook, self._mail):
            try:
                begun = begin()
            except Exception as error:  # telling must not change how a run ends
                self.warnings.append(_line(error))
                continue
            if begun is not None:
                jobs.append(begun)
        side_by_side([job for _, job, _ in jobs], stopped=self.stopped)
        for name, job, done in jobs:
            if job.is_late:
                why = "was told to stop" if self.stopped() else "took too long"
                self.warnings.append(f"{name}: {why}; {done()}")
            elif job.error is not None:
                self.warnings.append(f"{name}: {_line(job.error)}; {done()}")
            else:
                self.told.append(name)

    def _ping(self) -> tuple[str, Job, Callable[[], str]] | None:
        name = self.notices.ping
        if name is None:
            return None

        def do() -> None:
            ping_end(self.load_ping(name), self.ending, first_wait=self.first_wait)

        return f"ping {name}", Job(do, PING_SECONDS), lambda: "it was not told"

    def _webhook(self) -> tuple[str, Job, Callable[[], str]] | None:
        name = self.notices.webhook
        if name is None:
            return None
        body = payload(self.ending)

        def do() -> None:
            settings = self.load_webhook(name)
            patiently(
                lambda: http.send(settings, body, content_type="application/json", method="POST"),
                attempts=_WEBHOOK_ATTEMPTS, seconds=_WEBHOOK_TRYING_SECONDS,
                first_wait=self.first_wait,
            )  # fmt: skip

        return f"webhook {name}", Job(do, WEBHOOK_SECONDS), lambda: "it was not told"

    def _mail(self) -> tuple[str, Job, Callable[[], str]] | None:
        name, now = self.notices.mail, self.ending.ended_at
        if name is None:
            return None
        outbox = Outbox(self.home / "outbox")
        if dropped := outbox.tidy(now):
            many = format_count(dropped, "mail")
            self.warnings.append(f"mail {name}: {many} of earlier runs could not be sent for long")
        memory = PastFile(self.home / "notices", self.ending.kind, self.ending.what)
        before = memory.read()
        decision = decide(self.notices.mail_when, self.ending, before)
        letter = self._write(name, decision) if decision.is_due else None
        is_kept = letter is not None and self._keep(letter, outbox)
        after = decision.past if is_kept else decision.unsent
        if after != before:
            try:
                memory.write(after)
            except OSError as error:
                self.warnings.append(f"mail {name}: what it told can't be kept: {_line(error)}")
        if letter is None and not outbox.is_due(name, now, QUIET_PAUSE):
            return None
        loose = () if letter is None or is_kept else (letter,)
        sent: list[str] = []
        aside: list[str] = []

        def do() -> None:
            outbox.trying(name)
            settings = self.load_mail(name)
            delivery = Delivery(
                settings, outbox, name, loose, first_wait=self.first_wait, sent=sent, aside=aside
            )
            if letter is None:
                delivery.attempts = 1  # nothing new: the next run does as well
            delivery.run()
            if loose:
                memory.write(decision.past)
            if delivery.refused:
                who = ", ".join(sorted(delivery.refused))
                raise NoticeError(f"{settings.place}: refused {who}, took the others")

        def rest() -> str:
            if letter is not None and letter.id in aside:
                return "it is tried again in a day"
            is_sent = bool(sent) if letter is None else letter.id in sent
            return "all else is sent" if is_sent else _kept(letter, is_kept=is_kept)

        return f"mail {name}", Job(do, MAIL_SECONDS), rest

    def _keep(self, letter: Letter, outbox: Outbox) -> bool:
        try:
            outbox.put(letter, self.ending.ended_at)
        except OSError as error:
            self.warnings.append(f"mail {letter.block}: can't be kept: {_line(error)}")
            return False
        return True

    def _write(self, block: str, decision: Decision) -> Letter:
        ending = self.ending
        rest = None
        if any(max(n, len(known)) > NAMED for _, n, known in ending.report.parts().lists):
            name = ending.run_id or f"{ending.kind}-{ending.ended_at:%Y%m%d-%H%M%S}"
            rest = leave_report(self.home / "reports", name, ending.report.to_json())
        written = write_mail(
            ending, decision=decision, rest=str(rest) if rest else None, before=self._before()
        )
        return Letter.write(
            block, subject=written.subject, text=written.text, html=written.html,
            status=ending.status, now=ending.ended_at,
        )  # fmt: skip

    def _before(self) -> Before | None:
        """Give the run before this one, unless the catalog is slow; then nobody is kept waiting."""
        found: list[Before | None] = []
        report, run_id = self.ending.report, self.ending.run_id
        job = Job(
            lambda: found.append(run_before(report, run_id, self.catalog_url)), COMPARE_SECONDS
        )
        if run_id is not None and report.status not in (FAILED, CANCELLED):
            side_by_side([job], stopped=self.stopped)
        return found[0] if found else None


def _kept(letter: Letter | None, *, is_kept: bool) -> str:
    if letter is None:
        return "older mails wait on"
    return "it waits for the next run" if is_kept else "it is lost"


def _line(error: BaseException) -> str:
    """Give an error in one line; of those that are not ours only the kind."""
    if isinstance(error, PyBakError):
        return escape(str(error))
    if isinstance(error, OSError) and error.strerror:
        return escape(error.strerror)
    return type(error).__name__
